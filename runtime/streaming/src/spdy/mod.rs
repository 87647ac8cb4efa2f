//! SPDY/3.1 as Kubernetes speaks it: a multiplexer of byte streams over one
//! connection that HTTP has been upgraded from.
//!
//! ```text
//!   bytes ─► frame ─► connection ─► events          (in)
//!              ▲          │
//!           headers: one zlib stream a direction
//!              │          ▼
//!   bytes ◄────┴──── connection ◄── commands        (out)
//! ```
//!
//! * [`frame`]: frames out of bytes, data without waiting for the whole frame.
//! * [`headers`]: header blocks, compressed with state that all of them share.
//! * [`connection`]: which streams are open, answers to what wants one.
//! * `link`: the above over a socket.
//!
//! The peers in use (moby/spdystream) know no flow control: they send no
//! WINDOW_UPDATE and ignore those they get. So nothing here waits for a window.
//! What came is credited all the same, for peers that wait; memory is bounded by
//! not reading from the socket while a reader behind it is slow.
//!
//! The specification is the draft "SPDY Protocol - Draft 3.1" (chromium.org).

pub mod connection;
mod dictionary;
pub mod frame;
pub mod headers;
pub(crate) mod link;

/// The name of the protocol in an `Upgrade` header.
pub const PROTOCOL: &str = "SPDY/3.1";

/// The peer broke the protocol; the connection is of no further use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("SPDY peer broke the protocol: {0}")]
pub struct Fault(pub &'static str);
