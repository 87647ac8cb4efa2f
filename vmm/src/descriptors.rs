//! Inherited descriptors: from the numbers in the configuration to owned ones, and
//! everything else closed.

#![allow(unsafe_code)] // adopting descriptors by number

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, Read},
    os::{
        fd::{FromRawFd, OwnedFd},
        unix::net::UnixListener,
    },
};

use bulkhead_vmm_api::MAX_CONFIG_LEN;

use crate::config::{Config, Fd};

/// Why a descriptor cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DescriptorError {
    /// The number names no open descriptor.
    #[error("descriptor {0} is not open; the configuration and what is inherited disagree")]
    NotOpen(i32),
    /// It was taken before. A bug.
    #[error("descriptor {0} is taken twice")]
    Taken(i32),
    /// The configuration cannot be read.
    #[error("cannot read the configuration from descriptor {fd}: {source}")]
    Config {
        /// The descriptor.
        fd: i32,
        /// The error.
        source: io::Error,
    },
    /// The configuration is longer than [`MAX_CONFIG_LEN`].
    #[error("the configuration is longer than {MAX_CONFIG_LEN} bytes")]
    ConfigTooLong,
    /// Descriptors could not be closed.
    #[error("cannot close other descriptors: {0}")]
    Close(io::Error),
}

/// Reads the serialised configuration and closes its descriptor.
///
/// # Errors
/// [`DescriptorError`]
pub fn read_config(fd: Fd) -> Result<Vec<u8>, DescriptorError> {
    let mut bytes = Vec::new();
    File::from(adopt(fd)?)
        .take(MAX_CONFIG_LEN + 1)
        .read_to_end(&mut bytes)
        .map_err(|source| DescriptorError::Config { fd: fd.0, source })?;
    if bytes.len() as u64 > MAX_CONFIG_LEN {
        return Err(DescriptorError::ConfigTooLong);
    }
    Ok(bytes)
}

/// The descriptors that a configuration names, each to be taken once.
#[derive(Debug)]
pub struct Descriptors(BTreeMap<Fd, OwnedFd>);

impl Descriptors {
    /// Adopts what `config` names and closes every other descriptor above 2. To be
    /// called once, before anything else is opened.
    ///
    /// # Errors
    /// [`DescriptorError`]
    pub fn adopt(config: &Config) -> Result<Self, DescriptorError> {
        let mut fds = config.fds();
        fds.sort_unstable();
        close_others(&fds).map_err(DescriptorError::Close)?;
        fds.into_iter()
            .map(|fd| Ok((fd, adopt(fd)?)))
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Takes one.
    ///
    /// # Errors
    /// [`DescriptorError::Taken`]
    pub fn take(&mut self, fd: Fd) -> Result<OwnedFd, DescriptorError> {
        self.0.remove(&fd).ok_or(DescriptorError::Taken(fd.0))
    }

    /// Takes a file.
    ///
    /// # Errors
    /// [`DescriptorError::Taken`]
    pub fn file(&mut self, fd: Fd) -> Result<File, DescriptorError> {
        self.take(fd).map(File::from)
    }

    /// Takes a listening unix socket.
    ///
    /// # Errors
    /// [`DescriptorError::Taken`]
    pub fn listener(&mut self, fd: Fd) -> Result<UnixListener, DescriptorError> {
        self.take(fd).map(UnixListener::from)
    }
}

/// Takes ownership of an inherited descriptor, and marks it close-on-exec.
fn adopt(Fd(number): Fd) -> Result<OwnedFd, DescriptorError> {
    // SAFETY: fcntl with F_SETFD changes a flag, or fails for a number that is not open.
    if number <= 2 || unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } == -1 {
        return Err(DescriptorError::NotOpen(number));
    }
    // SAFETY: it is open, above the standard ones, and the process has opened nothing
    // yet: it was inherited, and nobody else owns it. Configurations name a number once.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Closes everything above 2 that is not among `keep`, which is sorted.
fn close_others(keep: &[Fd]) -> io::Result<()> {
    for (first, last) in gaps(keep) {
        // SAFETY: nothing in this process owns a descriptor in the gaps: what is
        // inherited is named in `keep`, and nothing else was opened yet.
        let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0u32) };
        if result == -1 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// The ranges above 2 between sorted descriptor numbers.
fn gaps(keep: &[Fd]) -> Vec<(u32, u32)> {
    let mut gaps = Vec::new();
    let mut next = 3;
    for fd in keep.iter().filter_map(|fd| u32::try_from(fd.0).ok()) {
        if fd > next {
            gaps.push((next, fd - 1));
        }
        next = next.max(fd + 1);
    }
    gaps.push((next, u32::MAX));
    gaps
}

#[cfg(test)]
mod tests {
    use std::{
        io::Write,
        os::fd::{AsRawFd, IntoRawFd},
    };

    use super::*;

    #[test]
    fn gaps_lie_between_what_is_kept() {
        assert_eq!(gaps(&[]), [(3, u32::MAX)]);
        assert_eq!(
            gaps(&[Fd(3), Fd(5), Fd(6), Fd(9)]),
            [(4, 4), (7, 8), (10, u32::MAX)]
        );
    }

    #[test]
    fn a_number_that_is_not_open_is_refused() {
        assert!(matches!(
            adopt(Fd(1 << 20)),
            Err(DescriptorError::NotOpen(_))
        ));
        assert!(matches!(adopt(Fd(1)), Err(DescriptorError::NotOpen(1))));
    }

    #[test]
    fn a_configuration_is_read_once_and_bounded() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"abc").unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        let number = file.as_raw_fd();
        let number = if number > 2 {
            file.into_raw_fd()
        } else {
            number
        };
        assert_eq!(read_config(Fd(number)).unwrap(), b"abc");
        assert!(read_config(Fd(number)).is_err());
        let long = tempfile::tempfile().unwrap();
        long.set_len(MAX_CONFIG_LEN + 1).unwrap();
        assert!(matches!(
            read_config(Fd(long.into_raw_fd())),
            Err(DescriptorError::ConfigTooLong)
        ));
    }
}
