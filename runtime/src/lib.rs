//! The node daemon.
//!
//! ```text
//!   kubelet, crictl            bulkhead's own command line
//!        │ CRI v1                     │ operator service
//!        └───────────┬────────────────┘
//!              one unix socket                         serve
//!        ┌───────────┴────────────────┐
//!      cri/ (one file an RPC)     operator/     streams: exec, attach, port-forward
//!        └───────────┬────────────────┘
//!                  pods/       lifecycle: what happens in which order, and what is
//!        ┌───────┬───┴────┬──────────┐   undone when it doesn't
//!     store/  images   network    sandbox launcher
//! ```
//!
//! `pods` holds the life of pods and containers, and the in-memory model that every
//! list and status answer comes from. `stats` measures them. `store` holds the records
//! that outlive the daemon; `reconcile` makes records and world agree again when it
//! starts. `observe` is what operators watch all of it by.
// All unsafe code is in `doctor::guest`, which runs a guest of a few instructions.
#![deny(unsafe_code)]
// Tests fail by panicking.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

pub mod cli;
pub mod clock;
pub mod config;
pub mod cri;
pub mod doctor;
pub mod error;
pub mod ids;
pub mod images;
pub mod observe;
pub mod operator;
pub mod paths;
pub mod pods;
pub mod reconcile;
pub mod serve;
pub mod stats;
pub mod store;
mod streams;
#[cfg(any(test, feature = "testing"))]
pub mod testing;

pub use error::{Error, Kind, Result};
