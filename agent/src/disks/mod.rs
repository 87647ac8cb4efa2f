//! Image layers and the scratch disk.
//!
//! The daemon knows disks by serial. In a guest a serial is a virtio-blk
//! function on the PCI bus; beside a host pod's agent it is a directory. What
//! differs is behind [`Disks`]; who uses which layer is kept in [`layers`].

pub mod directories;
pub mod guest;
pub mod layers;

use std::path::Path;

use crate::error::{Error, Result};

/// Where disks come from. Calls block; they run on a thread of their own.
pub trait Disks: Send + Sync + std::fmt::Debug {
    /// Makes the read-only layers appear as directories `into/<serial>`. On an
    /// error, those that were done stay; [`Disks::detach`] undoes each.
    ///
    /// # Errors
    /// `NOT_FOUND` when a disk does not appear in time, or it cannot be mounted.
    fn attach(&self, serials: &[String], into: &Path) -> Result<()>;

    /// Undoes [`Disks::attach`] for one layer, so that the host may take the
    /// disk away. Unknown serials succeed.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` when the layer is in use.
    fn detach(&self, serial: &str, from: &Path) -> Result<()>;

    /// Mounts the writable ext4 disk at `on`.
    ///
    /// # Errors
    /// As [`Disks::attach`].
    fn mount_scratch(&self, serial: &str, on: &Path) -> Result<()>;
}

/// Longest virtio-blk serial (virtio 1.2, 5.2.6.4).
const MAX_SERIAL: usize = 20;

/// Checks that a serial can be one, and can be a file name.
///
/// # Errors
/// `INVALID_ARGUMENT`.
pub fn check_serial(serial: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    if serial.is_empty() || serial.len() > MAX_SERIAL || !serial.chars().all(plain) {
        return Err(Error::invalid(format!(
            "{serial:?} is no disk serial: 1 to {MAX_SERIAL} of A-Z a-z 0-9 - _"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serials_are_file_names() {
        for good in ["scratch", "layer-0001", "A_z-9"] {
            check_serial(good).unwrap();
        }
        for bad in ["", ".", "..", "a/b", "a b", "a\0", &"x".repeat(21)] {
            assert!(check_serial(bad).is_err(), "{bad:?}");
        }
    }
}
