//! The tap's descriptor.
#![allow(unsafe_code, reason = "ioctls of the tun driver")]

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use super::{GUEST_CSUM, GUEST_ECN, GUEST_TSO4, GUEST_TSO6};

/// Bytes of the header before a frame ([`super::header::HEADER`]).
const HEADER_SIZE: u8 = 12;

// linux/if_tun.h
const TUNSETOFFLOAD: u32 = 0x4004_54d0;
const TUNGETIFF: u32 = 0x8004_54d2;
const TUNSETVNETHDRSZ: u32 = 0x4004_54d8;

const TUN_F_CSUM: libc::c_ulong = 1;
const TUN_F_TSO4: libc::c_ulong = 2;
const TUN_F_TSO6: libc::c_ulong = 4;
const TUN_F_TSO_ECN: libc::c_ulong = 8;

/// A descriptor whose reads and writes are a header and a frame.
#[derive(Debug)]
pub(super) enum Tap {
    /// A tap.
    Device(OwnedFd),
    /// A socket that keeps packets apart, for tests.
    #[cfg(any(test, feature = "testing"))]
    Socket(OwnedFd),
}

impl Tap {
    /// Checks that `fd` is a tap with a header before each frame, and sets the header's size.
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        // SAFETY: `ifreq` is plain data, valid as zeroes.
        let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
        // SAFETY: TUNGETIFF writes an `ifreq`.
        let result = unsafe { libc::ioctl(fd.as_raw_fd(), TUNGETIFF as _, &raw mut request) };
        check(result, "this is no tap: TUNGETIFF")?;
        // SAFETY: TUNGETIFF sets the flags, and any bits of the union are flags.
        let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
        let wanted = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
        if flags & wanted != wanted {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!(
                    "the tap has the flags {flags:#x}: open it with IFF_TAP | IFF_NO_PI | IFF_VNET_HDR"
                ),
            ));
        }
        let size = libc::c_int::from(HEADER_SIZE);
        // SAFETY: TUNSETVNETHDRSZ reads an int.
        let result = unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETVNETHDRSZ as _, &raw const size) };
        check(result, "the tap takes no 12-byte header: TUNSETVNETHDRSZ")?;
        Ok(Self::Device(fd))
    }

    /// Frames over a socket that keeps packets apart.
    #[cfg(any(test, feature = "testing"))]
    pub(super) fn socket(fd: OwnedFd) -> io::Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true)?;
        Ok(Self::Socket(fd))
    }

    pub(super) fn try_clone(&self) -> io::Result<Self> {
        match self {
            Self::Device(fd) => fd.try_clone().map(Self::Device),
            #[cfg(any(test, feature = "testing"))]
            Self::Socket(fd) => fd.try_clone().map(Self::Socket),
        }
    }

    /// Tells the tap what a driver with the features `negotiated` takes undone.
    pub(super) fn set_offload(&self, negotiated: u64) -> io::Result<()> {
        let fd = match self {
            Self::Device(fd) => fd,
            #[cfg(any(test, feature = "testing"))]
            Self::Socket(_) => return Ok(()),
        };
        let offload = offload(negotiated);
        // SAFETY: TUNSETOFFLOAD takes its bits as the argument itself.
        let result = unsafe { libc::ioctl(fd.as_raw_fd(), TUNSETOFFLOAD as _, offload) };
        check(result, "TUNSETOFFLOAD")
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Device(fd) => fd.as_fd(),
            #[cfg(any(test, feature = "testing"))]
            Self::Socket(fd) => fd.as_fd(),
        }
    }
}

/// Segmentation needs the checksum undone too (5.1.3.1), whatever the driver acknowledged.
fn offload(negotiated: u64) -> libc::c_ulong {
    if negotiated & GUEST_CSUM == 0 {
        return 0;
    }
    let mut bits = TUN_F_CSUM;
    for (feature, bit) in [(GUEST_TSO4, TUN_F_TSO4), (GUEST_TSO6, TUN_F_TSO6)] {
        if negotiated & feature != 0 {
            bits |= bit;
        }
    }
    // The tap takes ECN only with segmentation.
    if negotiated & GUEST_ECN != 0 && bits & (TUN_F_TSO4 | TUN_F_TSO6) != 0 {
        bits |= TUN_F_TSO_ECN;
    }
    bits
}

fn check(result: libc::c_int, what: &str) -> io::Result<()> {
    if result < 0 {
        let error = io::Error::last_os_error();
        return Err(io::Error::new(error.kind(), format!("{what}: {error}")));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offloads_follow_the_features() {
        assert_eq!(offload(0), 0);
        assert_eq!(offload(GUEST_TSO4 | GUEST_TSO6), 0);
        assert_eq!(offload(GUEST_CSUM | GUEST_ECN), TUN_F_CSUM);
        assert_eq!(
            offload(GUEST_CSUM | GUEST_TSO6 | GUEST_ECN),
            TUN_F_CSUM | TUN_F_TSO6 | TUN_F_TSO_ECN
        );
    }

    #[test]
    fn what_is_no_tap_is_refused() {
        let file = tempfile::tempfile().unwrap();
        let error = Tap::new(file.into()).unwrap_err().to_string();
        assert!(error.contains("no tap"), "{error}");
    }
}
