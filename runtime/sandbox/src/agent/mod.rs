//! The daemon's side of the guest agent.
//!
//! * [`connect`]: reaching a port of the guest.
//! * [`ready`]: hearing that the agent can be called.
//! * [`client`]: calling it.
//! * [`reply`]: what may be believed of its answers.

pub mod client;
pub mod connect;
pub mod ready;
pub mod reply;

pub use client::Agent;
pub use connect::Dialer;
