//! The file behind a disk.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};

use super::SECTOR;
use super::request::{Geometry, SERIAL};

/// What requests are made on, shared by a disk's queues.
#[derive(Debug)]
pub(crate) struct Disk {
    pub(super) file: File,
    pub(super) geometry: Geometry,
    /// A flush ends at the page cache.
    pub(super) ephemeral: bool,
    /// Padded with zeroes.
    pub(super) serial: [u8; SERIAL],
}

impl Disk {
    pub(super) fn new(
        mut file: File,
        serial: &str,
        read_only: bool,
        ephemeral: bool,
    ) -> io::Result<Self> {
        let invalid = |reason: String| io::Error::new(io::ErrorKind::InvalidInput, reason);
        let mut padded = [0; SERIAL];
        padded
            .get_mut(..serial.len())
            .ok_or_else(|| {
                invalid(format!(
                    "disk serial {serial:?} is longer than {SERIAL} bytes"
                ))
            })?
            .copy_from_slice(serial.as_bytes());
        // Not the metadata's length, which is 0 for a block device.
        let len = file.seek(SeekFrom::End(0))?;
        let bytes = len - len % SECTOR;
        if bytes == 0 {
            return Err(invalid(format!(
                "the image of disk {serial:?} has {len} bytes: not even a sector"
            )));
        }
        if bytes != len {
            tracing::warn!(
                serial,
                len,
                "the image is not whole sectors: its last bytes are not seen"
            );
        }
        Ok(Self {
            file,
            geometry: Geometry { bytes, read_only },
            ephemeral,
            serial: padded,
        })
    }

    pub(super) fn sectors(&self) -> u64 {
        self.geometry.bytes / SECTOR
    }
}
