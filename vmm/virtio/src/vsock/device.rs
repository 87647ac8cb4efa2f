//! What the driver sees before and around the queues.

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use super::muxer::Muxer;
use super::worker::VsockWorker;
use crate::device::{ActivateError, Activation, Device, DeviceType, QueueState};
use crate::queue::{Health, Queue};
use crate::worker::Worker;
use crate::{config_space, features};

/// Receive, transmit, event. Linux fills the whole receive queue with pages of its own: 128
/// are half a MiB of the guest.
const QUEUE_SIZES: &[u16] = &[128, 128, 4];

/// Longest path of a unix socket (`sun_path`, without its final zero).
const MAX_PATH: usize = 107;

/// Longest `_<port>`.
const MAX_SUFFIX: usize = 11;

/// A socket device.
#[derive(Debug)]
pub struct VsockConfig {
    /// The guest's context id, 3 or greater.
    pub guest_cid: u32,
    /// Where the host connects to the guest: it writes `CONNECT <port>\n` and reads
    /// `OK <host port>\n`. Bound by the caller; made non-blocking here.
    pub listener: UnixListener,
    /// Where the guest connects to the host: port `p` is the unix socket `<prefix>_<p>`. The
    /// path is used on the worker's thread, as that sees the file system.
    pub uds_prefix: PathBuf,
}

/// A socket device.
#[derive(Debug)]
pub struct Vsock {
    config: VsockConfig,
    worker: Option<Worker<VsockWorker>>,
    health: Health,
}

impl Vsock {
    /// An inactive device. Connections of the host wait in the listener's backlog until the
    /// driver is there.
    ///
    /// # Errors
    /// When `guest_cid` is reserved, the prefix too long for a socket's path, or the listener
    /// cannot be made non-blocking.
    pub fn new(config: VsockConfig) -> io::Result<Self> {
        let invalid = |reason: String| Err(io::Error::new(io::ErrorKind::InvalidInput, reason));
        if !(3..u32::MAX).contains(&config.guest_cid) {
            return invalid(format!(
                "guest context id {} is reserved: use 3 or greater",
                config.guest_cid
            ));
        }
        if config.uds_prefix.as_os_str().as_bytes().len() + MAX_SUFFIX > MAX_PATH {
            return invalid(format!(
                "{} is too long for the path of a unix socket with a port behind it",
                config.uds_prefix.display()
            ));
        }
        config.listener.set_nonblocking(true)?;
        Ok(Self {
            config,
            worker: None,
            health: Health::new("vsock"),
        })
    }
}

impl Device for Vsock {
    fn device_type(&self) -> DeviceType {
        DeviceType::Vsock
    }

    fn name(&self) -> String {
        "vsock".to_owned()
    }

    /// No feature of its own: without `VIRTIO_VSOCK_F_STREAM` and the others, streams it is
    /// (5.10.3).
    fn features(&self) -> u64 {
        features::RING
    }

    fn queue_max_sizes(&self) -> &[u16] {
        QUEUE_SIZES
    }

    /// `struct virtio_vsock_config`: the guest's context id (5.10.4).
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        config_space::read(
            &u64::from(self.config.guest_cid).to_le_bytes(),
            offset,
            data,
        );
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let health = Health::new("vsock");
        let queues = Queue::take_all(&mut activation, QUEUE_SIZES, 3, &health)?;
        let queues: Vec<Queue> = queues.into_iter().flatten().collect();
        // A driver that starts has used none of its queues.
        let resumed = queues
            .iter()
            .map(Queue::state)
            .any(|state| state.next_available != 0 || state.next_used != 0);
        let queues = <[Queue; 3]>::try_from(queues).map_err(|_| ActivateError::Queue {
            index: 0,
            reason: "three queues are needed".to_owned(),
        })?;
        let muxer = Muxer::new(
            self.config.guest_cid.into(),
            self.config.listener.try_clone()?,
            self.config.uds_prefix.clone(),
        );
        let handler = VsockWorker::new(queues, muxer, resumed);
        self.worker = Some(Worker::spawn(
            "vsock",
            super::WORKER,
            &activation.thread_hook,
            handler,
        )?);
        self.health = health;
        Ok(())
    }

    fn stop(&mut self) -> Vec<Option<QueueState>> {
        self.worker
            .take()
            .and_then(Worker::stop)
            .map(|worker| worker.states())
            .unwrap_or_default()
    }

    fn failure(&self) -> Option<String> {
        self.health.failure()
    }
}
