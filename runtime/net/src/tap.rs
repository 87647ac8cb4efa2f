//! Making a tap: the host's end of a pod's network card.
//!
//! A tap is a network interface whose wire is a file descriptor: what the VMM
//! writes is received by the host, what the host sends the VMM reads. It is made
//! by opening `/dev/net/tun` and naming it (`TUNSETIFF`), see
//! `Documentation/networking/tuntap.rst` in the kernel. It is not made persistent,
//! so it lives exactly as long as a descriptor of it.
//!
//! The only unsafe code of this crate is here.
#![allow(unsafe_code)] // One ioctl, which the standard library can't express.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

use rustix::ioctl::{Setter, ioctl, opcode};

use crate::error::{NetError, Result};

const TUN_DEVICE: &str = "/dev/net/tun";

/// `TUNSETIFF` of `linux/if_tun.h`; the header says `int`, the kernel reads an `ifreq`.
const TUNSETIFF: rustix::ioctl::Opcode = opcode::write::<libc::c_int>(b'T', 202);

// `linux/if_tun.h`: flags of `TUNSETIFF`.
/// Ethernet frames, not IP packets.
const IFF_TAP: u16 = 0x0002;
/// No four-byte packet information before a frame.
const IFF_NO_PI: u16 = 0x1000;
/// A `virtio_net_hdr` before each frame, which carries checksum and segmentation offloads.
const IFF_VNET_HDR: u16 = 0x4000;
/// More than one descriptor may be attached, each a queue.
const IFF_MULTI_QUEUE: u16 = 0x0100;
/// Refuse a name that exists.
const IFF_TUN_EXCL: u16 = 0x8000;

/// `struct ifreq` of `linux/if.h`, with the union read as flags.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; libc::IFNAMSIZ],
    flags: u16,
    /// The rest of the union, whose largest member is `struct ifmap` (24 bytes).
    rest: [u8; 22],
}

/// Opens a tap that didn't exist, with one descriptor a queue.
///
/// The descriptors are non-blocking and close on exec. Frames carry a virtio-net
/// header of the kernel's default size (10 bytes); the VMM sets the size and the
/// offloads that its guest has agreed to, which needs no privilege.
///
/// # Errors
/// [`NetError::TunDevice`] if `/dev/net/tun` can't be opened, [`NetError::TapExists`] if
/// the name is taken, [`NetError::Netlink`] for any other refusal.
pub(crate) fn open(name: &str, queues: u16) -> Result<Vec<OwnedFd>> {
    let mut flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
    if queues > 1 {
        flags |= IFF_MULTI_QUEUE;
    }
    let mut descriptors = Vec::with_capacity(usize::from(queues));
    // The first must make the interface, the others must find it.
    descriptors.push(attach(name, flags | IFF_TUN_EXCL)?);
    for _ in 1..queues {
        descriptors.push(attach(name, flags)?);
    }
    Ok(descriptors)
}

/// Says whether `/dev/net/tun` can be opened, without making anything.
///
/// # Errors
/// [`NetError::TunDevice`] with the system's reason.
pub fn probe() -> Result<()> {
    open_device().map(drop)
}

fn open_device() -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(TUN_DEVICE)
        .map_err(|source| NetError::TunDevice { source })
}

fn attach(name: &str, flags: u16) -> Result<OwnedFd> {
    let device = open_device()?;
    let mut request = InterfaceRequest {
        name: [0; libc::IFNAMSIZ],
        flags,
        rest: [0; 22],
    };
    // The last byte stays zero: names are NUL-terminated.
    for (slot, byte) in request.name[..libc::IFNAMSIZ - 1]
        .iter_mut()
        .zip(name.bytes())
    {
        *slot = byte;
    }
    // SAFETY: TUNSETIFF reads a `struct ifreq` (40 bytes on 64-bit), which `InterfaceRequest`
    // lays out as the kernel does; it may write the name back, into memory that we own.
    let outcome = unsafe { ioctl(&device, Setter::<TUNSETIFF, InterfaceRequest>::new(request)) };
    match outcome {
        Ok(()) => Ok(OwnedFd::from(device)),
        Err(rustix::io::Errno::BUSY | rustix::io::Errno::EXIST | rustix::io::Errno::INVAL) => {
            Err(NetError::TapExists {
                name: name.to_owned(),
            })
        }
        Err(errno) => Err(NetError::Netlink {
            attempted: format!("create tap {name}"),
            source: io::Error::from(errno),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_request_has_the_kernels_layout() {
        assert_eq!(size_of::<InterfaceRequest>(), size_of::<libc::ifreq>());
        assert_eq!(std::mem::offset_of!(InterfaceRequest, flags), 16);
    }
}
