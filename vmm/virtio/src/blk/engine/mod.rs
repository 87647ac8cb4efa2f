//! How a job's operations reach the file.
//!
//! Both engines do the same: take jobs, run their operations to the end, give them back.
//! The plain one does so within `start`; io_uring has up to [`DEPTH`] jobs under way.

mod plain;
mod uring;

use std::collections::VecDeque;
use std::io;
use std::os::fd::RawFd;

use super::job::Job;
use uring::Uring;

/// Jobs under way in one ring, whatever the number of disks: what is beyond waits in the
/// queues. Enough to keep an NVMe drive busy, 16 KiB of kernel memory.
const DEPTH: u32 = 128;

/// How requests reach the file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum EngineKind {
    /// io_uring where the kernel and the seccomp filter allow it, else plain.
    #[default]
    Auto,
    /// io_uring, or an error at activation.
    Uring,
    /// `preadv` and `pwritev` on the worker's thread.
    Plain,
}

/// An engine, made on the thread that uses it.
#[derive(Debug)]
pub(super) enum Engine {
    Plain(VecDeque<Job>),
    Uring(Box<Uring>),
}

impl Engine {
    pub(super) fn new(kind: EngineKind) -> io::Result<Self> {
        match kind {
            EngineKind::Plain => Ok(Self::Plain(VecDeque::new())),
            EngineKind::Uring => Ok(Self::Uring(Box::new(Uring::new(DEPTH)?))),
            EngineKind::Auto => Ok(Uring::new(DEPTH).map_or_else(
                |error| {
                    tracing::info!(%error, "no io_uring: disks use plain reads and writes");
                    Self::Plain(VecDeque::new())
                },
                |uring| Self::Uring(Box::new(uring)),
            )),
        }
    }

    /// Readable when jobs are finished.
    pub(super) fn fd(&self) -> Option<RawFd> {
        match self {
            Self::Plain(_) => None,
            Self::Uring(uring) => Some(uring.fd()),
        }
    }

    /// Whether [`start`](Self::start) takes another job.
    pub(super) fn has_room(&self) -> bool {
        match self {
            Self::Plain(_) => true,
            Self::Uring(uring) => uring.has_room(),
        }
    }

    /// Takes a job. It is under way at the latest after [`submit`](Self::submit).
    pub(super) fn start(&mut self, job: Job) {
        match self {
            Self::Plain(finished) => finished.push_back(plain::run(job)),
            Self::Uring(uring) => uring.start(job),
        }
    }

    /// Hands all that was started to the kernel, in one system call.
    pub(super) fn submit(&mut self) {
        if let Self::Uring(uring) = self {
            uring.submit(0);
        }
    }

    /// The next finished job.
    pub(super) fn finished(&mut self) -> Option<Job> {
        match self {
            Self::Plain(finished) => finished.pop_front(),
            Self::Uring(uring) => uring.finished(),
        }
    }

    /// Waits until [`finished`](Self::finished) has a job; false when none is under way.
    pub(super) fn wait(&mut self) -> bool {
        match self {
            Self::Plain(finished) => !finished.is_empty(),
            Self::Uring(uring) => uring.wait(),
        }
    }
}
