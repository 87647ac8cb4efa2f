//! The two ends of a stream: a descriptor in the guest and a connection to the
//! daemon, each with a task of its own, joined by the state in `output`/`input`.

use std::{
    cell::RefCell,
    io,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bulkhead_agent_api::stdio::{Frame, FrameError};
use rustix::io::Errno;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, unix::AsyncFd},
    sync::watch,
};

use super::{input::Input, output::Output};

/// A descriptor the agent reads or writes without blocking.
pub type Pipe = Arc<AsyncFd<OwnedFd>>;

/// Most bytes read from a process at once.
const READ: usize = 64 << 10;

/// Makes a descriptor ready for [`OutputStream::pump`] and [`InputStream::pump`].
///
/// # Errors
/// When the descriptor cannot be polled.
pub fn pipe(fd: OwnedFd) -> io::Result<Pipe> {
    let flags = rustix::fs::fcntl_getfl(&fd)?;
    rustix::fs::fcntl_setfl(&fd, flags | rustix::fs::OFlags::NONBLOCK)?;
    crate::sys::pollable(fd).map(Arc::new)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One connection at a time: taking the turn ends whoever had it.
#[derive(Debug)]
struct Turn(watch::Sender<u64>);

impl Turn {
    fn new() -> Self {
        Self(watch::Sender::new(0))
    }

    /// Resolves when a newer connection has come.
    fn take(&self) -> impl Future<Output = ()> + use<> {
        self.0.send_modify(|turn| *turn += 1);
        let mut seen = self.0.subscribe();
        async move {
            let _ = seen.changed().await;
        }
    }
}

/// Process output on its way to the daemon.
#[derive(Debug)]
pub struct OutputStream {
    state: Mutex<Output>,
    /// What is read from, until its end.
    source: Mutex<Option<Pipe>>,
    /// Told when there is more to send.
    grown: watch::Sender<()>,
    /// Told when there is more room.
    trimmed: watch::Sender<()>,
    turn: Turn,
}

impl OutputStream {
    /// What comes from `source`, of which at most `limit` unacknowledged bytes are
    /// kept.
    #[must_use]
    pub fn new(source: Pipe, limit: usize) -> Self {
        Self {
            state: Mutex::new(Output::new(limit)),
            source: Mutex::new(Some(source)),
            grown: watch::Sender::new(()),
            trimmed: watch::Sender::new(()),
            turn: Turn::new(),
        }
    }

    /// Bytes written to the stream so far, those that still lie in the pipe among
    /// them; `None` when the kernel won't say.
    #[must_use]
    pub fn length(&self) -> Option<u64> {
        // Held while the pump moves bytes from the pipe to the state.
        let state = lock(&self.state);
        let in_pipe = match &*lock(&self.source) {
            Some(pipe) => rustix::io::ioctl_fionread(pipe.get_ref()).ok()?,
            None => 0,
        };
        Some(state.written() + in_pipe)
    }

    /// Reads the process's output until no writer is left.
    pub async fn pump(&self) {
        let source = lock(&self.source).clone();
        if let Some(source) = source {
            self.read_all(&source).await;
        }
        lock(&self.state).end();
        *lock(&self.source) = None;
        self.grown.send_replace(());
    }

    async fn read_all(&self, from: &Pipe) {
        thread_local! {
            // One buffer serves all streams: it is emptied before any await.
            static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ]);
        }
        let mut trimmed = self.trimmed.subscribe();
        loop {
            let room = lock(&self.state).room();
            if room == 0 {
                if trimmed.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let Ok(mut ready) = from.readable().await else {
                break;
            };
            let read = ready.try_io(|fd| {
                BUFFER.with_borrow_mut(|buffer| {
                    let len = room.min(buffer.len());
                    let space = buffer.get_mut(..len).unwrap_or(&mut []);
                    let mut state = lock(&self.state);
                    let count = rustix::io::read(fd.get_ref(), space)?;
                    state.push(buffer.get(..count).unwrap_or(&[]));
                    Ok(count)
                })
            });
            match read {
                Ok(Ok(0)) => break,
                Ok(Ok(_)) => {
                    self.grown.send_replace(());
                }
                Ok(Err(why)) if why.kind() == io::ErrorKind::Interrupted => {}
                // EIO from a terminal: its last user has closed it.
                Ok(Err(_)) => break,
                Err(_would_block) => {}
            }
        }
    }

    /// Serves one connection from `offset`, until it ends or a newer one comes.
    ///
    /// # Errors
    /// The peer's fault or the connection's; the stream itself is unharmed.
    pub async fn serve<C>(&self, connection: C, offset: u64) -> Result<(), FrameError>
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut from, mut to) = tokio::io::split(connection);
        let replaced = self.turn.take();
        let mut grown = self.grown.subscribe();
        let resumed = lock(&self.state).resume(offset);
        self.trimmed.send_replace(());
        let mut cursor = match resumed {
            Ok(cursor) => cursor,
            Err(why) => {
                Frame::Refused(why.to_string()).write(&mut to).await?;
                return Ok(());
            }
        };
        Frame::Accepted(cursor.next()).write(&mut to).await?;
        let send = async {
            let mut wire = Vec::new();
            loop {
                let some = {
                    let state = lock(&self.state);
                    cursor.next_frame(&state, &mut wire)
                };
                if some {
                    to.write_all(&wire).await?;
                } else if grown.changed().await.is_err() {
                    return Ok(());
                }
            }
        };
        let receive = async {
            while let Some(frame) = Frame::read(&mut from).await? {
                let Frame::Ack(offset) = frame else {
                    return Err(FrameError::Malformed("not an acknowledgement"));
                };
                lock(&self.state)
                    .acknowledge(offset)
                    .map_err(|_| FrameError::Malformed("acknowledges what was never sent"))?;
                self.trimmed.send_replace(());
            }
            Ok(())
        };
        tokio::select! {
            done = send => done,
            done = receive => done,
            () = replaced => Ok(()),
        }
    }
}

