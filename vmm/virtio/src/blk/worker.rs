//! Serves the queues of a pool's disks.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::mpsc::SyncSender;
use std::sync::{Arc, Mutex, PoisonError};

use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::disk::Disk;
use super::engine::{Engine, EngineKind};
use super::job::{Job, answer};
use super::request::{self, Refused};
use crate::device::QueueState;
use crate::queue::Queue;
use crate::worker::{Edge, Handler, Next, Poller};

/// Tokens beyond any queue's.
const MAIL: u64 = 1 << 32;
const ENGINE: u64 = MAIL + 1;

/// Requests and bytes taken from one queue before the next has its turn.
const BUDGET: usize = 32;
const BUDGET_BYTES: usize = 4 << 20;

/// What the control thread wants.
#[derive(Debug)]
pub(super) enum Command {
    Attach {
        id: u64,
        disk: Arc<Disk>,
        queue: Box<Queue>,
        reply: SyncSender<io::Result<()>>,
    },
    Detach {
        id: u64,
        reply: SyncSender<Option<QueueState>>,
    },
}

/// Where commands wait.
#[derive(Clone, Debug)]
pub(super) struct Mailbox(Arc<(Mutex<VecDeque<Command>>, EventFd)>);

impl Mailbox {
    pub(super) fn new() -> io::Result<Self> {
        let event = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        Ok(Self(Arc::new((Mutex::new(VecDeque::new()), event))))
    }

    pub(super) fn send(&self, command: Command) {
        self.0
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push_back(command);
        // An eventfd write of 1 fails only at 2^64 - 2 pending ones.
        let _ = self.0.1.write(1);
    }

    fn receive(&self) -> Option<Command> {
        self.0
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop_front()
    }
}

/// A queue that is served here.
#[derive(Debug)]
struct Hosted {
    id: u64,
    disk: Arc<Disk>,
    queue: Queue,
    /// Chains may be waiting.
    runnable: bool,
    /// Jobs under way.
    jobs: usize,
}

#[derive(Debug)]
pub(super) struct BlkWorker {
    kind: EngineKind,
    engine: Option<Engine>,
    mailbox: Mailbox,
    mail: bool,
    /// By token; a free place is `None`.
    hosted: Vec<Option<Hosted>>,
}

impl BlkWorker {
    pub(super) fn new(kind: EngineKind, mailbox: Mailbox) -> Self {
        Self {
            kind,
            engine: None,
            mailbox,
            mail: false,
            hosted: Vec::new(),
        }
    }

    fn obey(&mut self, command: Command, poller: &Poller) {
        // A reply that nobody waits for is nobody's loss.
        match command {
            Command::Attach {
                id,
                disk,
                queue,
                reply,
            } => {
                let _ = reply.send(self.attach(id, disk, *queue, poller));
            }
            Command::Detach { id, reply } => {
                let _ = reply.send(self.detach(id, poller));
            }
        }
    }

    fn attach(
        &mut self,
        id: u64,
        disk: Arc<Disk>,
        queue: Queue,
        poller: &Poller,
    ) -> io::Result<()> {
        let place = self
            .hosted
            .iter()
            .position(Option::is_none)
            .unwrap_or_else(|| {
                self.hosted.push(None);
                self.hosted.len() - 1
            });
        poller.add(queue.kick_fd(), Edge::Event, place as u64)?;
        self.hosted[place] = Some(Hosted {
            id,
            disk,
            queue,
            // The driver may have offered chains before.
            runnable: true,
            jobs: 0,
        });
        Ok(())
    }

    fn detach(&mut self, id: u64, poller: &Poller) -> Option<QueueState> {
        let place = self
            .hosted
            .iter()
            .position(|hosted| hosted.as_ref().is_some_and(|hosted| hosted.id == id))?;
        while self.hosted[place]
            .as_ref()
            .is_some_and(|hosted| hosted.jobs > 0)
        {
            if !self.engine.as_mut().is_some_and(Engine::wait) {
                break;
            }
            self.finish();
        }
        let mut hosted = self.hosted[place].take()?;
        poller.remove(hosted.queue.kick_fd());
        hosted.queue.notify();
        Some(hosted.queue.state())
    }

