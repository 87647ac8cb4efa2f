//! Descriptors handed over by the daemon while the VM runs.
//!
//! ttrpc carries no descriptors. So the daemon connects to a second socket and sends
//! one message: a token of 16 bytes it made up, with one descriptor. It reads one
//! byte, 0 if the descriptor is kept. A request on the control socket then names the
//! token (`AddDisk`). What nobody asks for in time is closed again.

use std::{
    collections::HashMap,
    io::{self, IoSliceMut},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, recvmsg};
use tokio::{
    io::{AsyncWriteExt, Interest},
    net::{UnixListener, UnixStream as AsyncStream},
    sync::Semaphore,
    time,
};

/// Names a descriptor.
pub type Token = [u8; 16];

/// Descriptors that wait to be asked for, at most.
const MAX_WAITING: usize = 64;
/// Connections served at once, at most.
const MAX_CONNECTIONS: usize = 8;
/// How long a descriptor waits.
const WAIT: Duration = Duration::from_secs(60);
/// How long a connection may take.
const CONNECTION: Duration = Duration::from_secs(5);

/// The reply: kept.
const KEPT: u8 = 0;
/// The reply: not kept.
const REFUSED: u8 = 1;

/// Why a descriptor was not kept.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// Not one token with one descriptor.
    #[error(
        "a handover is one message of 16 bytes with one descriptor, not {bytes} bytes with {descriptors}"
    )]
    Message {
        /// Bytes received.
        bytes: usize,
        /// Descriptors received.
        descriptors: usize,
    },
    /// The token waits already.
    #[error("the token is in use")]
    TokenInUse,
    /// Too many descriptors wait.
    #[error("{MAX_WAITING} descriptors wait already")]
    Full,
    /// The connection broke.
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
}

/// Descriptors that wait to be asked for.
#[derive(Clone, Debug, Default)]
pub struct Handed(Arc<Mutex<HashMap<Token, (OwnedFd, Instant)>>>);

impl Handed {
    /// Keeps a descriptor.
    ///
    /// # Errors
    /// [`HandoverError`]
    pub fn keep(&self, token: Token, fd: OwnedFd) -> Result<(), HandoverError> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        waiting.retain(|_, (_, since)| now.duration_since(*since) < WAIT);
        if waiting.contains_key(&token) {
            return Err(HandoverError::TokenInUse);
        }
        if waiting.len() >= MAX_WAITING {
            return Err(HandoverError::Full);
        }
        waiting.insert(token, (fd, now));
        Ok(())
    }

    /// Takes the descriptor that was handed over under `token`.
    #[must_use]
    pub fn take(&self, token: &[u8]) -> Option<OwnedFd> {
        let token: Token = token.try_into().ok()?;
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        waiting.remove(&token).map(|(fd, _)| fd)
    }
}

