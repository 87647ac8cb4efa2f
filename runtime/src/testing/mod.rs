//! A node without virtual machines: stand-ins for guest, network, images and disk
//! that behave by their contracts, share one [`World`], and fail on demand.
//!
//! The world outlives a daemon, as a real one does: a test "kills" the daemon by
//! freezing every effect, drops it, and starts another one on the same world.

mod faults;
mod gauges;
mod guest;
mod images;
mod launcher;
mod network;
mod node;
pub mod records;
mod store;
mod world;

pub use faults::{Faults, Mode};
pub use gauges::Gauges;
pub use guest::ECHO_PORT;
#[cfg(test)]
pub(crate) use images::image;
pub use images::{FakeImages, IMAGE, IMAGE_ID};
pub use launcher::FakeLauncher;
pub use network::FakeNetwork;
pub use node::{Clients, Node};
pub use store::MemoryRecords;
pub use world::{Residue, World};
