//! Channels over a WebSocket.

use std::{
    collections::VecDeque,
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures::{Sink as _, Stream as _};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{self, Message, Utf8Bytes, protocol::CloseFrame},
};

use super::channels::{self, Dialect, Encoding, PIECE};
use crate::link::{Broken, Command, Event, Link};

pub(crate) struct ChannelLink<S> {
    socket: WebSocketStream<S>,
    dialect: Dialect,
    waiting: VecDeque<Message>,
    /// Bytes in `waiting`, and one for what the socket may still hold.
    bytes: usize,
}

impl<S> ChannelLink<S> {
    pub(crate) fn new(socket: WebSocketStream<S>, dialect: Dialect) -> Self {
        Self {
            socket,
            dialect,
            waiting: VecDeque::new(),
            bytes: 0,
        }
    }

    fn wait(&mut self, message: Message) {
        self.bytes += message.len() + 1;
        self.waiting.push_back(message);
    }

    /// A channel's message. Streams have small numbers on this link.
    fn message(&self, id: u32, piece: &[u8]) -> Option<Message> {
        let written = self.dialect.write(u8::try_from(id).ok()?, piece);
        Some(match self.dialect.encoding {
            Encoding::Binary => Message::Binary(written.into()),
            Encoding::Base64 => Message::Text(Utf8Bytes::try_from(written).ok()?),
        })
    }
}

/// What a WebSocket error means; `None` when it is the connection's end.
fn broken(error: tungstenite::Error) -> Option<Broken> {
    match error {
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => None,
        tungstenite::Error::Io(error) => Some(error.into()),
        // A client that just goes away without a word.
        tungstenite::Error::Protocol(
            tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
        ) => None,
        other => Some(Broken::WebSocket(other.to_string())),
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Link for ChannelLink<S> {
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Event>, Broken>> {
        loop {
            let message = match ready!(Pin::new(&mut self.socket).poll_next(cx)) {
                None => return Poll::Ready(Ok(None)),
                Some(Err(error)) => return Poll::Ready(broken(error).map_or(Ok(None), Err)),
                Some(Ok(message)) => message,
            };
            let bytes: Bytes = match message {
                Message::Binary(bytes) => bytes,
                Message::Text(text) => text.into(),
                Message::Close(_) => return Poll::Ready(Ok(None)),
                // Answered by the library.
                Message::Ping(_) | Message::Pong(_) | Message::Frame(_) => continue,
            };
            let event = match self.dialect.read(bytes) {
                Ok(channels::Message::Data(channel, bytes)) => Event::Data(channel.into(), bytes),
                Ok(channels::Message::End(channel)) => Event::Ended(channel.into()),
                Ok(channels::Message::Empty) => continue,
                Err(fault) => return Poll::Ready(Err(Broken::WebSocket(fault.to_string()))),
            };
            return Poll::Ready(Ok(Some(event)));
        }
    }

    fn push(&mut self, command: Command) {
        // The protocol can end a channel only for the client's side; the server's
        // end with the connection.
        if let Command::Data(id, bytes) = command {
            if bytes.is_empty() {
                self.message(id, &[])
                    .into_iter()
                    .for_each(|it| self.wait(it));
            }
            for piece in bytes.chunks(PIECE) {
                self.message(id, piece)
                    .into_iter()
                    .for_each(|it| self.wait(it));
            }
        }
    }

    fn buffered(&self) -> usize {
        self.bytes
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let socket = &mut self.socket;
        let closed = |error| {
            broken(error).unwrap_or_else(|| io::Error::from(io::ErrorKind::BrokenPipe).into())
        };
        while !self.waiting.is_empty() {
            ready!(Pin::new(&mut *socket).poll_ready(cx)).map_err(closed)?;
            if let Some(message) = self.waiting.pop_front() {
                // What the socket has taken counts as one byte until it is flushed.
                self.bytes = self.bytes.saturating_sub(message.len() + 1).max(1);
                Pin::new(&mut *socket).start_send(message).map_err(closed)?;
            }
        }
        ready!(Pin::new(socket).poll_flush(cx)).map_err(closed)?;
        self.bytes = 0;
        Poll::Ready(Ok(()))
    }

    fn ping(&mut self) {
        self.wait(Message::Ping(Bytes::new()));
    }

    fn goodbye(&mut self, fault: bool) {
        let code = if fault {
            tungstenite::protocol::frame::coding::CloseCode::Protocol
        } else {
            tungstenite::protocol::frame::coding::CloseCode::Normal
        };
        self.wait(Message::Close(Some(CloseFrame {
            code,
            reason: Utf8Bytes::default(),
        })));
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // The socket's own: a WebSocket would wait for the client's goodbye.
        Pin::new(self.socket.get_mut()).poll_shutdown(cx)
    }
}