    /// Gives finished jobs back to their drivers. True when there was one.
    fn finish(&mut self) -> bool {
        let mut any = false;
        while let Some(job) = self.engine.as_mut().and_then(Engine::finished) {
            any = true;
            let origin = job.origin;
            let (chain, written) = job.finish();
            // Always there: a queue is not detached before its jobs have ended.
            if let Some(hosted) = self.hosted.get_mut(origin).and_then(Option::as_mut) {
                hosted.jobs -= 1;
                hosted.queue.push(chain, written);
            }
        }
        any
    }
}

impl Hosted {
    /// Takes requests, a bounded number, into `engine`.
    fn serve(&mut self, place: usize, engine: &mut Engine) {
        self.queue.disable_kicks();
        let mut bytes = 0;
        for _ in 0..BUDGET {
            if !engine.has_room() || bytes > BUDGET_BYTES {
                return;
            }
            let Some(chain) = self.queue.pop() else {
                self.runnable = self.queue.enable_kicks();
                return;
            };
            bytes += chain.readable_len() + chain.writable_len();
            match request::parse(&chain, self.disk.geometry) {
                Ok(request) => {
                    self.jobs += 1;
                    engine.start(Job::new(place, self.disk.clone(), chain, request));
                }
                Err(Refused::Status(status)) => {
                    let written = answer(&chain, status);
                    self.queue.push(chain, written);
                }
                Err(Refused::NoStatus) => {
                    self.queue
                        .break_for("a block request without room for its status");
                    self.queue.push(chain, 0);
                }
            }
        }
    }
}

impl Handler for BlkWorker {
    fn start(&mut self, poller: &Poller) -> io::Result<()> {
        let engine = Engine::new(self.kind)?;
        if let Some(fd) = engine.fd() {
            poller.add(fd, Edge::Level, ENGINE)?;
        }
        self.engine = Some(engine);
        poller.add(self.mailbox.0.1.as_raw_fd(), Edge::Event, MAIL)
    }

    fn ready(&mut self, _: &Poller, token: u64, _: EventSet) {
        match token {
            // Looked at in every turn.
            ENGINE => {}
            MAIL => self.mail = true,
            place => {
                let hosted = usize::try_from(place)
                    .ok()
                    .and_then(|place| self.hosted.get_mut(place)?.as_mut());
                // A queue may have been detached since.
                if let Some(hosted) = hosted {
                    hosted.runnable = true;
                }
            }
        }
    }

    fn turn(&mut self, poller: &Poller) -> Next {
        if std::mem::take(&mut self.mail) {
            while let Some(command) = self.mailbox.receive() {
                self.obey(command, poller);
            }
        }
        self.finish();
        let Some(engine) = &mut self.engine else {
            return Next::Wait;
        };
        for (place, hosted) in self.hosted.iter_mut().enumerate() {
            if let Some(hosted) = hosted.as_mut().filter(|hosted| hosted.runnable) {
                hosted.serve(place, engine);
            }
        }
        engine.submit();
        // What the page cache had is finished already.
        self.finish();
        let mut more = false;
        for hosted in self.hosted.iter_mut().flatten() {
            hosted.queue.notify();
            more |= hosted.runnable;
        }
        // Without room in the engine its completions wake the worker.
        if more && self.engine.as_ref().is_some_and(Engine::has_room) {
            Next::Again
        } else {
            Next::Wait
        }
    }

    fn drain(&mut self, poller: &Poller) {
        while self.engine.as_mut().is_some_and(Engine::wait) {
            self.finish();
        }
        for hosted in self.hosted.iter_mut().flatten() {
            hosted.queue.notify();
        }
        // Whoever sent a command still waits for its reply.
        while let Some(command) = self.mailbox.receive() {
            self.obey(command, poller);
        }
    }
}
