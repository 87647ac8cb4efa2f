//! Entropy device (virtio 1.3, section 5.4): one queue of buffers to fill with random bytes.

mod device;
#[cfg(test)]
mod tests;
mod worker;

pub use device::Rng;

/// The worker kind passed to the thread hook.
pub const WORKER: &str = "rng";

/// System calls of the worker beside [`crate::worker::SYSCALLS`].
pub const SYSCALLS: &[&str] = &["getrandom"];

/// What the fuzz targets see of this module.
#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing {
    pub(crate) use super::worker::serve;
}
