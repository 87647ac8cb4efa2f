//! Giving a running VMM a further descriptor.
//!
//! One connection to the handover socket a descriptor: sixteen random bytes with
//! the descriptor beside them (SCM_RIGHTS, unix(7)), answered by one byte, 0. The
//! bytes name the descriptor in the control call that uses it.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    os::fd::{AsFd as _, BorrowedFd},
    path::Path,
    time::Duration,
};

use rustix::{
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags},
    rand::GetRandomFlags,
};
use tokio::{
    io::{AsyncReadExt as _, Interest},
    net::UnixStream,
    time::timeout,
};

use crate::sockets;

/// Names a descriptor that a VMM keeps.
pub type Token = [u8; 16];

/// Longest time a handover may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// Hands `fd` over and returns the token for it.
///
/// # Errors
/// When the VMM does not take it in time, or says no.
pub async fn give(socket: &Path, fd: BorrowedFd<'_>) -> io::Result<Token> {
    timeout(DEADLINE, give_now(socket, fd))
        .await
        .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

async fn give_now(socket: &Path, fd: BorrowedFd<'_>) -> io::Result<Token> {
    let token = random_token()?;
    let mut stream = sockets::connect(socket).await?;
    stream
        .async_io(Interest::WRITABLE, || send(&stream, &token, fd))
        .await?;
    let mut answer = [1_u8; 1];
    stream.read_exact(&mut answer).await?;
    match answer {
        [0] => Ok(token),
        [code] => Err(io::Error::other(format!(
            "the VMM refused the descriptor (code {code})"
        ))),
    }
}

fn send(stream: &UnixStream, token: &Token, fd: BorrowedFd<'_>) -> io::Result<()> {
    let fds = [fd];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !control.push(SendAncillaryMessage::ScmRights(&fds)) {
        return Err(io::Error::other("no room for one descriptor"));
    }
    let sent = rustix::net::sendmsg(
        stream.as_fd(),
        &[IoSlice::new(token)],
        &mut control,
        SendFlags::NOSIGNAL,
    )?;
    if sent == token.len() {
        Ok(())
    } else {
        // Sixteen bytes on an empty socket are taken whole or not at all.
        Err(io::ErrorKind::WriteZero.into())
    }
}

/// Sixteen bytes that no one can guess.
///
/// # Errors
/// When the kernel has none.
pub fn random_token() -> io::Result<Token> {
    let mut token = Token::default();
    rustix::rand::getrandom(&mut token, GetRandomFlags::empty())?;
    Ok(token)
}
