//! A process connected to somebody: to a caller that waits for its output, to a
//! client's terminal, to a stream.
//!
//! What it writes and how it ended come in one order: every byte first. The end is
//! the process's own, not its streams': children in the background may hold those
//! open for ever. The sandbox knows when all is there, and closes its channels.

use std::{future::Future, pin::Pin, sync::Arc};

use bulkhead_sandbox::{ErrorKind, ProcessId, Sandbox, Stream, WindowSize};
use tokio::sync::mpsc;

use crate::error::Result;

/// What comes from a process.
#[derive(Debug)]
pub(crate) enum Event {
    /// Standard output; with a terminal, all output.
    Stdout(Vec<u8>),
    /// Standard error.
    Stderr(Vec<u8>),
    /// How it ended, or why that will never be known. Nothing follows.
    End(Result<Ended>),
}

/// How a process ended.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Ended {
    /// Exit status, or 128 + signal.
    pub(crate) code: i32,
    /// One of [`reason`](super::state::reason).
    pub(crate) reason: String,
    /// For people.
    pub(crate) message: String,
}

type Exit = Pin<Box<dyn Future<Output = Result<Ended>> + Send>>;

/// A process and its open streams. Dropping it ends an exec.
pub(crate) struct Session {
    target: Target,
    stdout: mpsc::Receiver<Vec<u8>>,
    stderr: Option<mpsc::Receiver<Vec<u8>>>,
    stdin: Option<mpsc::Sender<Vec<u8>>>,
    /// Whether either stream may yet give something.
    open: bool,
    /// `None` once it is known.
    exit: Option<Exit>,
    ended: Option<Result<Ended>>,
    /// Of an exec.
    _running: Option<Running>,
}

/// Which process: for what is done to it beside its streams.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) sandbox: Arc<dyn Sandbox>,
    pub(crate) process: ProcessId,
}

/// Which streams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) stdin: bool,
    pub(crate) terminal: bool,
}

impl Session {
    /// Opens the streams: from here on no output is missed. `exit` says how the
    /// process ended.
    pub(super) async fn open(
        target: Target,
        wanted: Wanted,
        exit: impl Future<Output = Result<Ended>> + Send + 'static,
        running: Option<Running>,
    ) -> Result<Self> {
        let Target { sandbox, process } = &target;
        let stdout = sandbox.open_output(process, Stream::Stdout).await?;
        let stderr = match wanted.terminal {
            true => None,
            false => Some(sandbox.open_output(process, Stream::Stderr).await?),
        };
        let stdin = match wanted.stdin {
            true => Some(sandbox.open_input(process).await?),
            false => None,
        };
        Ok(Self {
            target,
            stdout,
            stderr,
            stdin,
            open: true,
            exit: Some(Box::pin(exit)),
            ended: None,
            _running: running,
        })
    }

    /// Its process.
    pub(crate) fn target(&self) -> Target {
        self.target.clone()
    }

    /// Its stdin, once; dropping it closes that.
    pub(crate) fn take_stdin(&mut self) -> Option<mpsc::Sender<Vec<u8>>> {
        self.stdin.take()
    }

    /// What comes next. May be dropped and called again without a loss; not after
    /// [`Event::End`].
    pub(crate) async fn next(&mut self) -> Event {
        while let Some(exit) = &mut self.exit {
            let output = output(&mut self.stdout, &mut self.stderr);
            tokio::select! {
                ended = exit => {
                    self.ended = Some(ended);
                    self.exit = None;
                }
                output = output, if self.open => match output {
                    Some(output) => return output,
                    None => self.open = false,
                }
            }
        }
        // What it wrote before it ended is on its way.
        let rest = output(&mut self.stdout, &mut self.stderr);
        if let Some(output) = rest.await {
            return output;
        }
        match self.ended.take() {
            Some(ended) => Event::End(ended),
            None => std::future::pending().await,
        }
    }
}

/// The next piece of either stream; `None` when both have ended.
async fn output(
    stdout: &mut mpsc::Receiver<Vec<u8>>,
    stderr: &mut Option<mpsc::Receiver<Vec<u8>>>,
) -> Option<Event> {
    let stderr = async {
        match stderr {
            Some(stderr) => stderr.recv().await,
            None => None,
        }
    };
    // A stream that has ended yields None, which disables its branch.
    tokio::select! {
        Some(piece) = stdout.recv() => Some(Event::Stdout(piece)),
        Some(piece) = stderr => Some(Event::Stderr(piece)),
        else => None,
    }
}

impl Target {
    /// Changes the size of its terminal. It may have ended: that is no failure.
    pub(crate) async fn resize(&self, window: WindowSize) {
        if let Err(error) = self.sandbox.resize(&self.process, window).await {
            self.note("resize", &error);
        }
    }

    /// Sends it a signal. It may have ended: that is no failure.
    pub(crate) async fn signal(&self, signal: u32) {
        if let Err(error) = self.sandbox.signal(&self.process, signal, false).await {
            self.note("signal", &error);
        }
    }

    fn note(&self, what: &str, error: &bulkhead_sandbox::Error) {
        tracing::debug!(container = %self.process.container_id, %error, "{what} failed");
    }
}

/// Forgets an exec, killing what is left of it, when dropped.
pub(crate) struct Running(pub(super) Target);

impl Drop for Running {
    fn drop(&mut self) {
        let Target { sandbox, process } = self.0.clone();
        let forget = async move {
            if let Err(error) = sandbox.forget_exec(&process).await
                && !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::SandboxDead)
            {
                tracing::warn!(container = %process.container_id, %error, "exec is left behind");
            }
        };
        // No runtime: the process is ending, and the next daemon forgets it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(forget);
        }
    }
}
