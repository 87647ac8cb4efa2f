//! Where a process's output goes.
//!
//! One task a stream. It connects, reads batches, puts each where it belongs,
//! and acknowledges it only then; when the connection breaks it connects anew at
//! the offset it stands at, for as long as the sandbox lives.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, sleep_until, timeout},
};
use tracing::{debug, warn};

use super::{
    connection::{Batch, OpenError, OutputConnection},
    drain::Drain,
};
use crate::{
    agent::Agent,
    clock,
    error::{Error, Result},
    log::{ContainerLog, format},
    spec::{Exit, ProcessId, Stream},
};

/// How a process ended, once it has: shared by everyone who waits.
pub type ExitWatch = watch::Receiver<Option<std::result::Result<Exit, Arc<Error>>>>;

/// Batches a reader may lag behind.
pub const CHANNEL: usize = 4;
/// Longest time that one follower may hold up a container's output before it is
/// cut off.
const FOLLOWER_PATIENCE: Duration = Duration::from_millis(250);
/// First and longest pause before a stream is connected anew.
const RETRY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));

/// A container's output: its log, and whoever follows.
#[derive(Debug)]
pub struct ContainerOutput {
    log: Arc<Mutex<ContainerLog>>,
    followers: Mutex<Followers>,
    complete: watch::Sender<[bool; 2]>,
}

#[derive(Debug, Default)]
struct Followers {
    channels: [Vec<mpsc::Sender<Vec<u8>>>; 2],
    ended: [bool; 2],
}

impl ContainerOutput {
    /// Output into `log`. Without stderr (a terminal), that counts as complete.
    #[must_use]
    pub fn new(log: ContainerLog, has_stderr: bool) -> Self {
        Self {
            log: Arc::new(Mutex::new(log)),
            followers: Mutex::new(Followers {
                ended: [false, !has_stderr],
                ..Default::default()
            }),
            complete: watch::Sender::new([false, !has_stderr]),
        }
    }

    /// Follows a stream from now on. The channel ends when the stream is complete,
    /// or when the follower is too slow.
    pub fn follow(&self, stream: Stream) -> mpsc::Receiver<Vec<u8>> {
        let (sender, receiver) = mpsc::channel(CHANNEL);
        let mut followers = lock(&self.followers);
        let i = format::index(stream);
        if followers.ended.get(i) == Some(&false)
            && let Some(channels) = followers.channels.get_mut(i)
        {
            channels.push(sender);
        }
        receiver
    }

