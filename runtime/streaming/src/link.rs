//! What carries a session's streams: SPDY or a WebSocket's channels, over a
//! socket. [`mux`](crate::mux) drives one.

use std::{
    io,
    task::{Context, Poll},
};

use bytes::Bytes;

use crate::spdy::{self, headers::Headers};

/// Bytes waiting to be sent at which no more are taken from those who send.
pub(crate) const OUT_MAX: usize = 256 << 10;

/// What the client did.
#[derive(Debug)]
pub(crate) enum Event {
    /// It opened a stream.
    Opened(u32, Headers),
    /// It sent bytes.
    Data(u32, Bytes),
    /// It sends no more on a stream.
    Ended(u32),
    /// It gave a stream up.
    Reset(u32),
}

/// What the client is to be sent.
#[derive(Debug)]
pub(crate) enum Command {
    /// Bytes of a stream.
    Data(u32, Bytes),
    /// The end of what a stream sends.
    Finish(u32),
    /// A stream's end in both directions.
    Reset(u32),
}

/// Why a link is of no further use.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Broken {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Spdy(#[from] spdy::Fault),
    #[error("WebSocket: {0}")]
    WebSocket(String),
}

/// A connection that carries streams.
pub(crate) trait Link: Send {
    /// The next event; `None` when the client is gone.
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Event>, Broken>>;
    /// Puts a command into what waits to be sent.
    fn push(&mut self, command: Command);
    /// Bytes that wait to be sent; an estimate above 0 while there are any.
    fn buffered(&self) -> usize;
    /// Sends what waits; ready when all is sent.
    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>>;
    /// Puts something into what waits that a client that is gone can't take.
    fn ping(&mut self);
    /// Puts a goodbye into what waits: after a fault of the client's, or not.
    fn goodbye(&mut self, fault: bool);
    /// Closes this side of the socket.
    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>>;
}