/// The daemon's input on its way to a process.
#[derive(Debug)]
pub struct InputStream {
    state: Mutex<Input>,
    /// Told when there is more to write.
    grown: watch::Sender<()>,
    /// Told when the process has taken some.
    written: watch::Sender<()>,
    turn: Turn,
    /// End the input with its first connection, however that ends.
    once: bool,
}

impl InputStream {
    /// A stream that ends with its first connection if `once`.
    #[must_use]
    pub fn new(once: bool) -> Self {
        Self {
            state: Mutex::new(Input::default()),
            grown: watch::Sender::new(()),
            written: watch::Sender::new(()),
            turn: Turn::new(),
            once,
        }
    }

    /// Writes input to the process. Returns, and so closes the pipe, when the
    /// input has ended or nobody reads it.
    pub async fn pump(&self, to: Pipe) {
        let mut grown = self.grown.subscribe();
        loop {
            let (done, idle) = {
                let state = lock(&self.state);
                (state.is_done(), state.pending().is_empty())
            };
            if done {
                return;
            }
            if idle {
                if grown.changed().await.is_err() {
                    return;
                }
                continue;
            }
            let Ok(mut ready) = to.writable().await else {
                return self.discard();
            };
            let wrote = ready.try_io(|fd| {
                let mut state = lock(&self.state);
                let count = rustix::io::write(fd.get_ref(), state.pending())?;
                state.advance(count);
                Ok(())
            });
            match wrote {
                Ok(Ok(())) => {
                    self.written.send_replace(());
                }
                Ok(Err(why)) if why.kind() == io::ErrorKind::Interrupted => {}
                Ok(Err(_)) => return self.discard(),
                Err(_would_block) => {}
            }
        }
    }

    /// Nobody will read this input.
    pub fn discard(&self) {
        lock(&self.state).discard();
        self.written.send_replace(());
        self.grown.send_replace(());
    }

