//! A virtio driver in user space: speaks real virtqueues, in real guest memory, to a device
//! of this crate or of another one.
//!
//! ```text
//!   Rig ── Device under test, activated
//!    ├── Memory (two regions, with a hole between them)
//!    ├── Arena: where buffers are cut from
//!    └── DriverQueue 0..n: the driver's end of each queue
//! ```
//!
//! [`DriverQueue::add`] takes buffers of any shape (a list of pieces, direct or in an
//! indirect table); [`DriverQueue::raw`] writes whatever a malicious driver would.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    clippy::missing_panics_doc,
    reason = "a test that cannot go on ends by a panic"
)]

mod arena;
mod driver;
mod rig;
mod shape;

pub use arena::Arena;
pub use driver::{DriverQueue, Piece, Raw, TestInterrupt};
pub use rig::{Rig, guest_memory, no_hook};
pub use shape::{Random, cut};
