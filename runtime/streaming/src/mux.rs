//! Drives one connection: what the client sends to the streams' readers, what
//! their writers send to the client.
//!
//! ```text
//!   socket ─► link ─► events ──► Inlet, one a stream     ─┐
//!                                                         ├─ the session
//!   socket ◄─ link ◄─ commands ◄─ Outlets                ─┘
//! ```
//!
//! The session runs beside the driver, in the same scope: when the client goes,
//! the session is dropped where it stands, and everything it owns with it; when
//! the session is done, what it sent is flushed and the connection closed.
//!
//! Nothing is unbounded. A writer waits while [`OUT_MAX`](crate::link::OUT_MAX)
//! bytes wait for the socket. A reader that is slow stops the reading of the
//! socket: the protocols have no flow control that would stop one stream alone.
//! While reading is stopped, a client that goes would not be noticed, since what it
//! sent before stands in front of its end. So it is pinged: the kernel of a client
//! that is gone answers with a reset.

use std::{collections::HashMap, future::poll_fn, task::Poll, time::Duration};

use bytes::Bytes;
use tokio::{
    sync::{
        mpsc::{self, error::TrySendError},
        watch,
    },
    time::{Instant, sleep, sleep_until, timeout},
};

use crate::{
    link::{Broken, Command, Event, Link, OUT_MAX},
    spdy::headers::Headers,
};

/// Pieces that a reader may lag behind, of at most what one reading gives each.
const LAG: usize = 4;
/// Commands under way to the driver.
const COMMANDS: usize = 4;
/// Streams that the client opened and the session has not seen.
const UNSEEN: usize = 64;
/// How often a client is pinged while nothing is read from it.
const PING: Duration = Duration::from_millis(250);
/// Longest time that a client may read nothing of what waits for it when the
/// session is done.
const FLUSH: Duration = Duration::from_secs(30);
/// How long a client may take to close its side when all is said.
const LINGER: Duration = Duration::from_secs(1);

/// A stream that the client opened.
pub(crate) struct Opened {
    pub(crate) headers: Headers,
    pub(crate) inlet: Inlet,
    pub(crate) outlet: Outlet,
}

/// What the client sends on one stream.
pub(crate) struct Inlet {
    pieces: mpsc::Receiver<Bytes>,
    reset: watch::Receiver<bool>,
}

impl Inlet {
    /// The next piece; `None` at the end.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        self.pieces.recv().await
    }

    /// Returns when the client gives the stream up, which it also may do when it has
    /// sent all it wants to send.
    pub(crate) fn reset(&self) -> impl Future<Output = ()> + use<> {
        let mut reset = self.reset.clone();
        async move {
            if reset.wait_for(|reset| *reset).await.is_err() {
                // Both directions have ended in peace.
                std::future::pending::<()>().await;
            }
        }
    }
}

/// What is sent to the client on one stream. Sending to a client that is gone, or
/// on a stream that it gave up, does nothing: the session ends anyway, or sees it
/// at the stream's inlet.
#[derive(Clone)]
pub(crate) struct Outlet {
    id: u32,
    commands: mpsc::Sender<Command>,
}

impl Outlet {
    pub(crate) fn id(&self) -> u32 {
        self.id
    }

    /// Sends bytes, waiting while many wait already.
    pub(crate) async fn send(&self, bytes: impl Into<Bytes>) {
        let _ = self
            .commands
            .send(Command::Data(self.id, bytes.into()))
            .await;
    }

    /// Ends what is sent.
    pub(crate) async fn finish(&self) {
        let _ = self.commands.send(Command::Finish(self.id)).await;
    }

    /// Gives the stream up.
    pub(crate) async fn reset(&self) {
        let _ = self.commands.send(Command::Reset(self.id)).await;
    }
}

/// How a session ended.
#[derive(Debug)]
pub(crate) enum End {
    /// It was done.
    Done,
    /// The client went, or broke the protocol.
    Gone(Option<Broken>),
    /// Nothing was sent for too long.
    Idle,
}

/// A stream, as the driver knows it.
struct Reader {
    /// `None`: the client has sent all it wants to send.
    pieces: Option<mpsc::Sender<Bytes>>,
    reset: watch::Sender<bool>,
    /// The session has sent all it wants to send.
    finished: bool,
}

