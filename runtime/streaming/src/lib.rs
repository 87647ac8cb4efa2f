//! The streaming server: exec, attach and port-forward, the way a kubelet asks for
//! them from a container runtime.
//!
//! An RPC asks for a session and gets a URL; the client connects to that, upgrades
//! the connection to SPDY/3.1 or WebSocket, and is joined to a process or to ports.
//!
//! ```text
//!   server ── tokens            who may connect
//!     │
//!   http ── negotiate           what is spoken
//!     │
//!   mux ◄── link ── spdy, websocket     streams over the connection
//!     │
//!   remote, forward             sessions: a process's streams, a pod's ports
//!     │
//!   backend                     what is behind: traits
//! ```
//!
//! Codecs and state machines are pure; `link`s put them over sockets, and
//! [`mux`] is the one loop that moves bytes.
#![forbid(unsafe_code)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "a failed unwrap is a failed test"
    )
)]

pub mod backend;
#[cfg(feature = "client")]
pub mod client;
mod forward;
#[doc(hidden)]
pub mod fuzz;
mod http;
mod link;
mod mux;
mod negotiate;
pub mod remote;
mod server;
pub mod spdy;
mod tls;
mod tokens;
pub mod websocket;

pub use backend::{
    Command, Connection, Failure, Output, Ports, Process, Standard, Terminal, WindowSize,
};
pub use server::{CONNECTIONS_MAX, Error, Listening, Server, Settings, listen};
pub use tokens::{LIFETIME, OUTSTANDING_MAX};