/// Serves the socket for as long as the process lives.
pub async fn serve(listener: UnixListener, handed: Handed) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, _)) => {
                let handed = handed.clone();
                tokio::spawn(async move {
                    let _slot = slot;
                    match time::timeout(CONNECTION, receive(stream, &handed)).await {
                        Ok(Ok(())) => {}
                        Ok(Err(error)) => tracing::warn!(%error, "handover refused"),
                        Err(_) => tracing::warn!("handover timed out"),
                    }
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: wait for some to be closed.
                tracing::warn!(%error, "cannot accept a handover");
                time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn receive(mut stream: AsyncStream, handed: &Handed) -> Result<(), HandoverError> {
    let outcome = stream
        .async_io(Interest::READABLE, || receive_message(stream.as_fd()))
        .await
        .map_err(HandoverError::Io)
        .and_then(|message| message.check())
        .and_then(|(token, fd)| handed.keep(token, fd));
    let reply = if outcome.is_ok() { KEPT } else { REFUSED };
    stream.write_all(&[reply]).await?;
    outcome
}

/// What arrived on a connection, unchecked.
struct Message {
    bytes: Vec<u8>,
    descriptors: Vec<OwnedFd>,
    truncated: bool,
}

impl Message {
    fn check(self) -> Result<(Token, OwnedFd), HandoverError> {
        let wrong = HandoverError::Message {
            bytes: self.bytes.len(),
            descriptors: self.descriptors.len(),
        };
        let Ok(token) = Token::try_from(self.bytes) else {
            return Err(wrong);
        };
        let mut descriptors = self.descriptors.into_iter();
        match (descriptors.next(), descriptors.next()) {
            (Some(fd), None) if !self.truncated => Ok((token, fd)),
            _ => Err(wrong),
        }
    }
}

/// Receives one message. Descriptors beyond the room for two are closed by the kernel.
fn receive_message(socket: impl AsFd) -> io::Result<Message> {
    let mut bytes = [0; 17];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(2))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let received = recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut ancillary,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let descriptors = ancillary
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    Ok(Message {
        bytes: bytes.get(..received.bytes).unwrap_or_default().to_vec(),
        descriptors,
        truncated: received.flags.contains(ReturnFlags::CTRUNC),
    })
}

/// For fuzzers: a message as it might arrive.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) fn fuzz_message(bytes: &[u8], descriptors: u8) {
    let descriptors = (0..descriptors)
        .map_while(|_| std::fs::File::open("/dev/null").ok())
        .map(OwnedFd::from)
        .collect();
    let message = Message {
        bytes: bytes.to_vec(),
        descriptors,
        truncated: false,
    };
    if let Ok((token, fd)) = message.check() {
        let handed = Handed::default();
        let _ = handed.keep(token, fd);
        let _ = handed.take(bytes);
    }
}

/// The daemon's side: hands `fd` over under `token` on a fresh connection.
///
/// # Errors
/// The connection's, or `PermissionDenied` when the descriptor was not kept.
pub fn send(stream: &UnixStream, token: Token, fd: impl AsFd) -> io::Result<()> {
    use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
    use std::io::{IoSlice, Read};
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    let fds = [fd.as_fd()];
    ancillary.push(SendAncillaryMessage::ScmRights(&fds));
    sendmsg(
        stream,
        &[IoSlice::new(&token)],
        &mut ancillary,
        SendFlags::NOSIGNAL,
    )?;
    let mut reply = [REFUSED];
    (&*stream).read_exact(&mut reply)?;
    if reply == [KEPT] {
        Ok(())
    } else {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};

    use super::*;

    fn file() -> OwnedFd {
        tempfile::tempfile().unwrap().into()
    }

    /// Runs `client` on a thread against a served socket.
    fn with_server(client: impl FnOnce(&std::path::Path, &Handed) + Send + 'static) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("handover.sock");
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let handed = Handed::default();
        runtime.block_on(async {
            let listener = UnixListener::bind(&path).unwrap();
            let server = tokio::spawn(serve(listener, handed.clone()));
            let seen = handed.clone();
            let (done, finished) = tokio::sync::oneshot::channel();
            let thread = std::thread::spawn(move || {
                client(&path, &seen);
                done.send(()).unwrap();
            });
            finished.await.expect("the client failed");
            thread.join().unwrap();
            server.abort();
        });
    }

    #[test]
    fn a_descriptor_is_handed_over_and_taken_once() {
        with_server(|path, handed| {
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(b"layer").unwrap();
            let token = [7; 16];
            send(&UnixStream::connect(path).unwrap(), token, &file).unwrap();
            // The same token again, while it waits.
            assert!(send(&UnixStream::connect(path).unwrap(), token, &file).is_err());
            let fd = handed.take(&token).unwrap();
            assert_eq!(std::fs::File::from(fd).metadata().unwrap().len(), 5);
            assert!(handed.take(&token).is_none());
            assert!(handed.take(b"short").is_none());
        });
    }

    #[test]
    fn malformed_messages_are_refused() {
        with_server(|path, handed| {
            let reply = |bytes: &[u8]| {
                let mut stream = UnixStream::connect(path).unwrap();
                stream.write_all(bytes).unwrap();
                let mut reply = [9];
                stream.read_exact(&mut reply).unwrap();
                reply[0]
            };
            assert_eq!(reply(&[1; 16]), REFUSED, "no descriptor");
            assert_eq!(reply(&[1; 3]), REFUSED);
            assert_eq!(reply(&[1; 40]), REFUSED);
            assert!(handed.take(&[1; 16]).is_none());
        });
    }

    #[test]
    fn two_descriptors_are_one_too_many() {
        let message = Message {
            bytes: vec![1; 16],
            descriptors: vec![file(), file()],
            truncated: false,
        };
        assert!(matches!(
            message.check(),
            Err(HandoverError::Message { descriptors: 2, .. })
        ));
        let message = Message {
            bytes: vec![1; 16],
            descriptors: vec![file()],
            truncated: true,
        };
        assert!(message.check().is_err());
    }

    #[test]
    fn waiting_descriptors_are_bounded() {
        let handed = Handed::default();
        for n in 0..MAX_WAITING as u8 {
            handed.keep([n; 16], file()).unwrap();
        }
        assert!(matches!(
            handed.keep([255; 16], file()),
            Err(HandoverError::Full)
        ));
    }
}