    /// Serves one connection, until it ends or a newer one comes.
    ///
    /// # Errors
    /// The peer's fault or the connection's.
    pub async fn serve<C>(&self, connection: C) -> Result<(), FrameError>
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        let replaced = self.turn.take();
        let result = tokio::select! {
            done = self.converse(connection) => done,
            () = replaced => return Ok(()),
        };
        if self.once {
            lock(&self.state).end();
            self.grown.send_replace(());
        }
        result
    }

    async fn converse<C>(&self, connection: C) -> Result<(), FrameError>
    where
        C: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut from, mut to) = tokio::io::split(connection);
        let mut written = self.written.subscribe();
        let start = lock(&self.state).taken();
        Frame::Accepted(start).write(&mut to).await?;
        let receive = async {
            let mut room = self.written.subscribe();
            loop {
                if lock(&self.state).is_full() {
                    let _ = room.changed().await;
                    continue;
                }
                let broken = |_| FrameError::Malformed("input out of sequence");
                match Frame::read(&mut from).await? {
                    Some(Frame::Data(offset, bytes)) => {
                        lock(&self.state).take(offset, &bytes).map_err(broken)?;
                    }
                    Some(Frame::Eof(offset)) => {
                        lock(&self.state).end_at(offset).map_err(broken)?;
                    }
                    Some(_) => return Err(FrameError::Malformed("not input")),
                    None => return Ok(()),
                }
                self.grown.send_replace(());
                // What nobody reads counts as written at once.
                self.written.send_replace(());
            }
        };
        let acknowledge = async {
            let mut told = start;
            loop {
                let at = lock(&self.state).written();
                if at > told {
                    told = at;
                    Frame::Ack(at).write(&mut to).await?;
                } else if written.changed().await.is_err() {
                    return Ok(());
                }
            }
        };
        tokio::select! {
            done = receive => done,
            done = acknowledge => done,
        }
    }
}

