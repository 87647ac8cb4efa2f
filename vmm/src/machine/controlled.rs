//! What the control service acts on.

use std::sync::Arc;

use bulkhead_virtio::{blk::Pool, console::ConsoleTail as VirtioTail};
use bulkhead_vmm_api::MAX_CONSOLE_TAIL;
use tokio::sync::mpsc;

use crate::{
    console::ConsoleTail,
    handover::Handed,
    kvm::{Ending, ExitCounters, VcpuSet},
    pci::{PciBus, virtio::Surroundings},
    timings::Timings,
};

/// A running VM.
pub struct Controlled {
    /// vCPUs.
    pub vcpus: VcpuSet,
    /// The bus.
    pub bus: Arc<PciBus>,
    /// Exit counts.
    pub exits: Arc<ExitCounters>,
    /// Start timings.
    pub timings: Arc<Timings>,
    /// The console.
    pub console: Consoles,
    /// What a new device needs.
    pub surroundings: Surroundings,
    /// Serves all disks.
    pub pool: Pool,
    /// Descriptors handed over.
    pub handed: Handed,
    /// Ends the VM.
    pub end: mpsc::Sender<Ending>,
}

/// Where the guest's output is kept.
#[derive(Clone, Debug, Default)]
pub struct Consoles {
    serial: ConsoleTail,
    virtio: VirtioTail,
}

impl Consoles {
    /// Where the debug serial port prints to.
    pub(super) fn serial(&self) -> ConsoleTail {
        self.serial.clone()
    }

    /// Where the virtio console prints to.
    pub(super) fn virtio(&self) -> VirtioTail {
        self.virtio.clone()
    }

    /// The last bytes, and how many there were in all.
    #[must_use]
    pub fn tail(&self) -> (Vec<u8>, u64) {
        let (mut bytes, total) = self.serial.snapshot();
        bytes.extend(self.virtio.bytes());
        let excess = bytes.len().saturating_sub(MAX_CONSOLE_TAIL);
        bytes.drain(..excess);
        (bytes, total.saturating_add(self.virtio.total()))
    }
}
