//! The agent's doors, and who may come in.
//!
//! In a guest they are vsock ports. Containers can open vsock sockets too, so a
//! connection counts only when its peer is the host (CID 2): the kernel fills in
//! the peer's CID, a guest process cannot choose it.

use std::{
    io,
    path::Path,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{UnixListener, UnixStream},
};
use tokio_vsock::{VMADDR_CID_ANY, VMADDR_CID_HOST, VsockAddr, VsockListener, VsockStream};

/// A door.
#[derive(Debug)]
pub enum Listener {
    /// A vsock port of a guest.
    Vsock(VsockListener),
    /// A unix socket of a host pod.
    Unix(UnixListener),
}

/// Somebody who may come in.
#[derive(Debug)]
pub enum Connection {
    /// From the host.
    Vsock(VsockStream),
    /// From whoever the socket's directory lets through.
    Unix(UnixStream),
}

impl Listener {
    /// Listens on a vsock port.
    ///
    /// # Errors
    /// When the port is taken or the machine has no vsock device.
    pub fn vsock(port: u32) -> io::Result<Self> {
        VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, port)).map(Self::Vsock)
    }

    /// Listens on a unix socket, in place of one that an earlier agent left.
    ///
    /// # Errors
    /// When the socket cannot be made.
    pub fn unix(path: &Path) -> io::Result<Self> {
        match std::fs::remove_file(path) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
            _ => {}
        }
        UnixListener::bind(path).map(Self::Unix)
    }

    /// The next connection that may come in.
    ///
    /// # Errors
    /// When accepting fails; the listener can be asked again.
    pub async fn accept(&self) -> io::Result<Connection> {
        loop {
            match self {
                Self::Vsock(listener) => {
                    let (stream, peer) = listener.accept().await?;
                    if peer.cid() == VMADDR_CID_HOST {
                        return Ok(Connection::Vsock(stream));
                    }
                    tracing::warn!("refused a vsock connection from CID {}", peer.cid());
                }
                Self::Unix(listener) => {
                    return listener.accept().await.map(|(s, _)| Connection::Unix(s));
                }
            }
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Vsock(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Vsock(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Vsock(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Vsock(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
