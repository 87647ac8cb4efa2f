//! One thread that commits: everything that waits goes into one transaction.
//!
//! A commit costs two fsyncs. When twenty pods start at once, their commits would
//! queue behind each other; here whoever waits while one runs shares the next.

use std::sync::mpsc;

use tokio::sync::oneshot;

use super::{Change, StoreError};

struct Job {
    changes: Vec<Change>,
    done: oneshot::Sender<Result<(), StoreError>>,
}

/// The way to the committing thread, which ends when this is dropped.
pub(super) struct Committer {
    jobs: Option<mpsc::Sender<Job>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// Most jobs in one transaction: bounds how long the first one waits.
const BATCH_MAX: usize = 256;

impl Committer {
    /// Starts the thread. `apply` makes all changes in one transaction.
    pub(super) fn start<F>(mut apply: F) -> std::io::Result<Self>
    where
        F: FnMut(&[Vec<Change>]) -> Result<(), StoreError> + Send + 'static,
    {
        let (jobs, queue) = mpsc::channel::<Job>();
        let thread = std::thread::Builder::new()
            .name("state-commit".into())
            .spawn(move || {
                while let Ok(first) = queue.recv() {
                    let rest = queue.try_iter().take(BATCH_MAX - 1);
                    let (changes, waiting): (Vec<_>, Vec<_>) = std::iter::once(first)
                        .chain(rest)
                        .map(|job| (job.changes, job.done))
                        .unzip();
                    let result = apply(&changes);
                    for done in waiting {
                        // Whoever asked may have gone: the changes are made all the same.
                        let _ = done.send(result.clone());
                    }
                }
            })?;
        Ok(Self {
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    pub(super) async fn commit(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        let stopped = || StoreError::Commit {
            reason: "the committing thread has stopped".into(),
            full: false,
        };
        let (done, result) = oneshot::channel();
        self.jobs
            .as_ref()
            .and_then(|jobs| jobs.send(Job { changes, done }).ok())
            .ok_or_else(stopped)?;
        result.await.unwrap_or_else(|_| Err(stopped()))
    }
}

impl Drop for Committer {
    fn drop(&mut self) {
        // The thread sees the channel close; what was queued is still committed.
        self.jobs.take();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
