//! A process connected to a client.
//!
//! Input and output run in tasks of their own: a process that doesn't read must
//! not hold up what it writes, nor the other way round.

use bulkhead_cri_api::operator::{
    Connected, ProcessExit, ProcessOutput, WindowSize as Size, process_output::Output,
};
use bulkhead_sandbox::WindowSize;
use tokio::sync::mpsc;
use tokio_stream::{Stream as AsyncStream, StreamExt as _, wrappers::ReceiverStream};
use tonic::Status;

use super::Answers;
use crate::pods::{Event, Session, Target};

/// Messages between process and client: little, so that a client that doesn't read
/// holds up the process and not the daemon's memory.
const QUEUE: usize = 8;

/// Largest piece of output in one message, bytes.
const PIECE: usize = 256 * 1024;

/// What a client sends once it is connected.
pub(super) enum Input {
    Stdin(Vec<u8>),
    CloseStdin,
    Resize(WindowSize),
    Signal(u32),
}

type Sender = mpsc::Sender<std::result::Result<ProcessOutput, Status>>;

/// Connects a session to a client until the process has ended or the client has
/// gone.
pub(super) fn connect(
    mut session: Session,
    inputs: impl AsyncStream<Item = Input> + Send + 'static,
) -> Answers<ProcessOutput> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let feeding = tokio::spawn(feed(session.target(), session.take_stdin(), inputs));
    tokio::spawn(async move {
        let _feeding = Aborted(feeding);
        tokio::select! {
            // The client is gone.
            () = sender.closed() => {}
            () = pump(session, &sender) => {}
        }
    });
    Box::pin(ReceiverStream::new(receiver))
}

async fn pump(mut session: Session, sender: &Sender) {
    if !send(sender, Output::Connected(Connected {})).await {
        return;
    }
    loop {
        let output = match session.next().await {
            Event::Stdout(piece) => Output::Stdout(piece.into()),
            Event::Stderr(piece) => Output::Stderr(piece.into()),
            Event::End(Ok(ended)) => {
                let exit = ProcessExit {
                    code: ended.code,
                    reason: ended.reason,
                    message: ended.message,
                };
                send(sender, Output::Exit(exit)).await;
                return;
            }
            Event::End(Err(error)) => {
                let _ = sender.send(Err(error.into())).await;
                return;
            }
        };
        if !send(sender, output).await {
            return;
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
        let message = ProcessOutput {
            output: Some(piece),
        };
        if sender.send(Ok(message)).await.is_err() {
            return false;
        }
    }
    true
}

async fn feed(
    target: Target,
    mut stdin: Option<mpsc::Sender<Vec<u8>>>,
    inputs: impl AsyncStream<Item = Input>,
) {
    tokio::pin!(inputs);
    while let Some(input) = inputs.next().await {
        match input {
            Input::Stdin(bytes) => {
                // A process that has closed its stdin gets no more of it.
                if let Some(open) = &stdin
                    && open.send(bytes).await.is_err()
                {
                    stdin = None;
                }
            }
            Input::CloseStdin => stdin = None,
            Input::Resize(window) => target.resize(window).await,
            Input::Signal(signal) => target.signal(signal).await,
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
