//! Workers shared by many disks: the side of the control thread.

use std::io;
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use super::disk::Disk;
use super::engine::EngineKind;
use super::worker::{BlkWorker, Command, Mailbox};
use crate::device::{QueueState, ThreadHook};
use crate::queue::Queue;
use crate::worker::Worker;

/// Threads that many disks share. Clones share them; each starts with the first queue that it
/// is given and ends with its last. Queue `i` of every disk is served by thread `i` modulo
/// their number.
#[derive(Clone, Debug)]
pub struct Pool(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    name: String,
    engine: EngineKind,
    threads: Vec<Mutex<Option<Thread>>>,
}

#[derive(Debug)]
struct Thread {
    worker: Worker<BlkWorker>,
    mailbox: Mailbox,
    queues: usize,
    /// Never used twice in a thread's life.
    next: u64,
}

/// A queue in a pool.
#[derive(Debug)]
pub(super) struct Place {
    thread: usize,
    id: u64,
}

impl Pool {
    /// `threads` threads at most (at least 1), named after `name`.
    pub fn new(name: &str, threads: usize, engine: EngineKind) -> Self {
        Self(Arc::new(Inner {
            name: name.to_owned(),
            engine,
            threads: (0..threads.max(1)).map(|_| Mutex::new(None)).collect(),
        }))
    }

    fn lock(&self, thread: usize) -> MutexGuard<'_, Option<Thread>> {
        self.0.threads[thread]
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// Has `queue` served from now on.
    pub(super) fn attach(
        &self,
        disk: Arc<Disk>,
        queue: Queue,
        hook: &ThreadHook,
    ) -> io::Result<Place> {
        let index = queue.index() % self.0.threads.len();
        let mut guard = self.lock(index);
        let thread = match &mut *guard {
            Some(thread) => thread,
            none => none.insert(self.start(index, hook)?),
        };
        let id = thread.next;
        thread.next += 1;
        let attached = thread.ask(|reply| Command::Attach {
            id,
            disk,
            queue: Box::new(queue),
            reply,
        });
        match attached.unwrap_or_else(|| Err(io::Error::other("the disk worker is gone"))) {
            Ok(()) => {
                thread.queues += 1;
                Ok(Place { thread: index, id })
            }
            Err(error) => {
                if thread.queues == 0 {
                    *guard = None;
                }
                Err(error)
            }
        }
    }

    /// Drains the queue's requests and gives it back; `None` when its thread has died.
    pub(super) fn detach(&self, place: &Place) -> Option<QueueState> {
        let mut guard = self.lock(place.thread);
        let thread = guard.as_mut()?;
        let state = thread.ask(|reply| Command::Detach {
            id: place.id,
            reply,
        });
        thread.queues -= 1;
        if thread.queues == 0 {
            // Dropping the worker stops it.
            *guard = None;
        }
        state.flatten()
    }

    fn start(&self, index: usize, hook: &ThreadHook) -> io::Result<Thread> {
        let mailbox = Mailbox::new()?;
        let name = format!("{} {index}", self.0.name);
        let handler = BlkWorker::new(self.0.engine, mailbox.clone());
        Ok(Thread {
            worker: Worker::spawn(&name, super::WORKER, hook, handler)?,
            mailbox,
            queues: 0,
            next: 0,
        })
    }
}

impl Thread {
    /// Sends a command and waits for its reply; `None` when the thread has died.
    fn ask<T>(&self, command: impl FnOnce(SyncSender<T>) -> Command) -> Option<T> {
        let (reply, answer) = sync_channel(1);
        self.mailbox.send(command(reply));
        loop {
            match answer.recv_timeout(Duration::from_secs(1)) {
                Ok(answer) => return Some(answer),
                Err(RecvTimeoutError::Timeout) if !self.worker.is_finished() => {}
                Err(_) => return None,
            }
        }
    }
}
