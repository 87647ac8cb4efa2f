//! What the driver sees before and around the queues.

use std::io;
use std::os::fd::OwnedFd;

use super::receive::Receiver;
use super::tap::Tap;
use super::transmit::Transmitter;
use super::worker::NetWorker;
use super::{
    CSUM, GUEST_CSUM, GUEST_ECN, GUEST_TSO4, GUEST_TSO6, HOST_ECN, HOST_TSO4, HOST_TSO6, MAC,
    MRG_RXBUF, MTU, STATUS,
};
use crate::device::{ActivateError, Activation, Device, DeviceType, QueueState};
use crate::queue::{Health, Queue};
use crate::worker::Worker;
use crate::{config_space, features};

/// Receive and transmit.
const QUEUE_SIZES: &[u16] = &[256, 256];

/// Bytes of the configuration space, up to `mtu` (5.1.4).
const CONFIG: usize = 12;

/// `VIRTIO_NET_S_LINK_UP`.
const LINK_UP: u16 = 1;

/// Pairs of queues.
const PAIRS: u16 = 1;

/// Smallest MTU of IPv4 (RFC 791), and of the specification (5.1.4.1).
const MIN_MTU: u16 = 68;

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
    name: String,
    tap: Tap,
    mac: [u8; 6],
    mtu: u16,
    check_source: bool,
    worker: Option<Worker<NetWorker>>,
    health: Health,
}

impl Net {
    /// An inactive card.
    ///
    /// # Errors
    /// When `tap` is no tap with a virtio-net header, or `mtu` is out of its bounds.
    pub fn new(config: NetConfig) -> io::Result<Self> {
        Self::on(config, Tap::new)
    }

    /// As [`new`](Self::new), but `tap` is a socket that keeps packets apart (`SOCK_SEQPACKET`):
    /// each is a 12-byte header and a frame.
    ///
    /// # Errors
    /// When `mtu` is out of its bounds, or the socket cannot be made non-blocking.
    #[cfg(any(test, feature = "testing"))]
    pub fn on_socket(config: NetConfig) -> io::Result<Self> {
        Self::on(config, Tap::socket)
    }

    fn on(config: NetConfig, tap: impl FnOnce(OwnedFd) -> io::Result<Tap>) -> io::Result<Self> {
        let NetConfig {
            tap: fd,
            mac,
            mtu,
            check_source,
            index,
        } = config;
        let name = format!("net {index}");
        if mtu < MIN_MTU {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{name}: an MTU of {mtu} is less than {MIN_MTU}"),
            ));
        }
        Ok(Self {
            tap: tap(fd)?,
            mac,
            mtu,
            check_source,
            worker: None,
            health: Health::new(&name),
            name,
        })
    }
}

impl Device for Net {
    fn device_type(&self) -> DeviceType {
        DeviceType::Net
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn features(&self) -> u64 {
        let to_guest = GUEST_CSUM | GUEST_TSO4 | GUEST_TSO6 | GUEST_ECN | MRG_RXBUF;
        let to_host = CSUM | HOST_TSO4 | HOST_TSO6 | HOST_ECN;
        features::RING | to_guest | to_host | MAC | MTU | STATUS
    }

    fn queue_max_sizes(&self) -> &[u16] {
        QUEUE_SIZES
    }

    /// `struct virtio_net_config` (5.1.4): mac, status, max_virtqueue_pairs, mtu.
    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let mut space = [0; CONFIG];
        space[..6].copy_from_slice(&self.mac);
        space[6..8].copy_from_slice(&LINK_UP.to_le_bytes());
        space[8..10].copy_from_slice(&PAIRS.to_le_bytes());
        space[10..].copy_from_slice(&self.mtu.to_le_bytes());
        config_space::read(&space, offset, data);
    }

    /// The address is offered (`VIRTIO_NET_F_MAC`), so nothing is writable.
    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let health = Health::new(&self.name);
        let negotiated = activation.features;
        let queues = Queue::take_all(&mut activation, QUEUE_SIZES, 2, &health)?;
        let queues: Vec<Queue> = queues.into_iter().flatten().collect();
        let queues = <[Queue; 2]>::try_from(queues).map_err(|_| ActivateError::Queue {
            index: 0,
            reason: "two queues are needed".to_owned(),
        })?;
        self.tap.set_offload(negotiated)?;
        let handler = NetWorker::new(
            queues,
            self.tap.try_clone()?,
            Receiver::new(negotiated, self.mtu),
            Transmitter::new(negotiated, self.check_source.then_some(self.mac)),
        );
        self.worker = Some(Worker::spawn(
            &self.name,
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
