//! One queue for everything that the main thread waits for.
//!
//! Signals are blocked in all threads and taken by one that waits for them, so
//! nothing runs in a signal handler.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;

use anyhow::{Context, Result};
use nix::sys::signal::{SigSet, Signal};

/// What can happen while the main thread waits.
#[derive(Debug)]
pub(crate) enum Event {
    /// This process was sent a signal.
    Signal(Signal),
    /// The command's connection has come to its end.
    Finished(Result<i32>),
}

/// Signals that end a wait, or are passed on to a command.
const SIGNALS: [Signal; 5] = [
    Signal::SIGINT,
    Signal::SIGTERM,
    Signal::SIGHUP,
    Signal::SIGQUIT,
    Signal::SIGWINCH,
];

/// Blocks the signals and begins to report them. To be called before any thread
/// is started.
pub(crate) fn queue() -> Result<(Sender<Event>, Receiver<Event>)> {
    let set: SigSet = SIGNALS.into_iter().collect();
    set.thread_block().context("blocking signals")?;
    let (sender, receiver) = channel();
    let signals = sender.clone();
    thread::spawn(move || {
        while let Ok(signal) = set.wait() {
            if signals.send(Event::Signal(signal)).is_err() {
                return;
            }
        }
    });
    Ok((sender, receiver))
}
