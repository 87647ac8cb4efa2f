//! Where a pod's files are: the one place that knows.
//!
//! ```text
//! /run/bulkhead/pods/<pod id>/       root, 0711
//!   cgroup                           the pod's cgroup; written before it is made
//!   state.json                       disks and containers, for an adopting daemon
//!   control.sock handover.sock       the VMM's sockets: made here, inherited by
//!   vsock.sock                       the VMM as listening descriptors
//!   vmm.log                          the VMM's stdout and stderr
//!   logs/<container id>              where the container's log stands
//!   agent.log                        a host pod: its agent's stdout and stderr
//!   agent/                           its agent's sockets and files
//!     blobs/<serial>                 links to the layers it is to mount
//!   vm/                              the VMM's new root, owned by the pod's uid
//!     vsock.sock_2048                the daemon listens: the guest is ready
//!     exit.json                      why the VMM ended
//! ```
//!
//! A VMM that has been taken over owns `vm/` and may put anything there, so the
//! daemon opens nothing in it by a name that it would follow, and makes the
//! sockets it connects to one level up, out of the VMM's reach.

use std::path::{Path, PathBuf};

use crate::error::{Error, ErrorKind, Result};

/// Name of the socket prefix for connections that the guest makes, in `vm/`.
pub const VSOCK_PREFIX: &str = "vsock.sock";

/// The paths of one pod.
#[derive(Clone, Debug)]
pub struct PodPaths {
    dir: PathBuf,
}

impl PodPaths {
    /// The paths of `pod_id` beneath `run_dir`.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] when the id is not fit for a file name.
    pub fn new(run_dir: &Path, pod_id: &str) -> Result<Self> {
        check_id("pod id", pod_id)?;
        Ok(Self {
            dir: run_dir.join(pod_id),
        })
    }

    /// The pod's run directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The VMM's new root.
    #[must_use]
    pub fn vm(&self) -> PathBuf {
        self.dir.join("vm")
    }

    /// The directory of a host pod's agent.
    #[must_use]
    pub fn agent(&self) -> PathBuf {
        self.dir.join("agent")
    }

    /// A host pod's agent's own output.
    #[must_use]
    pub fn agent_log(&self) -> PathBuf {
        self.dir.join("agent.log")
    }

    /// Names the pod's cgroup.
    #[must_use]
    pub fn cgroup(&self) -> PathBuf {
        self.dir.join("cgroup")
    }

    /// Disks and containers.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.dir.join("state.json")
    }

    /// The VMM's own output.
    #[must_use]
    pub fn vmm_log(&self) -> PathBuf {
        self.dir.join("vmm.log")
    }

    /// Checkpoints of the containers' logs.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.dir.join("logs")
    }

    /// Checkpoint of one container's log.
    #[must_use]
    pub fn log_checkpoint(&self, container_id: &str) -> PathBuf {
        self.logs().join(container_id)
    }
}

/// Checks that an id can be a file name, a cgroup name and an agent's id: 1 to
/// 128 letters, digits, `-`, `_` and `.`, not beginning with a dot.
///
/// # Errors
/// [`ErrorKind::InvalidArgument`].
pub fn check_id(what: &str, id: &str) -> Result<()> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    if id.is_empty()
        || id.len() > bulkhead_agent_api::MAX_ID_LEN
        || id.starts_with('.')
        || !id.bytes().all(plain)
    {
        let shown: String = id.chars().take(80).collect();
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("{what} {shown:?} is not 1 to 128 letters, digits, '-', '_' or '.'"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_would_leave_the_directory_are_refused() {
        for bad in ["", ".", "..", "a/b", "../x", "a\0b", "é", &"a".repeat(129)] {
            assert!(check_id("pod id", bad).is_err(), "{bad:?}");
        }
        for good in ["a", "0123abcd", "web-1_x.y", &"f".repeat(128)] {
            assert!(check_id("pod id", good).is_ok(), "{good:?}");
        }
    }

    #[test]
    fn the_longest_socket_path_of_an_installed_daemon_fits_sun_path() {
        let paths = PodPaths::new(Path::new("/run/bulkhead/pods"), &"a".repeat(64)).unwrap();
        let longest = paths.vm().join(format!("{VSOCK_PREFIX}_2048"));
        assert!(longest.as_os_str().len() < 108, "unix(7): sun_path");
    }
}
