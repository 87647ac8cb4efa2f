//! Client of image registries.
//!
//! ```text
//!  Reference ─▶ hosts.toml ─▶ endpoints: mirrors in order, then the registry itself
//!                                 │
//!  credentials ───────────────────┤ one Server each: challenges, redirects, retries
//!                                 ▼
//!  Client::open ─▶ Repository ─▶ tagged / by_digest: manifests, verified
//!                             └▶ blob: bytes, resumed where a download broke off
//! ```
//!
//! The protocol is the OCI distribution-spec 1.1, "Pulling manifests" and "Pulling
//! blobs". A registry is hostile: answers are bounded, credentials stay with the
//! server they are for, and blobs are verified by whoever stores them.

#![forbid(unsafe_code)]
// Tests say what they expect by unwrapping it.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod blob;
mod challenge;
mod client;
mod credentials;
mod endpoint;
mod error;
pub mod fuzz;
mod hosts;
mod http;
mod keyless;
mod retry;
mod server;
mod signature;
mod token;

pub use blob::Blob;
pub use client::{Client, Manifest, Repository, Settings};
pub use credentials::{AuthConfig, Sources};
pub use error::{Attempt, Error, Kind, Result};
pub use keyless::{Identity, Keyless};
pub use signature::{Signers, SigningKey};
