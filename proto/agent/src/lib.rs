//! Wire contract between the node daemon and the guest agent.
//!
//! * [`agent`] and [`agent_ttrpc`]: messages and service of `proto/agent.proto`.
//! * [`ready`]: the notice a guest sends when its agent can be called.
//! * [`stdio`]: the framing of process input and output, one connection a stream.
//! * [`forward`]: connections to servers in the pod.
//!
//! Ports are vsock ports for a microVM; for a host pod's agent they are unix sockets
//! in a directory of its own: [`sockets`].
#![deny(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))] // a failed unwrap is a failed test

pub mod forward;
pub mod ready;
pub mod stdio;

#[allow(
    missing_docs,
    unsafe_code,
    unreachable_pub,
    rust_2018_idioms,
    clippy::all,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    rustdoc::all
)] // generated code
mod generated {
    include!(concat!(env!("OUT_DIR"), "/mod.rs"));
}
pub use generated::{agent, agent_ttrpc};

/// Names of the unix sockets that stand for ports beside a host pod's agent.
pub mod sockets {
    /// [`AGENT_PORT`](super::AGENT_PORT).
    pub const AGENT: &str = "agent.sock";
    /// [`STDIO_PORT`](super::STDIO_PORT).
    pub const STDIO: &str = "stdio.sock";
    /// [`FORWARD_PORT`](super::FORWARD_PORT).
    pub const FORWARD: &str = "forward.sock";
    /// [`READY_PORT`](super::READY_PORT): the daemon listens.
    pub const READY: &str = "ready.sock";

    /// The socket of a port that the agent listens on.
    #[must_use]
    pub fn of_port(port: u32) -> Option<&'static str> {
        match port {
            super::AGENT_PORT => Some(AGENT),
            super::STDIO_PORT => Some(STDIO),
            super::FORWARD_PORT => Some(FORWARD),
            _ => None,
        }
    }
}

/// The agent's ttrpc server; the guest listens.
pub const AGENT_PORT: u32 = 1024;
/// Process streams; the guest listens.
pub const STDIO_PORT: u32 = 1025;
/// Connections to servers in the pod; the guest listens.
pub const FORWARD_PORT: u32 = 1026;
/// The guest connects out to the host here, once, when its agent is ready.
pub const READY_PORT: u32 = 2048;
/// The guest's vsock context id. Every VM has its own host-side socket, so one
/// number serves all.
pub const GUEST_CID: u32 = 3;
/// Longest container or exec id an agent accepts, in bytes.
pub const MAX_ID_LEN: usize = 128;
/// Largest ttrpc message either side accepts, in bytes: ttrpc's own bound.
pub const MAX_MESSAGE_LEN: usize = 4 << 20;
