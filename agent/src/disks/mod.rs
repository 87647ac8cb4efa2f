//! Image layers and the scratch disk.
//!
//! The daemon knows disks by serial. In a guest a serial is a virtio-blk
//! function on the PCI bus ([`guest`]); beside a host pod's agent it is a file
//! ([`blobs`]), or in tests a directory ([`directories`]). What differs is behind
//! [`Disks`]; who uses which layer is kept in [`layers`].

pub mod blobs;
pub mod directories;
pub mod guest;
pub mod layers;

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use rustix::{
    io::Errno,
    mount::{UnmountFlags, unmount},
};

use crate::error::{Context as _, Error, Result};

/// How long the kernel may take to let go of a file system's last user.
const FREES_WITHIN: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(2);

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

fn is_mount_point(path: &Path) -> bool {
    let device = |path: &Path| {
        use std::os::unix::fs::MetadataExt as _;
        fs::symlink_metadata(path).map(|meta| meta.dev())
    };
    match (device(path), path.parent().map(device)) {
        (Ok(own), Some(Ok(parent))) => own != parent,
        _ => false,
    }
}

/// Unmounts a layer, if it is mounted, and removes its mount point.
fn unmount_layer(serial: &str, on: &Path) -> Result<()> {
    if is_mount_point(on) {
        // A container's mount namespace is torn down just after its last process
        // is reaped: its hold on the layer may last a moment longer.
        let deadline = Instant::now() + FREES_WITHIN;
        loop {
            match unmount(on, UnmountFlags::empty()) {
                Ok(()) => break,
                Err(Errno::BUSY) if Instant::now() < deadline => std::thread::sleep(POLL),
                Err(Errno::BUSY) => {
                    return Err(Error::precondition(format!(
                        "layer {serial} is still in use"
                    )));
                }
                Err(why) => return Err(why).context(|| format!("unmount layer {serial}")),
            }
        }
    }
    match fs::remove_dir(on) {
        Err(why) if why.kind() != std::io::ErrorKind::NotFound => {
            Err(why).context(|| format!("remove {}", on.display()))
        }
        _ => Ok(()),
    }
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
