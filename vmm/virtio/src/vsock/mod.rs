//! Socket device (virtio 1.3, section 5.10), with unix sockets on the host side.
//!
//! ```text
//!                     guest                 |               host
//!                                           |
//!   socket (cid 3, port g) <--- packets --->| muxer <--- bytes ---> unix socket
//!                                           |
//!   host connects:  REQUEST  <--------------|<- "CONNECT g\n"   to the listener
//!                   RESPONSE -------------->|-> "OK h\n"
//!                                           |
//!   guest connects: REQUEST to port p ----->|-> connect("<prefix>_p")
//!                   RESPONSE or RST <-------|
//!                                           |
//!   data:           RW, SHUTDOWN <--------->|<- bytes, end of stream ->
//!                   CREDIT_UPDATE           |   (a socket that takes no more stops its own
//!                                           |    connection only)
//! ```
//!
//! * `packet`: the header, copied once out of the chain before anything in it is looked at.
//! * `connection`: one connection's state machine and credit; pure, no I/O.
//! * `handshake`: the `CONNECT` line; pure.
//! * `backlog`: bytes that the host's socket did not take yet, at most the window that the
//!   guest was promised.
//! * `muxer`: the table of connections, their sockets, timeouts and turns.
//!
//! **Copies.** A packet goes from guest memory to the unix socket by one `sendmsg`, and only
//! what that does not take is copied into the backlog. The other way one `readv` fills the
//! payloads of as many receive buffers as are likely to be filled (Linux posts buffers of
//! 3.7 KiB: one at a time would be a system call for each), and what stays empty is put back.
//! A packet may lie in descriptors of any shape: Linux since 6.12.70 splits large ones.
//!
//! **Readiness.** Sockets report edges, remembered until an `EAGAIN`: neither a guest without
//! receive buffers nor a host program that does not read makes the worker spin.
//!
//! **Bounds.** [`MAX_CONNECTIONS`] sockets; a window of [`WINDOW`] for the first ones and
//! [`SMALL_WINDOW`] for those beyond [`WINDOWS`] in sum; answers to garbage are at most
//! [`MAX_RESETS`], and no packet is taken while they wait for receive buffers.
//!
//! Saved and restored, a guest finds all its connections reset: the event queue tells it so
//! (5.10.6.7). That is also told to a driver that is stopped and started without a reset.

mod backlog;
pub(crate) mod connection;
mod device;
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;
pub(crate) mod handshake;
mod muxer;
pub(crate) mod packet;
#[cfg(test)]
mod tests;
mod worker;

use std::time::Duration;

pub use device::{Vsock, VsockConfig};

/// The host's context id (5.10.4).
pub const HOST_CID: u64 = 2;

/// Sockets on the host side: connections, handshakes and ends that still take data.
pub const MAX_CONNECTIONS: usize = 1024;

/// Bytes that the guest may have under way on a connection.
pub const WINDOW: u32 = 256 << 10;

/// The same, of a connection that is one of very many.
pub const SMALL_WINDOW: u32 = 16 << 10;

/// What the windows of all connections may promise before new ones get a small one.
pub const WINDOWS: u64 = 32 << 20;

/// Resets that wait for a receive buffer.
pub const MAX_RESETS: usize = 128;

/// How long a peer has to send its `CONNECT` line, to answer a request, or to answer a shutdown.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// The worker kind passed to the thread hook.
pub const WORKER: &str = "vsock";

/// System calls of the worker beside [`crate::worker::SYSCALLS`].
pub const SYSCALLS: &[&str] = &[
    "accept4", "socket", "connect", "recvfrom", "sendto", "sendmsg", "readv", "shutdown", "fcntl",
    "ioctl",
];
