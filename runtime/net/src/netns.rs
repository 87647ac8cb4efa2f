//! The network namespace of a host pod, and the way into it.
//!
//! Like a tap it is held by a descriptor and nothing else: it has no name, and when
//! the last process in it and the last descriptor are gone, it goes, and with it the
//! veth pair of which one end is in it.

use std::fs::File;
use std::os::fd::OwnedFd;

use nix::sched::{CloneFlags, unshare};

use crate::error::{NetError, Result};

/// Makes an empty network namespace, which has only a loopback that is down.
///
/// # Errors
/// [`NetError::Netlink`] with the system's reason.
pub(crate) fn make() -> Result<OwnedFd> {
    // A thread of its own, for the namespace is the calling thread's.
    let made = std::thread::spawn(|| -> std::io::Result<OwnedFd> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok(File::open("/proc/thread-self/ns/net")?.into())
    });
    let made = made
        .join()
        .unwrap_or_else(|_| Err(std::io::Error::other("the thread that makes it failed")));
    made.map_err(|source| NetError::Netlink {
        attempted: "make a network namespace".to_owned(),
        source,
    })
}
