//! The thread on which devices are started and stopped.
//!
//! A new thread inherits the seccomp filter of its creator. Starting every device's
//! workers from here keeps thread creation, io_uring set-up and the like out of the
//! vCPUs' filters.

use std::{io, sync::mpsc, thread};

/// Device code's deepest frames are shallow; only touched pages cost memory.
const STACK: usize = 256 << 10;

type Job = Box<dyn FnOnce() + Send>;

/// A handle to the thread. It ends when the last handle goes.
#[derive(Clone)]
pub struct DeviceThread(mpsc::Sender<Job>);

impl std::fmt::Debug for DeviceThread {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("DeviceThread")
    }
}

impl DeviceThread {
    /// Starts the thread; `first` runs on it before anything else.
    ///
    /// # Errors
    /// When the host refuses a thread.
    pub fn start(first: impl FnOnce() + Send + 'static) -> io::Result<Self> {
        let (sender, jobs) = mpsc::channel::<Job>();
        thread::Builder::new()
            .name("devices".into())
            .stack_size(STACK)
            .spawn(move || {
                first();
                while let Ok(job) = jobs.recv() {
                    job();
                }
            })?;
        Ok(Self(sender))
    }

    /// Runs `job` there and waits for its result; `None` if the thread is gone.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (reply, result) = mpsc::sync_channel(1);
        let job = move || {
            // The waiting side is in `recv` below; it cannot be gone.
            let _ = reply.send(job());
        };
        self.0.send(Box::new(job)).ok()?;
        result.recv().ok()
    }

    /// Runs `job` there; the result arrives on the channel.
    #[must_use]
    pub fn start_job<T: Send + 'static>(
        &self,
        job: impl FnOnce() -> T + Send + 'static,
    ) -> tokio::sync::oneshot::Receiver<T> {
        let (reply, result) = tokio::sync::oneshot::channel();
        let job = move || {
            // Whoever asked may have stopped waiting.
            let _ = reply.send(job());
        };
        // If the thread is gone the channel closes, which the receiver sees.
        let _ = self.0.send(Box::new(job));
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jobs_run_elsewhere_in_order() {
        let thread = DeviceThread::start(|| {}).unwrap();
        let here = thread::current().id();
        let there = thread.run(|| thread::current().id()).unwrap();
        assert_ne!(here, there);
        let (sender, receiver) = mpsc::channel();
        for n in 0..3 {
            let sender = sender.clone();
            thread.run(move || sender.send(n)).unwrap().unwrap();
        }
        assert_eq!(receiver.iter().take(3).collect::<Vec<_>>(), [0, 1, 2]);
        assert_eq!(thread.start_job(|| 7).blocking_recv(), Ok(7));
    }
}
