//! Block device (virtio 1.3, section 5.2) on a file.
//!
//! ```text
//!   queue --pop--> request::parse --> Job --op()--> engine --advance()--> Job ... --> status
//!                  (what is asked)    |             plain: preadv, pwritev, fallocate, fdatasync
//!                                     |             uring: the same, many at once
//!                                     a request and how far it got: pure
//! ```
//!
//! Data moves between the file and guest memory without a copy in between. A job owns its
//! descriptor chain, which keeps guest memory mapped, until its last operation has ended: no
//! reset or stop frees memory under I/O in flight.
//!
//! A [`Pool`] serves the queues of many disks on few threads: a VM whose image has 60 layers
//! has 60 read-only disks, and one thread for them.

mod device;
mod disk;
mod engine;
mod job;
mod pool;
pub(crate) mod request;
#[cfg(test)]
mod tests;
mod worker;

pub use device::{Blk, BlkConfig};
pub use engine::EngineKind;
pub use pool::Pool;

/// The worker kind passed to the thread hook.
pub const WORKER: &str = "blk";

/// Bytes of a sector, the unit of all positions in requests (5.2.4).
pub const SECTOR: u64 = 512;

/// System calls of the worker beside [`crate::worker::SYSCALLS`]. Without the `io_uring` ones
/// the plain engine is chosen. (`io_uring_register` restricts the ring to the operations of
/// this device: what goes through it escapes the filter.)
pub const SYSCALLS: &[&str] = &[
    "preadv",
    "pwritev",
    "fdatasync",
    "fallocate",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
];