/// A connection and its streams.
pub(crate) struct Mux<L> {
    link: L,
    readers: HashMap<u32, Reader>,
    opened: mpsc::Sender<Opened>,
    commands: mpsc::Receiver<Command>,
    /// For the outlets of streams that will be opened.
    sender: mpsc::WeakSender<Command>,
    idle: Duration,
}

/// The session's side of a connection.
pub(crate) struct Streams {
    commands: mpsc::Sender<Command>,
    /// Streams as the client opens them.
    pub(crate) opened: mpsc::Receiver<Opened>,
}

impl Streams {
    /// The outlet of a stream that is there from the beginning.
    pub(crate) fn outlet(&self, id: u32) -> Outlet {
        Outlet {
            id,
            commands: self.commands.clone(),
        }
    }
}

impl<L: Link> Mux<L> {
    /// A connection that ends when nothing is sent either way for `idle`.
    pub(crate) fn new(link: L, idle: Duration) -> (Self, Streams) {
        let (sender, commands) = mpsc::channel(COMMANDS);
        let (tell, opened) = mpsc::channel(UNSEEN);
        let mux = Self {
            link,
            readers: HashMap::new(),
            opened: tell,
            commands,
            sender: sender.downgrade(),
            idle,
        };
        let streams = Streams {
            commands: sender,
            opened,
        };
        (mux, streams)
    }

    /// The inlet of a stream that is there from the beginning.
    pub(crate) fn inlet(&mut self, id: u32) -> Inlet {
        let (sender, pieces) = mpsc::channel(LAG);
        let (tell, reset) = watch::channel(false);
        let reader = Reader {
            pieces: Some(sender),
            reset: tell,
            finished: false,
        };
        self.readers.insert(id, reader);
        Inlet { pieces, reset }
    }

    /// Drives the connection until `session` is done and all it sent has gone out,
    /// or the client is gone; `session` is dropped then. It must own its
    /// [`Streams`], and drop them when it is done.
    pub(crate) async fn run(mut self, session: impl Future<Output = ()>) -> End {
        let end = {
            let driver = self.drive();
            tokio::pin!(driver);
            let mut session = Some(Box::pin(session));
            loop {
                tokio::select! {
                    biased;
                    end = &mut driver => break end,
                    () = async {
                        match session.as_mut() {
                            Some(session) => session.await,
                            None => std::future::pending().await,
                        }
                    } => session = None,
                }
            }
        };
        match end {
            Ok(end @ End::Done) => {
                self.close().await;
                end
            }
            Ok(end) => end,
            Err(broken) => {
                if !matches!(broken, Broken::Io(_)) {
                    self.link.goodbye(true);
                    let flush = poll_fn(|cx| self.link.poll_flush(cx));
                    let _ = timeout(LINGER, flush).await;
                }
                End::Gone(Some(broken))
            }
        }
    }

    /// Until the session has dropped all it could send with, the client is gone, or
    /// nothing happens.
    async fn drive(&mut self) -> Result<End, Broken> {
        // The piece that the reader before it has no room for.
        let mut held: Option<(mpsc::Sender<Bytes>, Bytes)> = None;
        let mut last = Instant::now();
        loop {
            let stopped = held.as_ref().map(|(reader, _)| reader.clone());
            let step = tokio::select! {
                step = step(&mut self.link, held.is_none()) => step?,
                command = self.commands.recv(), if self.link.buffered() < OUT_MAX => {
                    match command {
                        Some(command) => Step::Send(command),
                        None => return Ok(End::Done),
                    }
                }
                () = has_room(stopped.as_ref()), if stopped.is_some() => Step::Room,
                () = sleep(PING), if stopped.is_some() => Step::Ping,
                () = sleep_until(last + self.idle) => return Ok(End::Idle),
            };
            match step {
                Step::Sent => {}
                Step::Send(command) => {
                    last = Instant::now();
                    self.sending(&command);
                    self.link.push(command);
                }
                Step::Received(None) => return Ok(End::Gone(None)),
                Step::Received(Some(event)) => {
                    last = Instant::now();
                    held = self.received(event);
                }
                Step::Room => {
                    if let Some((reader, piece)) = held.take() {
                        held = give(&reader, piece).map(|piece| (reader, piece));
                    }
                }
                // What waits already does the same.
                Step::Ping if self.link.buffered() > 0 => {}
                Step::Ping => self.link.ping(),
            }
        }
    }

