//! Exec and attach: a process's streams, its terminal's size, and how it ended.
//!
//! ```text
//!   client: stdin, resize ──► process
//!   client: stdout, stderr ◄── process
//!   client: error ◄── how it ended, after the last byte of output
//! ```
//!
//! * [`status`]: what the error stream says.
//! * [`resize`]: terminal sizes.
//! * `spdy`, `websocket`: which of the client's streams is which.

pub mod resize;
pub(crate) mod spdy;
pub mod status;
pub(crate) mod websocket;

use std::sync::Arc;

use crate::{
    backend::{Command, Failure, Output, Process, Standard, Terminal},
    mux::{Inlet, Outlet},
};
use resize::Sizes;
use status::Form;

/// A session as its RPC asked for it.
#[derive(Clone)]
pub(crate) struct Remote {
    pub(crate) streams: Standard,
    pub(crate) command: Arc<dyn Command>,
}

/// The client's streams.
pub(crate) struct Wires {
    pub(crate) input: Input,
    pub(crate) output: Outlets,
    pub(crate) error: Outlet,
    pub(crate) form: Form,
}

/// What the client sends.
#[derive(Default)]
pub(crate) struct Input {
    pub(crate) stdin: Option<Inlet>,
    pub(crate) resize: Option<Inlet>,
}

/// Where output goes; what nobody asked for is dropped.
#[derive(Default)]
pub(crate) struct Outlets {
    pub(crate) stdout: Option<Outlet>,
    pub(crate) stderr: Option<Outlet>,
}

/// Runs a process over the client's streams, to its end.
pub(crate) async fn run(command: &dyn Command, wires: Wires) {
    let Wires {
        input,
        output,
        error,
        form,
    } = wires;
    let ended = match command.start().await {
        Ok(mut process) => connect(process.as_mut(), input, &output).await,
        Err(failure) => Err(failure),
    };
    for outlet in [&output.stdout, &output.stderr].into_iter().flatten() {
        outlet.finish().await;
    }
    let status = status::write(form, &ended);
    if !status.is_empty() {
        error.send(status).await;
    }
    error.finish().await;
}

async fn connect(
    process: &mut dyn Process,
    input: Input,
    output: &Outlets,
) -> Result<i32, Failure> {
    let feeding = feed(input.stdin, process.stdin());
    let resizing = follow(input.resize, process.terminal());
    let pumping = async {
        loop {
            let (outlet, bytes) = match process.next().await {
                Output::Stdout(bytes) => (&output.stdout, bytes),
                Output::Stderr(bytes) => (&output.stderr, bytes),
                Output::End(ended) => return ended,
            };
            if let Some(outlet) = outlet {
                outlet.send(bytes).await;
            }
        }
    };
    // The process's end is the session's; what the client still sends is not
    // waited for.
    let input = async {
        tokio::join!(feeding, resizing);
        std::future::pending::<Result<i32, Failure>>().await
    };
    tokio::select! {
        ended = pumping => ended,
        never = input => never,
    }
}

/// Passes stdin on to its end, or until the process reads no more; then what still
/// comes is dropped.
async fn feed(stdin: Option<Inlet>, process: Option<tokio::sync::mpsc::Sender<Vec<u8>>>) {
    let (Some(mut stdin), Some(process)) = (stdin, process) else {
        return;
    };
    while let Some(piece) = stdin.next().await {
        if process.send(piece.into()).await.is_err() {
            return;
        }
    }
}

async fn follow(resize: Option<Inlet>, terminal: Arc<dyn Terminal>) {
    let Some(mut resize) = resize else {
        return;
    };
    let mut sizes = Sizes::default();
    while let Some(piece) = resize.next().await {
        match sizes.push(&piece) {
            Ok(Some(size)) => terminal.resize(size).await,
            Ok(None) => {}
            Err(fault) => {
                tracing::debug!(%fault, "terminal sizes are ignored from now on");
                return;
            }
        }
    }
}
