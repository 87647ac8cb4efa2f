//! Virtio queues and devices, independent of the transport that carries them.
//!
//! * [`device`]: what a device is to its transport, and the other way round.

pub mod device;
