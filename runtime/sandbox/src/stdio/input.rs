//! A process's stdin.

use std::{collections::VecDeque, io, sync::Arc, time::Duration};

use bulkhead_agent_api::{
    agent::stdio_hello,
    stdio::{Frame, FrameError, MAX_DATA},
};
use tokio::{
    io::AsyncWriteExt as _,
    net::UnixStream,
    sync::mpsc,
    time::{Instant, sleep, timeout_at},
};
use tracing::debug;

use super::connection::{self, OpenError};
use crate::{
    agent::Agent,
    error::{Error, ErrorKind, Result},
    spec::ProcessId,
};

/// Most bytes under way to the process without its having taken them.
const WINDOW: usize = 256 << 10;
/// Chunks a writer may be ahead.
const CHANNEL: usize = 4;
/// First and longest pause before a stream is connected anew.
const RETRY: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(1));
/// Longest time to reach the agent for a new writer.
const OPENING: Duration = Duration::from_secs(10);

/// Opens a process's stdin. With `once`, it is closed for good when the sender is
/// dropped; otherwise only this connection ends.
///
/// # Errors
/// [`ErrorKind::FailedPrecondition`] for a process without a stdin, and whatever
/// keeps the agent from being reached.
pub async fn open(
    agent: Arc<Agent>,
    process: ProcessId,
    once: bool,
) -> Result<mpsc::Sender<Vec<u8>>> {
    let deadline = Instant::now() + OPENING;
    let first = loop {
        match connect(&agent, &process).await {
            Ok(opened) => break opened,
            Err(OpenError::Refused(why)) => {
                return Err(Error::new(ErrorKind::FailedPrecondition, why));
            }
            Err(OpenError::Broken(e)) => {
                if agent.exit_known() {
                    return Err(agent.sandbox_dead().await);
                }
                let wait = timeout_at(deadline, sleep(RETRY.0)).await;
                if wait.is_err() || Instant::now() >= deadline {
                    return Err(Error::new(
                        ErrorKind::DeadlineExceeded,
                        "cannot open a process's stdin",
                    )
                    .caused_by(e));
                }
            }
        }
    };
    let (sender, receiver) = mpsc::channel(CHANNEL);
    let writer = Writer {
        agent,
        process,
        once,
        receiver,
        pending: Pending::at(first.1),
        closed: false,
    };
    tokio::spawn(writer.run(first.0));
    Ok(sender)
}

async fn connect(agent: &Agent, process: &ProcessId) -> Result<(UnixStream, u64), OpenError> {
    connection::open(agent.dialer(), process, stdio_hello::Stream::STDIN, 0).await
}

/// Bytes that the process has not taken yet: pure.
#[derive(Debug)]
struct Pending {
    /// Offset of the first of them in the stream.
    from: u64,
    bytes: VecDeque<u8>,
    /// How many of them this connection was sent.
    sent: usize,
}

impl Pending {
    fn at(offset: u64) -> Self {
        Self {
            from: offset,
            bytes: VecDeque::new(),
            sent: 0,
        }
    }

    fn has_room(&self) -> bool {
        self.bytes.len() < WINDOW
    }

    /// The process has taken everything below `offset`. Offsets that cannot be
    /// are taken for the nearest that can.
    fn taken(&mut self, offset: u64) {
        let done = usize::try_from(offset.saturating_sub(self.from)).unwrap_or(usize::MAX);
        let done = done.min(self.bytes.len());
        self.bytes.drain(..done);
        self.from += done as u64;
        self.sent = self.sent.saturating_sub(done);
    }

    /// A new connection stands at `offset`.
    fn restart(&mut self, offset: u64) {
        self.taken(offset);
        self.sent = 0;
    }

    /// The next frame to send, if there is one.
    fn next_frame(&mut self) -> Option<Frame> {
        let piece: Vec<u8> = self
            .bytes
            .range(self.sent..)
            .take(MAX_DATA)
            .copied()
            .collect();
        if piece.is_empty() {
            return None;
        }
        let offset = self.from + self.sent as u64;
        self.sent += piece.len();
        Some(Frame::Data(offset, piece))
    }
}