    /// Turns to a new log file after the old one was renamed.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn reopen(&self) -> std::io::Result<()> {
        self.with_log(ContainerLog::reopen).await
    }

    /// Waits until every stream is complete: its last byte is in the log.
    pub async fn completed(&self) {
        let mut complete = self.complete.subscribe();
        // The sender lives in self: no error can come.
        let _ = complete.wait_for(|done| *done == [true, true]).await;
    }

    /// Bytes of output that could not be logged.
    pub async fn dropped(&self) -> u64 {
        self.with_log(|log| log.dropped()).await
    }

    /// Works on the log where blocking is allowed.
    async fn with_log<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut ContainerLog) -> T + Send + 'static,
    ) -> T {
        let log = Arc::clone(&self.log);
        let task = tokio::task::spawn_blocking(move || work(&mut lock(&log)));
        match task.await {
            Ok(done) => done,
            Err(e) if e.is_panic() => std::panic::resume_unwind(e.into_panic()),
            // The runtime is shutting down: nothing goes on from here.
            Err(_) => std::future::pending().await,
        }
    }

    fn mark_complete(&self, stream: Stream) {
        self.complete.send_if_modified(|done| {
            done.get_mut(format::index(stream))
                .is_some_and(|done| !std::mem::replace(done, true))
        });
    }

    fn end_followers(&self, stream: Stream) {
        let mut followers = lock(&self.followers);
        let i = format::index(stream);
        if let Some(ended) = followers.ended.get_mut(i) {
            *ended = true;
        }
        if let Some(channels) = followers.channels.get_mut(i) {
            channels.clear();
        }
    }

    async fn tell_followers(&self, stream: Stream, batch: &Batch) {
        let i = format::index(stream);
        let channels = match lock(&self.followers).channels.get(i) {
            Some(channels) if !channels.is_empty() => channels.clone(),
            _ => return,
        };
        let bytes: Vec<u8> = batch.pieces().flatten().copied().collect();
        for channel in channels {
            let lost = match channel.try_send(bytes.clone()) {
                Ok(()) => false,
                Err(mpsc::error::TrySendError::Closed(_)) => true,
                Err(mpsc::error::TrySendError::Full(bytes)) => {
                    let sent = timeout(FOLLOWER_PATIENCE, channel.send(bytes)).await;
                    !matches!(sent, Ok(Ok(())))
                }
            };
            if lost && let Some(channels) = lock(&self.followers).channels.get_mut(i) {
                channels.retain(|other| !other.same_channel(&channel));
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the bytes of one stream go.
enum Sink {
    Log(Arc<ContainerOutput>),
    /// An exec's reader; `None` once it has gone: the rest is thrown away, so
    /// that the process does not stand still.
    Reader {
        channel: Option<mpsc::Sender<Vec<u8>>>,
        settled: u64,
    },
}

impl Sink {
    /// A new connection is made: where the stream goes on.
    async fn offset(&self, stream: Stream) -> u64 {
        match self {
            Self::Log(output) => output.with_log(move |log| log.rewind(stream)).await.settled,
            Self::Reader { settled, .. } => *settled,
        }
    }

    /// The agent goes on at another offset than asked for.
    async fn skip_to(&mut self, process: &ProcessId, stream: Stream, offset: u64) {
        let missed = match self {
            Self::Log(output) => {
                let skip =
                    move |log: &mut ContainerLog| log.skip_to(stream, offset, clock::unix_ns());
                output.with_log(skip).await
            }
            Self::Reader { settled, .. } => {
                let missed = offset.saturating_sub(*settled);
                *settled = offset;
                missed
            }
        };
        if missed > 0 {
            warn!(
                container = %process.container_id, exec = %process.exec_id, ?stream, missed,
                "the guest no longer has bytes of a process's output"
            );
        }
    }

    /// Takes a batch; returns what may be acknowledged.
    async fn take(&mut self, stream: Stream, batch: Batch) -> u64 {
        match self {
            Self::Log(output) => {
                output.tell_followers(stream, &batch).await;
                let append = move |log: &mut ContainerLog| {
                    log.append(stream, batch.pieces(), clock::unix_ns())
                };
                output.with_log(append).await.settled
            }
            Self::Reader { channel, settled } => {
                *settled += batch.len() as u64;
                if let Some(reader) = channel {
                    let bytes: Vec<u8> = batch.pieces().flatten().copied().collect();
                    if reader.send(bytes).await.is_err() {
                        *channel = None;
                    }
                }
                *settled
            }
        }
    }

    /// The output is complete, though more may yet come and be logged; returns
    /// what may be acknowledged.
    async fn complete(&mut self, stream: Stream) -> u64 {
        match self {
            Self::Log(output) => {
                let end = move |log: &mut ContainerLog| log.end(stream, clock::unix_ns());
                let settled = output.with_log(end).await.settled;
                output.end_followers(stream);
                output.mark_complete(stream);
                settled
            }
            Self::Reader { channel, settled } => {
                *channel = None;
                *settled
            }
        }
    }
}

/// Drains a container's stream into its log until the stream or the sandbox ends.
pub async fn pump_container(
    agent: Arc<Agent>,
    process: ProcessId,
    stream: Stream,
    output: Arc<ContainerOutput>,
    exit: ExitWatch,
) {
    let sink = Sink::Log(output);
    Pump::new(agent, process, stream, sink, exit).run().await;
}

/// Drains an exec's stream to its reader, or to nobody.
pub async fn pump_exec(
    agent: Arc<Agent>,
    process: ProcessId,
    stream: Stream,
    reader: Option<mpsc::Sender<Vec<u8>>>,
    exit: ExitWatch,
) {
    let sink = Sink::Reader {
        channel: reader,
        settled: 0,
    };
    Pump::new(agent, process, stream, sink, exit).run().await;
}

struct Pump {
    agent: Arc<Agent>,
    process: ProcessId,
    stream: Stream,
    sink: Sink,
    exit: ExitWatch,
    drain: Option<Drain>,
    complete: bool,
}

/// What a connection came to.
enum Ended {
    Stream,
    Connection,
}

impl Pump {
    fn new(
        agent: Arc<Agent>,
        process: ProcessId,
        stream: Stream,
        sink: Sink,
        exit: ExitWatch,
    ) -> Self {
        Self {
            agent,
            process,
            stream,
            sink,
            exit,
            drain: None,
            complete: false,
        }
    }

    async fn run(mut self) {
        let agent = Arc::clone(&self.agent);
        let mut pause = RETRY.0;
        loop {
            let offset = self.sink.offset(self.stream).await;
            let opened = tokio::select! {
                biased;
                opened = OutputConnection::open(
                    agent.dialer(), &self.process, self.stream, offset) => opened,
                _ = agent.sandbox_dead() => break,
            };
            match opened {
                Ok(connection) => {
                    let before = connection.offset();
                    if before != offset {
                        self.sink.skip_to(&self.process, self.stream, before).await;
                    }
                    if matches!(self.serve(connection).await, Ended::Stream) {
                        break;
                    }
                    if self.sink.offset(self.stream).await > before {
                        pause = RETRY.0;
                    }
                }
                Err(OpenError::Refused(why)) => {
                    debug!(container = %self.process.container_id, "no {:?}: {why}", self.stream);
                    break;
                }
                Err(OpenError::Broken(e)) => {
                    debug!(container = %self.process.container_id, "{:?}: {e}", self.stream);
                }
            }
            tokio::select! {
                biased;
                _ = agent.sandbox_dead() => break,
                () = sleep(pause) => {}
            }
            if let Some(drain) = &mut self.drain {
                drain.took(0, pause);
                if drain.deadline(offset, Instant::now()).is_none() {
                    self.note_missing(offset);
                    break;
                }
            }
            pause = (pause * 2).min(RETRY.1);
        }
        self.complete().await;
    }

    /// Serves one connection.
    async fn serve(&mut self, mut connection: OutputConnection) -> Ended {
        loop {
            let (began, offset) = (Instant::now(), connection.offset());
            let read = tokio::select! {
                biased;
                read = connection.read() => Some(read),
                () = Self::exited(&mut self.exit), if self.drain.is_none() => {
                    self.drain = Some(Drain::begin(self.length()));
                    continue;
                }
                () = drained(self.drain.as_ref(), offset, began),
                    if !self.complete => None,
            };
            let acknowledged = match read {
                Some(Ok(batch)) => {
                    if let Some(drain) = &mut self.drain {
                        drain.took(batch.len(), began.elapsed());
                    }
                    if began.elapsed() > Duration::from_millis(50) {
                        connection.rest();
                    }
                    let ended = batch.ended;
                    let settled = if batch.is_empty() {
                        0 // the end alone
                    } else {
                        self.sink.take(self.stream, batch).await
                    };
                    if ended {
                        let settled = self.complete().await.max(settled);
                        // For the agent's sake alone; nothing depends on it.
                        let _ = connection.acknowledge(settled).await;
                        return Ended::Stream;
                    }
                    settled
                }
                Some(Err(e)) => {
                    debug!(container = %self.process.container_id, "{:?}: {e}", self.stream);
                    return Ended::Connection;
                }
                None => {
                    self.note_missing(offset);
                    self.complete().await
                }
            };
            if connection.acknowledge(acknowledged).await.is_err() {
                return Ended::Connection;
            }
        }
    }

    async fn complete(&mut self) -> u64 {
        self.complete = true;
        self.sink.complete(self.stream).await
    }

    async fn exited(exit: &mut ExitWatch) {
        if exit.wait_for(Option::is_some).await.is_err() {
            // Whoever watched the process is gone; so will this task be.
            std::future::pending::<()>().await;
        }
    }

    /// Length of the stream at the process's end, when that is known.
    fn length(&self) -> Option<u64> {
        let exit = self.exit.borrow();
        exit.as_ref()?.as_ref().ok()?.written.of(self.stream)
    }

    fn note_missing(&self, offset: u64) {
        let missing = self.drain.map_or(0, |drain| drain.missing(offset));
        if missing > 0 {
            warn!(
                container = %self.process.container_id, exec = %self.process.exec_id,
                stream = ?self.stream, missing,
                "the guest does not send output that it says an ended process has written"
            );
        }
    }
}

/// Returns when an ended process's output, got up to `offset`, counts as complete.
async fn drained(drain: Option<&Drain>, offset: u64, began: Instant) {
    match drain.map(|drain| drain.deadline(offset, began)) {
        None => std::future::pending().await,
        Some(None) => {}
        Some(Some(until)) => sleep_until(until).await,
    }
}

/// Watches for a process's end, for everybody who wants to know.
pub async fn watch_exit(
    agent: Arc<Agent>,
    process: ProcessId,
    tell: watch::Sender<Option<std::result::Result<Exit, Arc<Error>>>>,
) {
    let result: Result<Exit> = agent.wait(&process).await;
    tell.send_replace(Some(result.map_err(Arc::new)));
}
