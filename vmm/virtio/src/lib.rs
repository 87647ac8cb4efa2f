//! Virtio queues and devices, independent of the transport that carries them.
//!
//! ```text
//!   transport (virtio-pci)      this crate
//!        |
//!        |  device::Device      blk  net  vsock  rng  console     what a request means
//!        |--------------------->  worker    one thread loop for all of them
//!                                 queue     rings: the one place that checks what the driver wrote
//!                                 chain     a request's buffers: Reader and Writer
//! ```
//!
//! * [`device`]: what a device is to its transport, and the other way round.
//! * [`queue`]: the checked accessor of a split virtqueue.
//! * [`chain`]: reading and writing the buffers of a descriptor chain.
//! * [`worker`]: the thread loop that every device runs.
//! * [`blk`], [`net`], [`vsock`], [`rng`], [`console`]: the devices. Each folder has the
//!   same rooms: `device` (features, configuration, activation), `worker` (what happens
//!   on a kick), and a pure parser of what the driver sends (`request`, `packet`, ...).
//!
//! The driver is hostile. Past `queue` and `chain` no code sees a raw descriptor;
//! guest memory is only touched by volatile copies and by vectored system calls,
//! never through a Rust reference.
//!
//! A device has no state of its own to save: queue states and negotiated features
//! (see [`device::Activation`]) are all that a restored device needs.

#![deny(unsafe_code)]
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        clippy::cast_possible_truncation,
        reason = "a test asserts by unwrapping, and knows its numbers"
    )
)]

pub mod blk;
pub mod chain;
mod config_space;
pub mod console;
pub mod device;
pub mod features;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzzing;
#[cfg(test)]
mod malice;
pub mod net;
pub mod queue;
pub mod rng;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod vsock;
pub mod worker;
