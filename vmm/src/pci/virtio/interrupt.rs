//! The two interrupts of a virtio function as its device sees them.

use std::sync::{
    Arc,
    atomic::{AtomicU8, Ordering::SeqCst},
};

use bulkhead_virtio::device::Interrupt;

use crate::pci::msix::Vector;

/// Interrupt status bit: a queue was used.
const STATUS_QUEUE: u8 = 1;
/// Interrupt status bit: the configuration changed.
const STATUS_CONFIG: u8 = 2;

/// A queue's interrupt, bound to its vector for as long as the device runs.
#[derive(Debug)]
pub(super) struct QueueInterrupt {
    /// The MSI-X vector; `None` if the driver chose none and polls the status.
    pub(super) vector: Option<Arc<Vector>>,
    /// The function's interrupt status.
    pub(super) status: Arc<AtomicU8>,
}

impl Interrupt for QueueInterrupt {
    fn trigger(&self) {
        match &self.vector {
            Some(vector) => vector.trigger(),
            None => {
                self.status.fetch_or(STATUS_QUEUE, SeqCst);
            }
        }
    }
}

/// The configuration interrupt: also steps the configuration's generation, by which a
/// driver sees that what it read belongs together.
#[derive(Debug)]
pub(super) struct ConfigInterrupt {
    /// The MSI-X vector, if any.
    pub(super) vector: Option<Arc<Vector>>,
    /// The function's interrupt status.
    pub(super) status: Arc<AtomicU8>,
    /// The configuration's generation.
    pub(super) generation: Arc<AtomicU8>,
}

impl Interrupt for ConfigInterrupt {
    fn trigger(&self) {
        self.generation.fetch_add(1, SeqCst);
        self.status.fetch_or(STATUS_CONFIG, SeqCst);
        if let Some(vector) = &self.vector {
            vector.trigger();
        }
    }
}
