//! What the driver sees before and around the queues.

use std::fs::File;
use std::io;

use super::pool::Pool;
use crate::device::{ActivateError, Activation, Device, DeviceType, QueueState};

/// A disk.
#[derive(Debug)]
pub struct BlkConfig {
    /// The image: raw bytes, never interpreted. A regular file or a block device, open for
    /// reading, and for writing unless `read_only`. Its length is the disk's, down to a sector.
    pub file: File,
    /// What the guest reads as the disk's serial (`/sys/block/vda/serial`); at most 20 bytes.
    pub serial: String,
    /// Whether writes are refused, and `VIRTIO_BLK_F_RO` offered.
    pub read_only: bool,
    /// Whether the contents die with the VM: a flush then reaches the host's page cache, not
    /// its disk. A crash of the VM loses nothing by it; a crash of the host loses what is
    /// lost anyway.
    pub ephemeral: bool,
    /// Request queues, 1 to 8: one per vCPU is enough.
    pub queues: u16,
    /// Entries of each queue, a power of two from 4 to 1024. The guest pays memory for each.
    pub queue_size: u16,
    /// Where the requests are served. Queue `i` of all its disks shares a thread with others.
    pub pool: Pool,
}

/// A block device.
#[derive(Debug)]
pub struct Blk {
    config: BlkConfig,
}

impl Blk {
    /// An inactive disk.
    ///
    /// # Errors
    /// When the file's length cannot be found or is below one sector, or when a value of
    /// `config` is out of its bounds.
    pub fn new(config: BlkConfig) -> io::Result<Self> {
        Ok(Self { config })
    }
}

impl Device for Blk {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn name(&self) -> String {
        format!("blk {}", self.config.serial)
    }

    fn features(&self) -> u64 {
        crate::features::RING
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &[128]
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, _activation: Activation) -> Result<(), ActivateError> {
        Err(io::Error::from(io::ErrorKind::Unsupported).into())
    }

    fn stop(&mut self) -> Vec<Option<QueueState>> {
        Vec::new()
    }

    fn failure(&self) -> Option<String> {
        None
    }
}