    /// Notes the end of a stream that the session ends.
    fn sending(&mut self, command: &Command) {
        match command {
            Command::Data(..) => {}
            Command::Finish(id) => {
                if let Some(reader) = self.readers.get_mut(id) {
                    reader.finished = true;
                    if reader.pieces.is_none() {
                        self.readers.remove(id);
                    }
                }
            }
            Command::Reset(id) => {
                self.readers.remove(id);
            }
        }
    }

    /// Passes an event on; returns what its reader has no room for.
    fn received(&mut self, event: Event) -> Option<(mpsc::Sender<Bytes>, Bytes)> {
        match event {
            Event::Data(id, piece) => {
                let reader = self.readers.get(&id)?.pieces.as_ref()?;
                let left = give(reader, piece)?;
                return Some((reader.clone(), left));
            }
            Event::Ended(id) => {
                if let Some(reader) = self.readers.get_mut(&id) {
                    reader.pieces = None;
                    if reader.finished {
                        self.readers.remove(&id);
                    }
                }
            }
            Event::Reset(id) => {
                if let Some(reader) = self.readers.remove(&id) {
                    reader.reset.send_replace(true);
                }
            }
            Event::Opened(id, headers) => {
                let inlet = self.inlet(id);
                let told = self.sender.upgrade().and_then(|commands| {
                    let outlet = Outlet { id, commands };
                    let opened = Opened {
                        headers,
                        inlet,
                        outlet,
                    };
                    self.opened.try_send(opened).ok()
                });
                if told.is_none() {
                    self.readers.remove(&id);
                    self.link.push(Command::Reset(id));
                }
            }
        }
        None
    }

    /// Says goodbye: sends what waits, then closes without cutting off what the
    /// client has not read yet. A socket that is closed with unread bytes in it
    /// resets the connection, so the client's are read until it closes too.
    async fn close(mut self) {
        self.link.goodbye(false);
        loop {
            let before = self.link.buffered();
            let progress = poll_fn(|cx| match self.link.poll_flush(cx) {
                Poll::Ready(done) => Poll::Ready(done.map(|()| true)),
                Poll::Pending if self.link.buffered() < before => Poll::Ready(Ok(false)),
                Poll::Pending => Poll::Pending,
            });
            match timeout(FLUSH, progress).await {
                Ok(Ok(true)) => break,
                Ok(Ok(false)) => {}
                Ok(Err(_)) | Err(_) => return,
            }
        }
        let rest = async {
            if poll_fn(|cx| self.link.poll_close(cx)).await.is_err() {
                return;
            }
            while let Ok(Some(_)) = poll_fn(|cx| self.link.poll_receive(cx)).await {}
        };
        let _ = timeout(LINGER, rest).await;
    }
}

enum Step {
    /// Some of what waited is on its way.
    Sent,
    Received(Option<Event>),
    Send(Command),
    Room,
    Ping,
}

/// Sends and receives, whichever is possible first.
async fn step<L: Link>(link: &mut L, reading: bool) -> Result<Step, Broken> {
    poll_fn(|cx| {
        let before = link.buffered();
        if before > 0 {
            match link.poll_flush(cx) {
                Poll::Ready(sent) => return Poll::Ready(sent.map(|()| Step::Sent)),
                Poll::Pending if link.buffered() < before => return Poll::Ready(Ok(Step::Sent)),
                Poll::Pending => {}
            }
        }
        if reading {
            return link
                .poll_receive(cx)
                .map(|received| received.map(Step::Received));
        }
        Poll::Pending
    })
    .await
}

/// Gives a piece to its reader; returns it when there is no room. Nobody reads any
/// more: it is dropped.
fn give(reader: &mpsc::Sender<Bytes>, piece: Bytes) -> Option<Bytes> {
    match reader.try_send(piece) {
        Err(TrySendError::Full(piece)) => Some(piece),
        Ok(()) | Err(TrySendError::Closed(_)) => None,
    }
}

/// Returns when a reader has room, or is gone.
async fn has_room(reader: Option<&mpsc::Sender<Bytes>>) {
    if let Some(reader) = reader {
        // The permit goes back at once; only this task sends to it.
        drop(reader.reserve().await);
    }
}
