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
    "pwrite64",
    "fdatasync",
    "fallocate",
    "io_uring_setup",
    "io_uring_enter",
    "io_uring_register",
];

/// What the fuzz targets see of this module.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing {
    use std::fs::File;
    use std::sync::Arc;

    use super::disk::Disk;
    use super::engine::{Engine, EngineKind};
    use super::job::{Job, answer};
    use super::request::{self, Refused};
    use crate::queue::Queue;

    /// A disk served on the caller's thread.
    pub(crate) struct Bench {
        disk: Arc<Disk>,
        engine: Engine,
    }

    impl Bench {
        #[allow(
            clippy::unwrap_used,
            reason = "a target that cannot be set up has no meaning"
        )]
        pub(crate) fn new(file: File, read_only: bool) -> Self {
            Self {
                disk: Arc::new(Disk::new(file, "fuzz", read_only, true).unwrap()),
                engine: Engine::new(EngineKind::Plain).unwrap(),
            }
        }

        pub(crate) fn serve(&mut self, queue: &mut Queue) {
            while let Some(chain) = queue.pop() {
                match request::parse(&chain, self.disk.geometry) {
                    Ok(request) => {
                        self.engine
                            .start(Job::new(0, self.disk.clone(), chain, request))
                    }
                    Err(Refused::Status(status)) => {
                        let written = answer(&chain, status);
                        queue.push(chain, written);
                    }
                    Err(Refused::NoStatus) => queue.push(chain, 0),
                }
                while let Some(job) = self.engine.finished() {
                    let (chain, written) = job.finish();
                    queue.push(chain, written);
                }
            }
            queue.notify();
        }
    }
}
