//! The daemon's side of the guest agent.
//!
//! * [`connect`]: reaching a port of the guest.
//! * [`ready`]: hearing that the agent can be called.
//! * [`client`]: a connection to it, deadlines, retries.
//! * `calls`: its calls, one method each.
//! * `forward`: connections to servers in the pod.
//! * [`reply`], [`figures`]: what may be believed of its answers.

mod calls;
pub mod client;
pub mod connect;
pub mod figures;
mod forward;
pub mod ready;
pub mod reply;

pub use client::Agent;
pub use connect::Dialer;
