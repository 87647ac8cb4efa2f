//! A process connected to a client.
//!
//! Input and output run in tasks of their own: a process that doesn't read must
//! not hold up what it writes, nor the other way round.

use std::{future::Future, sync::Arc, time::Duration};

use bulkhead_cri_api::operator::{
    Connected, ProcessExit, ProcessOutput, WindowSize as Size, process_output::Output,
};
use bulkhead_sandbox::{ProcessId, Sandbox, Stream, WindowSize};
use tokio::sync::mpsc;
use tokio_stream::{Stream as AsyncStream, StreamExt as _, wrappers::ReceiverStream};
use tonic::Status;

use super::Answers;
use crate::error::Result;

/// Messages between process and client: little, so that a client that doesn't read
/// holds up the process and not the daemon's memory.
const QUEUE: usize = 8;

/// How long the streams of a process that has ended may stay silent before they
/// are given up: its children may hold them open for ever.
const QUIET: Duration = Duration::from_secs(2);

/// Largest piece of output in one message, bytes.
const PIECE: usize = 256 * 1024;

/// What a client sends once it is connected.
pub(super) enum Input {
    Stdin(Vec<u8>),
    CloseStdin,
    Resize(WindowSize),
    Signal(u32),
}

/// A process and its open streams.
pub(super) struct Session {
    pub(super) sandbox: Arc<dyn Sandbox>,
    pub(super) process: ProcessId,
    stdout: mpsc::Receiver<Vec<u8>>,
    stderr: Option<mpsc::Receiver<Vec<u8>>>,
    stdin: Option<mpsc::Sender<Vec<u8>>>,
}

type Sender = mpsc::Sender<std::result::Result<ProcessOutput, Status>>;

impl Session {
    /// Opens the streams: from here on no output is missed.
    pub(super) async fn open(
        sandbox: Arc<dyn Sandbox>,
        process: ProcessId,
        terminal: bool,
        stdin: bool,
    ) -> Result<Self> {
        let stdout = sandbox.open_output(&process, Stream::Stdout).await?;
        let stderr = match terminal {
            true => None,
            false => Some(sandbox.open_output(&process, Stream::Stderr).await?),
        };
        let stdin = match stdin {
            true => Some(sandbox.open_input(&process).await?),
            false => None,
        };
        Ok(Self {
            sandbox,
            process,
            stdout,
            stderr,
            stdin,
        })
    }

    /// Connects it to a client until the process has ended or the client has gone.
    /// `exit` is the process's end; `keep` is dropped with the session.
    pub(super) fn connect<K: Send + 'static>(
        mut self,
        inputs: impl AsyncStream<Item = Input> + Send + 'static,
        exit: impl Future<Output = Result<ProcessExit>> + Send + 'static,
        keep: K,
    ) -> Answers<ProcessOutput> {
        let (sender, receiver) = mpsc::channel(QUEUE);
        let feeding = tokio::spawn(feed(
            Arc::clone(&self.sandbox),
            self.process.clone(),
            self.stdin.take(),
            inputs,
        ));
        tokio::spawn(async move {
            let _keep = keep;
            let _feeding = Aborted(feeding);
            tokio::select! {
                // The client is gone.
                () = sender.closed() => {}
                () = self.pump(&sender, exit) => {}
            }
        });
        Box::pin(ReceiverStream::new(receiver))
    }

    async fn pump(&mut self, sender: &Sender, exit: impl Future<Output = Result<ProcessExit>>) {
        if !send(sender, Output::Connected(Connected {})).await {
            return;
        }
        tokio::pin!(exit);
        let mut open = true;
        let ended = loop {
            tokio::select! {
                ended = &mut exit => break ended,
                output = self.output(), if open => match output {
                    Some(output) => if !send(sender, output).await { return },
                    None => open = false,
                }
            }
        };
        while let Ok(Some(output)) = tokio::time::timeout(QUIET, self.output()).await {
            if !send(sender, output).await {
                return;
            }
        }
        let last = match ended {
            Ok(exit) => Ok(ProcessOutput {
                output: Some(Output::Exit(exit)),
            }),
            Err(error) => Err(error.into()),
        };
        let _ = sender.send(last).await;
    }

    /// The next piece of either stream; `None` when both have ended.
    async fn output(&mut self) -> Option<Output> {
        let stderr = async {
            match &mut self.stderr {
                Some(stderr) => stderr.recv().await,
                None => None,
            }
        };
        tokio::select! {
            Some(piece) = self.stdout.recv() => Some(Output::Stdout(piece.into())),
            Some(piece) = stderr => Some(Output::Stderr(piece.into())),
            else => None,
        }
    }
}

/// Ends a task with its owner.
struct Aborted(tokio::task::JoinHandle<()>);

impl Drop for Aborted {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Whether the client still listens.
async fn send(sender: &Sender, output: Output) -> bool {
    // Large pieces in several messages: a peer bounds a message's length.
    let split = |mut bytes: bytes::Bytes, wrap: fn(bytes::Bytes) -> Output| {
        let mut pieces = Vec::with_capacity(1);
        while bytes.len() > PIECE {
            pieces.push(wrap(bytes.split_to(PIECE)));
        }
        pieces.push(wrap(bytes));
        pieces
    };
    let pieces = match output {
        Output::Stdout(bytes) => split(bytes, Output::Stdout),
        Output::Stderr(bytes) => split(bytes, Output::Stderr),
        other => vec![other],
    };
    for piece in pieces {
        if sender
            .send(Ok(ProcessOutput {
                output: Some(piece),
            }))
            .await
            .is_err()
        {
            return false;
        }
    }
    true
}

async fn feed(
    sandbox: Arc<dyn Sandbox>,
    process: ProcessId,
    mut stdin: Option<mpsc::Sender<Vec<u8>>>,
    inputs: impl AsyncStream<Item = Input>,
) {
    tokio::pin!(inputs);
    while let Some(input) = inputs.next().await {
        let result = match input {
            Input::Stdin(bytes) => {
                // A process that has closed its stdin gets no more of it.
                if let Some(open) = &stdin
                    && open.send(bytes).await.is_err()
                {
                    stdin = None;
                }
                Ok(())
            }
            Input::CloseStdin => {
                stdin = None;
                Ok(())
            }
            Input::Resize(window) => sandbox.resize(&process, window).await,
            Input::Signal(signal) => sandbox.signal(&process, signal, false).await,
        };
        if let Err(error) = result {
            tracing::debug!(container = %process.container_id, %error, "session input failed");
        }
    }
    // The end of what the client sends is the end of stdin; output goes on.
}

/// Terminal sizes that make sense.
pub(super) fn window(size: Option<Size>) -> Option<WindowSize> {
    let size = size?;
    let bounded = |value: u32| value.clamp(1, u32::from(u16::MAX));
    Some(WindowSize {
        rows: bounded(size.rows),
        columns: bounded(size.columns),
    })
}
