//! Connections to a pod's agent.
//!
//! A host pod's agent listens on a unix socket for each port. For a guest the VMM
//! listens on a unix socket for the guest's vsock ports: a client writes
//! `CONNECT <port>\n` and reads `OK <number>\n`, after which the connection is
//! the guest's. The socket is closed where the port has no listener.

use std::{
    io,
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    time::timeout,
};

use crate::sockets;

/// Longest time a connection may take: the guest's kernel answers, not a program.
const DEADLINE: Duration = Duration::from_secs(10);
/// Longest answer line: `OK 4294967295\n`.
const MAX_ANSWER: usize = 16;

/// Reaches the ports of one agent.
#[derive(Clone, Debug)]
pub struct Dialer(Way);

#[derive(Clone, Debug)]
enum Way {
    Vsock(PathBuf),
    Unix(PathBuf),
}

impl Dialer {
    /// Through the VMM's vsock socket at `socket`.
    #[must_use]
    pub fn vsock(socket: PathBuf) -> Self {
        Self(Way::Vsock(socket))
    }

    /// Through the sockets in `dir`, named by [`bulkhead_agent_api::sockets`].
    #[must_use]
    pub fn unix(dir: PathBuf) -> Self {
        Self(Way::Unix(dir))
    }

    /// Connects to a port of the agent.
    ///
    /// # Errors
    /// [`io::ErrorKind::ConnectionRefused`] where nothing listens, and whatever
    /// else went wrong.
    pub async fn dial(&self, port: u32) -> io::Result<UnixStream> {
        let dial = async {
            match &self.0 {
                Way::Vsock(socket) => dial_vsock(socket, port).await,
                Way::Unix(dir) => {
                    let name = bulkhead_agent_api::sockets::of_port(port)
                        .ok_or(io::ErrorKind::ConnectionRefused)?;
                    sockets::connect(&dir.join(name)).await
                }
            }
        };
        timeout(DEADLINE, dial)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
    }
}

async fn dial_vsock(socket: &Path, port: u32) -> io::Result<UnixStream> {
    let mut stream = sockets::connect(socket).await?;
    stream
        .write_all(format!("CONNECT {port}\n").as_bytes())
        .await?;
    // Byte by byte: what follows the line is the guest's.
    let mut answer = Vec::with_capacity(MAX_ANSWER);
    loop {
        let mut byte = [0_u8; 1];
        if stream.read(&mut byte).await? == 0 {
            return Err(io::Error::new(
                io::ErrorKind::ConnectionRefused,
                format!("nothing listens on port {port} of the guest"),
            ));
        }
        if byte == *b"\n" {
            break;
        }
        answer.extend_from_slice(&byte);
        if answer.len() >= MAX_ANSWER {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
    if answer.starts_with(b"OK ") {
        Ok(stream)
    } else {
        Err(io::ErrorKind::InvalidData.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn answered(answer: &'static [u8]) -> io::Result<UnixStream> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("vsock.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut asked = [0_u8; 13];
            stream.read_exact(&mut asked).await.unwrap();
            assert_eq!(&asked, b"CONNECT 1024\n");
            stream.write_all(answer).await.unwrap();
        });
        let result = Dialer::vsock(path).dial(1024).await;
        server.await.unwrap();
        result
    }

    #[tokio::test]
    async fn the_line_is_taken_and_what_follows_is_left() {
        let mut stream = answered(b"OK 5\nhello").await.unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "hello");
    }

    #[tokio::test]
    async fn a_host_pods_ports_are_sockets() {
        let dir = tempfile::tempdir().unwrap();
        let name = bulkhead_agent_api::sockets::STDIO;
        let listener = tokio::net::UnixListener::bind(dir.path().join(name)).unwrap();
        let dialer = Dialer::unix(dir.path().to_owned());
        let mut stream = dialer.dial(bulkhead_agent_api::STDIO_PORT).await.unwrap();
        let (mut accepted, _) = listener.accept().await.unwrap();
        accepted.write_all(b"hi").await.unwrap();
        drop(accepted);
        let mut got = String::new();
        stream.read_to_string(&mut got).await.unwrap();
        assert_eq!(got, "hi");
        assert!(dialer.dial(bulkhead_agent_api::AGENT_PORT).await.is_err());
        assert!(dialer.dial(7).await.is_err());
    }

    #[tokio::test]
    async fn a_closed_port_and_a_wrong_answer_are_errors() {
        let kind = |r: io::Result<UnixStream>| r.unwrap_err().kind();
        assert_eq!(kind(answered(b"").await), io::ErrorKind::ConnectionRefused);
        assert_eq!(kind(answered(b"NO\n").await), io::ErrorKind::InvalidData);
        assert_eq!(
            kind(answered(&[b'x'; 64]).await),
            io::ErrorKind::InvalidData
        );
    }
}
