//! The seam between a virtio device and its transport (virtio-pci in `bulkhead-vmm`).
//!
//! ```text
//!   driver               transport                      device
//!     | feature bits, queue addresses | (device is inactive)  |
//!     |------------------------------>|                       |
//!     | DRIVER_OK                     | activate(Activation)  |
//!     |------------------------------>|---------------------->| starts its worker
//!     | notify queue n                |                       |
//!     |--- ioeventfd ---------------------------- kick ------>|
//!     |<-- irqfd ------------------------------ interrupt ----|
//!     | reset, or the VMM saves state | stop() -> QueueState  |
//!     |------------------------------>|---------------------->| worker drained, joined
//! ```
//!
//! A device owns its queues only between [`Device::activate`] and
//! [`Device::stop`]: what the driver configured is checked and frozen at
//! activation, so no register write can change a queue under a running worker.
//! All I/O in flight is finished or cancelled before `stop` returns.

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

/// The guest's memory, shared by every device.
pub type Memory = Arc<GuestMemoryMmap<()>>;

/// Virtio device ids (virtio 1.3, section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[repr(u16)]
pub enum DeviceType {
    /// Network card.
    Net = 1,
    /// Block device.
    Block = 2,
    /// Console.
    Console = 3,
    /// Entropy source.
    Rng = 4,
    /// Socket device.
    Vsock = 19,
}

/// Signals the driver. Cheap, callable from any thread.
pub trait Interrupt: Send + Sync + std::fmt::Debug {
    /// Raises the interrupt (an irqfd write under PCI). Never blocks, never fails
    /// towards the device: a lost route is the transport's to report.
    fn trigger(&self);
}

/// What a driver told the transport about one queue: plain data that can be
/// saved and restored. Addresses are guest-physical.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct QueueState {
    /// Entries; a power of two, at most the device's maximum.
    pub size: u16,
    /// Whether the driver enabled the queue.
    pub ready: bool,
    /// Descriptor table.
    pub descriptors: u64,
    /// Driver (available) ring.
    pub available: u64,
    /// Device (used) ring.
    pub used: u64,
    /// Next available entry to take.
    pub next_available: u16,
    /// Next used entry to write.
    pub next_used: u16,
}

/// One queue, handed to a device at activation.
#[derive(Debug)]
pub struct ActiveQueue {
    /// As configured by the driver, or as saved; to be checked by the queue accessor.
    pub state: QueueState,
    /// Written when the driver notifies this queue (an ioeventfd).
    pub kick: EventFd,
    /// This queue's interrupt.
    pub interrupt: Arc<dyn Interrupt>,
}

/// Runs first on every thread that a device starts, with the kind of worker
/// ("blk", "net", ...): where the VMM confines the thread.
pub type ThreadHook = Arc<dyn Fn(&str) -> std::io::Result<()> + Send + Sync>;

/// All that a device gets at DRIVER_OK.
pub struct Activation {
    /// The guest's memory.
    pub memory: Memory,
    /// The negotiated feature bits, a subset of [`Device::features`].
    pub features: u64,
    /// The queues that the driver enabled, by index; `None` for the others.
    pub queues: Vec<Option<ActiveQueue>>,
    /// The configuration-change interrupt.
    pub config_interrupt: Arc<dyn Interrupt>,
    /// See [`ThreadHook`].
    pub thread_hook: ThreadHook,
}

impl std::fmt::Debug for Activation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Activation")
            .field("features", &format_args!("{:#x}", self.features))
            .field("queues", &self.queues)
            .finish_non_exhaustive()
    }
}

/// Why a device could not start. The transport sets DEVICE_NEEDS_RESET.
#[derive(Debug, thiserror::Error)]
pub enum ActivateError {
    /// The driver left out a queue that the device cannot do without, or set one
    /// up wrongly.
    #[error("queue {index}: {reason}")]
    Queue {
        /// The queue's index.
        index: usize,
        /// What is wrong with it.
        reason: String,
    },
    /// The host refused a thread, descriptor or the like.
    #[error("cannot start the device's worker: {0}")]
    Host(#[from] std::io::Error),
}

/// A virtio device.
///
/// Calls come from the transport's one control thread, never concurrently.
/// None of them may block on the guest.
pub trait Device: Send {
    /// Its virtio device id.
    fn device_type(&self) -> DeviceType;

    /// Name for status and thread names: "blk scratch", "net 0", "vsock".
    fn name(&self) -> String;

    /// Feature bits offered, device-specific and ring features alike;
    /// `VIRTIO_F_VERSION_1` among them.
    fn features(&self) -> u64;

    /// Greatest size of each queue, powers of two; its length is the number of queues.
    fn queue_max_sizes(&self) -> &[u16];

    /// Reads the device configuration space. Bytes past its end read as zero.
    fn read_config(&self, offset: u64, data: &mut [u8]);

    /// Writes the device configuration space; what is read-only is ignored.
    fn write_config(&mut self, offset: u64, data: &[u8]);

    /// DRIVER_OK: starts the device.
    ///
    /// # Errors
    /// [`ActivateError`]; the device is then inactive, as before.
    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError>;

    /// Stops the device, drains its I/O and gives back each queue's state, in the
    /// shape of [`Activation::queues`]. Empty when it was not active.
    fn stop(&mut self) -> Vec<Option<QueueState>>;

    /// Why the device (or one of its queues) stopped serving a driver that broke
    /// the rules, if it did.
    fn failure(&self) -> Option<String>;
}
