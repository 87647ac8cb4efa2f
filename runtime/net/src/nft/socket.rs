//! Sending a batch and waiting for the kernel's verdict.

use std::io;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::netlink::{NETFILTER, SocketAddrNetlink};
use rustix::net::sockopt::{
    Timeout, set_socket_recv_buffer_size_force, set_socket_send_buffer_size_force,
    set_socket_timeout,
};
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recv, sendto, socket_with,
};

use super::message::{BEGIN_SEQUENCE, Batch, Reply, Request, replies};
use crate::error::{NetError, Result};

/// The kernel answers before `sendto` returns; this only guards against one that doesn't.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// A batch is one datagram: room for the elements of several thousand pods.
const BUFFER_BYTES: usize = 8 << 20;
/// Largest datagram that the kernel sends in a dump.
const RECEIVE_BYTES: usize = 64 << 10;

/// Applies a batch, whole or not at all.
///
/// # Errors
/// [`NetError::Nftables`] with the first change that was refused and the system's reason.
pub fn apply(batch: &Batch) -> Result<()> {
    if batch.is_empty() {
        return Ok(());
    }
    let failed = |sequence, source| NetError::Nftables {
        attempted: batch.label(sequence).to_owned(),
        source,
    };
    let Some(bytes) = batch.finish() else {
        return Err(failed(
            BEGIN_SEQUENCE,
            io::Error::from_raw_os_error(libc::EMSGSIZE),
        ));
    };
    let socket = open().map_err(|source| failed(BEGIN_SEQUENCE, source))?;
    send(&socket, &bytes).map_err(|source| failed(BEGIN_SEQUENCE, source))?;

    let last = batch.last_sequence();
    let mut refusal = None;
    let mut buffer = vec![0; RECEIVE_BYTES];
    loop {
        let received =
            receive(&socket, &mut buffer).map_err(|source| failed(BEGIN_SEQUENCE, source))?;
        for reply in replies(received) {
            match reply.error() {
                Some(0) if reply.sequence == last => {
                    return refusal.map_or(Ok(()), Err);
                }
                Some(0) | None => {}
                Some(number) => {
                    let error = failed(reply.sequence, io::Error::from_raw_os_error(number));
                    // The last change's own refusal, or one of the batch as a whole, is
                    // the end; earlier ones are reported first.
                    let is_end = reply.sequence == last || reply.sequence == BEGIN_SEQUENCE;
                    let first = refusal.get_or_insert(error);
                    if is_end {
                        return Err(std::mem::replace(first, NetError::NotSetUp));
                    }
                }
            }
        }
    }
}

/// Asks a question and passes each answer to `each`.
///
/// # Errors
/// The system's error; [`io::ErrorKind::NotFound`] if there is no such object.
pub fn ask(request: &Request, mut each: impl FnMut(Reply<'_>)) -> io::Result<()> {
    let socket = open()?;
    send(&socket, &request.bytes)?;
    let mut buffer = vec![0; RECEIVE_BYTES];
    loop {
        for reply in replies(receive(&socket, &mut buffer)?) {
            if reply.sequence != request.sequence {
                continue;
            }
            match reply.error() {
                Some(0) => return Ok(()),
                Some(number) => return Err(io::Error::from_raw_os_error(number)),
                None if reply.is_done() => return Ok(()),
                None => each(reply),
            }
        }
    }
}

fn open() -> io::Result<OwnedFd> {
    let socket = socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        Some(NETFILTER),
    )?;
    bind(&socket, &SocketAddrNetlink::new(0, 0))?;
    set_socket_timeout(&socket, Timeout::Recv, Some(ANSWER_TIMEOUT))?;
    // Past the limit for ordinary processes; without the privilege small batches still fit.
    if set_socket_send_buffer_size_force(&socket, BUFFER_BYTES).is_err() {
        tracing::debug!("the netlink send buffer keeps its default size");
    }
    if set_socket_recv_buffer_size_force(&socket, BUFFER_BYTES).is_err() {
        tracing::debug!("the netlink receive buffer keeps its default size");
    }
    Ok(socket)
}

fn send(socket: &OwnedFd, bytes: &[u8]) -> io::Result<()> {
    let kernel = SocketAddrNetlink::new(0, 0);
    let sent = sendto(socket, bytes, SendFlags::empty(), &kernel)?;
    if sent == bytes.len() {
        Ok(())
    } else {
        Err(io::Error::from(io::ErrorKind::WriteZero))
    }
}

fn receive<'a>(socket: &OwnedFd, buffer: &'a mut [u8]) -> io::Result<&'a [u8]> {
    loop {
        match recv(socket, &mut *buffer, RecvFlags::empty()) {
            Ok((length, _)) => return Ok(&buffer[..length]),
            Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
}