struct Writer {
    agent: Arc<Agent>,
    process: ProcessId,
    once: bool,
    receiver: mpsc::Receiver<Vec<u8>>,
    pending: Pending,
    closed: bool,
}

impl Writer {
    async fn run(mut self, first: UnixStream) {
        let mut connection = first;
        let mut pause = RETRY.0;
        loop {
            match self.serve(connection).await {
                Ok(()) => return,
                Err(e) => debug!(container = %self.process.container_id, "stdin: {e}"),
            }
            connection = loop {
                tokio::select! {
                    biased;
                    _ = self.agent.sandbox_dead() => return,
                    () = sleep(pause) => {}
                }
                pause = (pause * 2).min(RETRY.1);
                match connect(&self.agent, &self.process).await {
                    Ok((connection, offset)) => {
                        self.pending.restart(offset);
                        break connection;
                    }
                    // The process is gone, or another writer has closed its stdin.
                    Err(OpenError::Refused(_)) => return,
                    Err(OpenError::Broken(_)) => {}
                }
            };
        }
    }

    /// Serves one connection until everything is delivered (`Ok`) or it breaks.
    async fn serve(&mut self, connection: UnixStream) -> Result<(), FrameError> {
        let (mut from, mut to) = connection.into_split();
        // Frames are read by a task of their own: reading one is not cancel safe.
        let (tell, mut answers) = mpsc::channel(16);
        let reader = tokio::spawn(async move {
            while let Ok(Some(Frame::Ack(offset))) = Frame::read(&mut from).await {
                if tell.send(offset).await.is_err() {
                    return;
                }
            }
        });
        let reader = AbortOnDrop(reader.abort_handle());
        let mut told_end = false;
        let result = loop {
            while let Some(frame) = self.pending.next_frame() {
                frame.write(&mut to).await?;
            }
            if self.closed && self.pending.bytes.is_empty() {
                break Ok(());
            }
            if self.closed && self.once && !told_end {
                let end = self.pending.from + self.pending.bytes.len() as u64;
                Frame::Eof(end).write(&mut to).await?;
                told_end = true;
            }
            tokio::select! {
                answer = answers.recv() => match answer {
                    Some(offset) => self.pending.taken(offset),
                    None => break Err(io::Error::from(io::ErrorKind::BrokenPipe).into()),
                },
                chunk = self.receiver.recv(), if !self.closed && self.pending.has_room() => {
                    match chunk {
                        Some(chunk) => self.pending.bytes.extend(chunk),
                        None => self.closed = true,
                    }
                }
            }
        };
        if result.is_ok() && self.once && !told_end {
            Frame::Eof(self.pending.from).write(&mut to).await?;
        }
        if result.is_ok() {
            to.shutdown().await?;
        }
        drop(reader);
        result
    }
}

struct AbortOnDrop(tokio::task::AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_not_taken_is_sent_again_and_nothing_else() {
        let mut pending = Pending::at(100);
        pending.bytes.extend(b"hello world");
        let Some(Frame::Data(100, first)) = pending.next_frame() else {
            panic!("no frame");
        };
        assert_eq!(first, b"hello world");
        assert_eq!(pending.next_frame(), None);
        pending.taken(105);
        pending.restart(106);
        assert_eq!(
            pending.next_frame(),
            Some(Frame::Data(106, b"world".to_vec()))
        );
        // An agent that claims what cannot be changes nothing beyond it.
        pending.taken(u64::MAX);
        assert_eq!(pending.from, 111);
        pending.taken(3);
        assert_eq!(pending.from, 111);
    }

    #[test]
    fn frames_are_bounded() {
        let mut pending = Pending::at(0);
        pending.bytes.extend(vec![7; MAX_DATA + 1]);
        let Some(Frame::Data(0, first)) = pending.next_frame() else {
            panic!("no frame");
        };
        assert_eq!(first.len(), MAX_DATA);
        assert_eq!(
            pending.next_frame(),
            Some(Frame::Data(MAX_DATA as u64, vec![7]))
        );
        assert!(pending.has_room());
        pending.bytes.extend(vec![7; WINDOW]);
        assert!(!pending.has_room());
    }
}
