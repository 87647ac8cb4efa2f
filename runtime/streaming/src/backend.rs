//! What is behind the server: processes and ports of pods, which this crate knows
//! only by these traits.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};

/// Why something can't be done, for the user at the other end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure(pub String);

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// Terminal size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSize {
    /// Columns.
    pub columns: u16,
    /// Rows.
    pub rows: u16,
}

/// The streams of a session, as its RPC asked for them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Standard {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error; not with a terminal, which has one output.
    pub stderr: bool,
    /// Whether there is a terminal.
    pub tty: bool,
}

/// A process that a session will be connected to: one that is yet to be run (exec),
/// or one that runs (attach).
#[async_trait]
pub trait Command: Send + Sync + 'static {
    /// Runs it, or finds it; called once, when all streams of the session are there.
    ///
    /// # Errors
    /// Shown to the user.
    async fn start(&self) -> Result<Box<dyn Process>, Failure>;
}

/// A process of a session. Dropping it ends what the session started.
#[async_trait]
pub trait Process: Send {
    /// What it writes, and at last how it ended; after that it is not called again.
    /// The end comes after the last byte of output. May be dropped and called again
    /// without a loss.
    async fn next(&mut self) -> Output;

    /// Its standard input, once; dropping it closes that. `None`: it has none.
    fn stdin(&mut self) -> Option<mpsc::Sender<Vec<u8>>>;

    /// Its terminal.
    fn terminal(&self) -> Arc<dyn Terminal>;
}

/// What a process writes.
#[derive(Debug)]
pub enum Output {
    /// Standard output; with a terminal, all output.
    Stdout(Bytes),
    /// Standard error.
    Stderr(Bytes),
    /// How it ended: exit status, or 128 + signal.
    End(Result<i32, Failure>),
}

/// A process's terminal.
#[async_trait]
pub trait Terminal: Send + Sync {
    /// Changes its size. Failures are for the log only: the process may have ended.
    async fn resize(&self, size: WindowSize);
}

/// Ports of a pod.
#[async_trait]
pub trait Ports: Send + Sync + 'static {
    /// Connects to one. Each direction ends by itself; dropping the connection ends
    /// both.
    ///
    /// # Errors
    /// Shown to the user.
    async fn dial(&self, port: u16) -> Result<Box<dyn Connection>, Failure>;
}

/// A connection's two directions.
pub trait Connection: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Connection for T {}