/// Whether an error only says that the other side is gone.
#[must_use]
pub fn is_hangup(error: &FrameError) -> bool {
    matches!(error, FrameError::Io(why) if matches!(
        Errno::from_io_error(why),
        Some(Errno::PIPE | Errno::CONNRESET | Errno::NOTCONN)
    ) || why.kind() == io::ErrorKind::UnexpectedEof)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;

    async fn expect(from: &mut (impl AsyncRead + Unpin)) -> Frame {
        Frame::read(from).await.unwrap().unwrap()
    }

    #[tokio::test]
    async fn output_survives_lost_connections() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let stream = Arc::new(OutputStream::new(pipe(read).unwrap(), 8));
        let pump = tokio::spawn({
            let stream = Arc::clone(&stream);
            async move { stream.pump().await }
        });
        rustix::io::write(&write, b"0123456789").unwrap();
        drop(write);

        let (mut daemon, agent) = duplex(1 << 20);
        let first = tokio::spawn({
            let stream = Arc::clone(&stream);
            async move { stream.serve(agent, 0).await }
        });
        assert_eq!(expect(&mut daemon).await, Frame::Accepted(0));
        // Eight bytes fit; the rest waits in the pipe for an acknowledgement.
        assert_eq!(
            expect(&mut daemon).await,
            Frame::Data(0, b"01234567".to_vec())
        );
        Frame::Ack(3).write(&mut daemon).await.unwrap();
        assert_eq!(expect(&mut daemon).await, Frame::Data(8, b"89".to_vec()));

        // A second connection replaces the first and begins where it says.
        let (mut next, agent) = duplex(1 << 20);
        let second = tokio::spawn({
            let stream = Arc::clone(&stream);
            async move { stream.serve(agent, 5).await }
        });
        assert_eq!(expect(&mut next).await, Frame::Accepted(5));
        assert_eq!(expect(&mut next).await, Frame::Data(5, b"56789".to_vec()));
        assert_eq!(expect(&mut next).await, Frame::Eof(10));
        first.await.unwrap().unwrap();
        drop(next);
        second.await.unwrap().unwrap();
        pump.await.unwrap();
    }

    #[tokio::test]
    async fn a_streams_length_counts_what_nobody_has_read() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let stream = Arc::new(OutputStream::new(pipe(read).unwrap(), 4));
        assert_eq!(stream.length(), Some(0));
        rustix::io::write(&write, b"0123456789").unwrap();
        // A process may end before its output was looked at once.
        assert_eq!(stream.length(), Some(10));
        let pump = tokio::spawn({
            let stream = Arc::clone(&stream);
            async move { stream.pump().await }
        });
        // Four are kept, then; six lie in the pipe.
        while lock(&stream.state).written() < 4 {
            assert_eq!(stream.length(), Some(10));
            tokio::task::yield_now().await;
        }
        lock(&stream.state).acknowledge(4).unwrap();
        stream.trimmed.send_replace(());
        while lock(&stream.state).written() < 8 {
            assert_eq!(stream.length(), Some(10));
            tokio::task::yield_now().await;
        }
        lock(&stream.state).acknowledge(8).unwrap();
        stream.trimmed.send_replace(());
        drop(write);
        pump.await.unwrap();
        assert_eq!(stream.length(), Some(10));
    }

    #[tokio::test]
    async fn input_is_acknowledged_when_the_process_has_it() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let stream = Arc::new(InputStream::new(false));
        let pump = tokio::spawn({
            let stream = Arc::clone(&stream);
            let write = pipe(write).unwrap();
            async move { stream.pump(write).await }
        });
        let (mut daemon, agent) = duplex(1 << 20);
        let serve = tokio::spawn({
            let stream = Arc::clone(&stream);
            async move { stream.serve(agent).await }
        });
        assert_eq!(expect(&mut daemon).await, Frame::Accepted(0));
        Frame::Data(0, b"hello".to_vec())
            .write(&mut daemon)
            .await
            .unwrap();
        assert_eq!(expect(&mut daemon).await, Frame::Ack(5));
        Frame::Eof(5).write(&mut daemon).await.unwrap();
        pump.await.unwrap();
        let mut got = [0; 16];
        assert_eq!(rustix::io::read(&read, &mut got).unwrap(), 5);
        assert_eq!(&got[..5], b"hello");
        // The pipe is closed: the process sees the end.
        assert_eq!(rustix::io::read(&read, &mut got).unwrap(), 0);
        drop(daemon);
        serve.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn input_to_a_closed_pipe_is_swallowed() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        drop(read);
        let stream = Arc::new(InputStream::new(false));
        let pump = tokio::spawn({
            let stream = Arc::clone(&stream);
            let write = pipe(write).unwrap();
            async move { stream.pump(write).await }
        });
        let (mut daemon, agent) = duplex(1 << 20);
        tokio::spawn({
            let stream = Arc::clone(&stream);
            async move { stream.serve(agent).await }
        });
        assert_eq!(expect(&mut daemon).await, Frame::Accepted(0));
        Frame::Data(0, b"one".to_vec())
            .write(&mut daemon)
            .await
            .unwrap();
        assert_eq!(expect(&mut daemon).await, Frame::Ack(3));
        Frame::Data(3, b"two".to_vec())
            .write(&mut daemon)
            .await
            .unwrap();
        assert_eq!(expect(&mut daemon).await, Frame::Ack(6));
        pump.await.unwrap();
    }

    #[tokio::test]
    async fn stdin_once_ends_with_its_connection() {
        let (read, write) = rustix::pipe::pipe().unwrap();
        let stream = Arc::new(InputStream::new(true));
        let pump = tokio::spawn({
            let stream = Arc::clone(&stream);
            let write = pipe(write).unwrap();
            async move { stream.pump(write).await }
        });
        let (daemon, agent) = duplex(1 << 20);
        drop(daemon);
        let _ = stream.serve(agent).await;
        pump.await.unwrap();
        let mut got = [0; 4];
        assert_eq!(rustix::io::read(&read, &mut got).unwrap(), 0);
    }
}
