//! What a worker waits on.

use std::io;
use std::os::fd::RawFd;

use vmm_sys_util::epoll::{ControlOperation, Epoll, EpollEvent, EventSet};

/// How a descriptor reports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Edge {
    /// As long as it is readable.
    Level,
    /// At every write, whatever was there before: for event descriptors, which then need no
    /// read. (An eventfd wakes its waiters at each write; its counter never gets near its end.)
    Event,
    /// When it becomes readable or writable, once: for taps and sockets, whose readiness the
    /// handler remembers until an `EAGAIN`. No queue without buffers makes the loop spin.
    Triggered,
}

/// Descriptors and the tokens under which they report.
#[derive(Debug)]
pub struct Poller {
    epoll: Epoll,
}

/// The stop event's token.
pub(super) const STOP: u64 = u64::MAX;

impl Poller {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            epoll: Epoll::new()?,
        })
    }

    /// Waits on `fd` from now on.
    ///
    /// # Errors
    /// `epoll_ctl(2)`'s.
    pub fn add(&self, fd: RawFd, edge: Edge, token: u64) -> io::Result<()> {
        let events = match edge {
            Edge::Level => EventSet::IN,
            Edge::Event => EventSet::IN | EventSet::EDGE_TRIGGERED,
            Edge::Triggered => {
                EventSet::IN | EventSet::OUT | EventSet::READ_HANG_UP | EventSet::EDGE_TRIGGERED
            }
        };
        self.epoll
            .ctl(ControlOperation::Add, fd, EpollEvent::new(events, token))
    }

    /// Waits on `fd` no more. Closing the last copy of a descriptor does the same.
    pub fn remove(&self, fd: RawFd) {
        // It fails only when the descriptor is not waited on, which is what is wanted.
        let _ = self
            .epoll
            .ctl(ControlOperation::Delete, fd, EpollEvent::default());
    }

    /// What reports now, without waiting.
    #[cfg(any(test, feature = "fuzzing"))]
    pub(crate) fn poll(&self) -> io::Result<Vec<(u64, EventSet)>> {
        let mut events = [EpollEvent::default(); 16];
        let count = self.wait(0, &mut events)?;
        Ok(events[..count]
            .iter()
            .map(|event| (event.data(), event.event_set()))
            .collect())
    }

    /// `timeout` in milliseconds, -1 for ever.
    pub(super) fn wait(&self, timeout: i32, events: &mut [EpollEvent]) -> io::Result<usize> {
        match self.epoll.wait(timeout, events) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(0),
            result => result,
        }
    }
}
