//! What the driver sees before and around the queues.

use std::fs::File;
use std::io;
use std::sync::Arc;

use super::disk::Disk;
use super::pool::{Place, Pool};
use super::request;
use super::request::{MAX_DISCARD_SECTORS, MAX_RANGES, MAX_ZERO_SECTORS};
use crate::device::{ActivateError, Activation, Device, DeviceType, QueueState};
use crate::queue::{Health, Queue};
use crate::{config_space, features};

// Feature bits (5.2.3).
const SIZE_MAX: u64 = 1 << 1;
const SEG_MAX: u64 = 1 << 2;
const RO: u64 = 1 << 5;
const BLK_SIZE: u64 = 1 << 6;
const FLUSH: u64 = 1 << 9;
const TOPOLOGY: u64 = 1 << 10;
const MQ: u64 = 1 << 12;
const DISCARD: u64 = 1 << 13;
const WRITE_ZEROES: u64 = 1 << 14;

/// Bytes of the configuration space, up to `write_zeroes_may_unmap` and its padding (5.2.4).
const CONFIG: usize = 60;

/// Most bytes of one segment. With [`SEG_MAX`] it bounds a request, and so the time that one
/// can take.
const MAX_SEGMENT: u32 = 1 << 20;

/// A sector, as the configuration space has it.
const BLOCK_SIZE: u32 = 512;

/// Sectors of a page, and its logarithm: what the host's file systems work in, and the guest
/// should.
const SECTORS_PER_PAGE: u16 = 8;
const SECTORS_PER_PAGE_LOG2: u8 = 3;

/// Bounds of the parameters.
const MAX_QUEUES: u16 = 8;
const QUEUE_SIZES: std::ops::RangeInclusive<u16> = 4..=1024;

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
    /// Entries of each queue, a power of two from 4 to 1024. The guest pays memory for each:
    /// 32 is enough for an image layer, 128 for a scratch disk.
    pub queue_size: u16,
    /// Where the requests are served.
    pub pool: Pool,
}

/// A block device.
#[derive(Debug)]
pub struct Blk {
    name: String,
    disk: Arc<Disk>,
    pool: Pool,
    queue_sizes: Vec<u16>,
    config: [u8; CONFIG],
    health: Health,
    /// By queue, while active.
    places: Vec<Option<Place>>,
}

impl Blk {
    /// An inactive disk.
    ///
    /// # Errors
    /// When the file's length cannot be found or is below one sector, or when a value of
    /// `config` is out of its bounds.
    pub fn new(config: BlkConfig) -> io::Result<Self> {
        let BlkConfig {
            file,
            serial,
            read_only,
            ephemeral,
            queues,
            queue_size,
            pool,
        } = config;
        let invalid = |reason: String| Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        if queues == 0 || queues > MAX_QUEUES {
            return invalid(format!(
                "disk {serial:?}: {queues} queues, not 1 to {MAX_QUEUES}"
            ));
        }
        if !queue_size.is_power_of_two() || !QUEUE_SIZES.contains(&queue_size) {
            return invalid(format!(
                "disk {serial:?}: queue size {queue_size} is not a power of two of 4 to 1024"
            ));
        }
        let disk = Disk::new(file, &serial, read_only, ephemeral)?;
        let name = format!("blk {serial}");
        Ok(Self {
            config: space(disk.sectors(), queues, queue_size),
            disk: Arc::new(disk),
            pool,
            queue_sizes: vec![queue_size; usize::from(queues)],
            health: Health::new(&name),
            name,
            places: Vec::new(),
        })
    }
}

/// `struct virtio_blk_config` (5.2.4).
fn space(sectors: u64, queues: u16, queue_size: u16) -> [u8; CONFIG] {
    let mut space = [0; CONFIG];
    let mut put =
        |offset: usize, value: &[u8]| space[offset..offset + value.len()].copy_from_slice(value);
    put(0, &sectors.to_le_bytes());
    put(8, &MAX_SEGMENT.to_le_bytes());
    // A chain is at most as long as the queue (2.7.5.3.1), and two of its descriptors are the
    // header and the status.
    put(12, &u32::from(queue_size - 2).to_le_bytes());
    // 16: geometry, not offered.
    put(20, &BLOCK_SIZE.to_le_bytes());
    // Topology: physical block of 2^3 sectors, no offset, minimum I/O one such block, no optimum.
    put(24, &[SECTORS_PER_PAGE_LOG2, 0]);
    put(26, &SECTORS_PER_PAGE.to_le_bytes());
    // 32: writeback, not offered.
    put(34, &queues.to_le_bytes());
    put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
    put(40, &MAX_RANGES.to_le_bytes());
    put(44, &u32::from(SECTORS_PER_PAGE).to_le_bytes());
    put(48, &MAX_ZERO_SECTORS.to_le_bytes());
    put(52, &MAX_RANGES.to_le_bytes());
    // Zeroed sectors may be unmapped.
    put(56, &[1]);
    space
}

impl Device for Blk {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn features(&self) -> u64 {
        let mut bits = features::RING | SIZE_MAX | SEG_MAX | BLK_SIZE | FLUSH | TOPOLOGY;
        if self.queue_sizes.len() > 1 {
            bits |= MQ;
        }
        if self.disk.geometry.read_only {
            bits |= RO;
        } else {
            bits |= DISCARD | WRITE_ZEROES;
        }
        bits
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config_space::read(&self.config, offset, data);
    }

    /// Nothing in it is writable.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let health = Health::new(&self.name);
        let queues = Queue::take_all(&mut activation, &self.queue_sizes, 1, &health)?;
        self.health = health;
        for queue in queues {
            let place = match queue {
                None => None,
                Some(queue) => {
                    let most =
                        MAX_SEGMENT as usize * usize::from(queue.size()) + request::HEADER + 1;
                    let queue = queue.with_max_bytes(most);
                    match self
                        .pool
                        .attach(self.disk.clone(), queue, &activation.thread_hook)
                    {
                        Ok(place) => Some(place),
                        Err(error) => {
                            self.stop();
                            return Err(error.into());
                        }
                    }
                }
            };
            self.places.push(place);
        }
        Ok(())
    }

    fn stop(&mut self) -> Vec<Option<QueueState>> {
        self.places
            .drain(..)
            .map(|place| place.and_then(|place| self.pool.detach(&place)))
            .collect()
    }

    fn failure(&self) -> Option<String> {
        self.health.failure()
    }
}

impl Drop for Blk {
    fn drop(&mut self) {
        self.stop();
    }
}
