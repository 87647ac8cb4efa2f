//! The thread itself: start, loop, stop.

use std::io;
use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::Duration;

use vmm_sys_util::epoll::{EpollEvent, EventSet};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::poller::{Edge, Poller, STOP};
use crate::device::ThreadHook;

/// Stack of a worker: its deepest frame is the iovec list of a system call. Only touched
/// pages cost memory.
const STACK: usize = 256 << 10;

/// Events taken per wait.
const EVENTS: usize = 32;

/// What the loop does after a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Sleep until a descriptor reports.
    Wait,
    /// Sleep until a descriptor reports, at most so long.
    WaitFor(Duration),
    /// There is more to do: look at the descriptors without sleeping and come back.
    Again,
}

/// What a device does on its thread.
pub trait Handler: Send + 'static {
    /// On the new thread, confined by the hook, before the first wait: registers descriptors.
    ///
    /// # Errors
    /// Whatever makes the device unable to start; the worker is then not started.
    fn start(&mut self, poller: &Poller) -> io::Result<()>;

    /// The descriptor registered under `token` reports.
    fn ready(&mut self, poller: &Poller, token: u64, events: EventSet);

    /// Does a bounded amount of what has become possible.
    fn turn(&mut self, poller: &Poller) -> Next;

    /// Finishes or cancels all I/O in flight: the worker ends after it.
    fn drain(&mut self, _poller: &Poller) {}
}

/// A running worker. Dropping it stops it.
#[derive(Debug)]
pub struct Worker<H: Handler> {
    stop: EventFd,
    thread: Option<JoinHandle<H>>,
}

impl<H: Handler> Worker<H> {
    /// Starts a thread named `name` (of which the kernel keeps 15 bytes), runs `hook` for the
    /// worker kind `kind` on it, then `handler`'s `start`; returns when they have.
    ///
    /// # Errors
    /// When the host refuses the thread, or the hook or `start` fail.
    pub fn spawn(
        name: &str,
        kind: &'static str,
        hook: &ThreadHook,
        mut handler: H,
    ) -> io::Result<Self> {
        let stop = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let poller = Poller::new()?;
        poller.add(stop.as_raw_fd(), Edge::Level, STOP)?;
        let (started, outcome) = mpsc::sync_channel(1);
        let hook = hook.clone();
        let thread = std::thread::Builder::new()
            .name(name.chars().take(15).collect())
            .stack_size(STACK)
            .spawn(move || {
                let result = hook(kind).and_then(|()| handler.start(&poller));
                let run = result.is_ok();
                // Without a receiver nobody waits, and the stop event ends the loop at once.
                let _ = started.send(result);
                if run {
                    serve(&poller, &mut handler);
                }
                handler
            })?;
        outcome.recv().unwrap_or_else(|_| {
            Err(io::Error::other("the worker thread died before it started"))
        })?;
        Ok(Self {
            stop,
            thread: Some(thread),
        })
    }

    /// Whether its thread has ended by itself, which is by a panic.
    pub fn is_finished(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }

    /// Stops the worker once its I/O is drained, and gives its handler back; `None` if its
    /// thread panicked.
    pub fn stop(mut self) -> Option<H> {
        self.join()
    }

    fn join(&mut self) -> Option<H> {
        let thread = self.thread.take()?;
        // An eventfd write of 1 fails only at 2^64 - 2 pending stops.
        let _ = self.stop.write(1);
        thread.join().ok()
    }
}

impl<H: Handler> Drop for Worker<H> {
    fn drop(&mut self) {
        self.join();
    }
}

fn serve<H: Handler>(poller: &Poller, handler: &mut H) {
    let mut events = [EpollEvent::default(); EVENTS];
    // The driver may have offered chains before the worker looked.
    let mut next = handler.turn(poller);
    loop {
        let timeout = match next {
            Next::Wait => -1,
            Next::Again => 0,
            // Rounded up, so that what was waited for is due after the wait.
            Next::WaitFor(time) => {
                i32::try_from(time.as_nanos().div_ceil(1_000_000)).unwrap_or(i32::MAX)
            }
        };
        let count = match poller.wait(timeout, &mut events) {
            Ok(count) => count,
            Err(error) => {
                tracing::error!(%error, "a device's worker cannot wait for events: it ends");
                return handler.drain(poller);
            }
        };
        for event in &events[..count] {
            if event.data() == STOP {
                return handler.drain(poller);
            }
            handler.ready(poller, event.data(), event.event_set());
        }
        next = handler.turn(poller);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    /// Counts kicks; stays busy for `busy` turns.
    #[derive(Debug)]
    struct Counter {
        kick: EventFd,
        kicks: Arc<AtomicU32>,
        busy: u32,
        drained: bool,
    }

    impl Handler for Counter {
        fn start(&mut self, poller: &Poller) -> io::Result<()> {
            poller.add(self.kick.as_raw_fd(), Edge::Level, 7)
        }

        fn ready(&mut self, _: &Poller, token: u64, _: EventSet) {
            assert_eq!(token, 7);
            self.kick.read().unwrap();
            self.kicks.fetch_add(1, Ordering::SeqCst);
        }

        fn turn(&mut self, _: &Poller) -> Next {
            if self.busy > 0 {
                self.busy -= 1;
                return Next::Again;
            }
            Next::Wait
        }

        fn drain(&mut self, _: &Poller) {
            self.drained = true;
        }
    }

    fn counter(busy: u32) -> (Counter, EventFd, Arc<AtomicU32>) {
        let kick = EventFd::new(EFD_NONBLOCK).unwrap();
        let kicks = Arc::new(AtomicU32::new(0));
        let counter = Counter {
            kick: kick.try_clone().unwrap(),
            kicks: kicks.clone(),
            busy,
            drained: false,
        };
        (counter, kick, kicks)
    }

    #[test]
    fn wakes_for_kicks_and_stops_drained() {
        let (handler, kick, kicks) = counter(0);
        let hook: ThreadHook = Arc::new(|kind| {
            assert_eq!(kind, "test");
            Ok(())
        });
        let worker = Worker::spawn("counter", "test", &hook, handler).unwrap();
        kick.write(1).unwrap();
        while kicks.load(Ordering::SeqCst) == 0 {
            std::thread::yield_now();
        }
        assert!(worker.stop().unwrap().drained);
    }

    #[test]
    fn a_busy_worker_still_stops() {
        let (handler, _kick, _) = counter(u32::MAX);
        let worker = Worker::spawn(
            "busy",
            "test",
            &(Arc::new(|_: &str| Ok(())) as ThreadHook),
            handler,
        );
        assert!(worker.unwrap().stop().unwrap().busy > 0);
    }

    #[test]
    fn a_hook_that_fails_is_reported() {
        let (handler, ..) = counter(0);
        let hook: ThreadHook = Arc::new(|_| Err(io::Error::other("not confined")));
        let error = Worker::spawn("refused", "test", &hook, handler).unwrap_err();
        assert_eq!(error.to_string(), "not confined");
    }
}
