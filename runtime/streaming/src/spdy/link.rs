//! A SPDY connection over a socket.

use std::{
    io,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite};

use super::connection::{self, Connection, Role};
use crate::link::{Broken, Command, Event, Link};

/// Room for one reading, bytes.
const READ: usize = 64 << 10;

pub(crate) struct SpdyLink<S> {
    socket: S,
    connection: Connection,
    input: BytesMut,
}

impl<S> SpdyLink<S> {
    pub(crate) fn new(socket: S) -> Self {
        Self {
            socket,
            connection: Connection::new(Role::Server),
            input: BytesMut::new(),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin + Send> Link for SpdyLink<S> {
    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Event>, Broken>> {
        loop {
            while let Some(event) = self.connection.receive(&mut self.input)? {
                let event = match event {
                    connection::Event::Opened(id, headers) => Event::Opened(id, headers),
                    connection::Event::Data(id, bytes) => Event::Data(id, bytes),
                    connection::Event::Ended(id) => Event::Ended(id),
                    connection::Event::Reset(id) => Event::Reset(id),
                    connection::Event::Accepted(_) => continue,
                };
                return Poll::Ready(Ok(Some(event)));
            }
            self.input.reserve(READ);
            // Keeps nothing between polls: dropping it loses nothing.
            let len = ready!(pin!(self.socket.read_buf(&mut self.input)).poll(cx))?;
            if len == 0 {
                return Poll::Ready(Ok(None));
            }
        }
    }

    fn push(&mut self, command: Command) {
        match command {
            Command::Data(id, bytes) => self.connection.send(id, &bytes),
            Command::Finish(id) => self.connection.finish(id),
            Command::Reset(id) => self.connection.reset(id),
        }
    }

    fn buffered(&self) -> usize {
        self.connection.waiting()
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        let out = self.connection.out();
        while !out.is_empty() {
            let len = ready!(Pin::new(&mut self.socket).poll_write(cx, out))?;
            if len == 0 {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::WriteZero).into()));
            }
            out.advance(len);
        }
        ready!(Pin::new(&mut self.socket).poll_flush(cx))?;
        Poll::Ready(Ok(()))
    }

    fn ping(&mut self) {
        self.connection.ping();
    }

    fn goodbye(&mut self, fault: bool) {
        self.connection.go_away(fault);
    }

    fn poll_close(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(cx)
    }
}
