//! What a container's processes have open.

use std::fs;

use rustix::process::Pid;

/// Descriptors after which counting stops: the figures are then too low.
const MAX_DESCRIPTORS: u64 = 65_536;

/// How much is open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Open {
    /// Descriptors of any kind.
    pub(super) descriptors: u64,
    /// Those that are sockets.
    pub(super) sockets: u64,
}

/// Counts what these processes have open. One that has ended meanwhile has nothing.
pub(super) fn of(pids: &[Pid]) -> Open {
    let mut open = Open::default();
    for pid in pids {
        let Ok(entries) = fs::read_dir(format!("/proc/{}/fd", pid.as_raw_nonzero())) else {
            continue;
        };
        for entry in entries.flatten() {
            if open.descriptors >= MAX_DESCRIPTORS {
                return open;
            }
            open.descriptors += 1;
            let is_socket = fs::read_link(entry.path())
                .is_ok_and(|link| link.as_os_str().as_encoded_bytes().starts_with(b"socket:"));
            open.sockets += u64::from(is_socket);
        }
    }
    open
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_are_descriptors_too() {
        let me = rustix::process::getpid();
        let before = of(&[me]);
        let _pair = std::os::unix::net::UnixStream::pair().unwrap();
        let after = of(&[me]);
        // Other tests open and close in this process, too.
        assert!(before.descriptors >= 3);
        assert!(after.sockets >= 2 && after.descriptors >= after.sockets);
        assert_eq!(of(&[]), Open::default());
    }
}
