//! Whether a device's queues are sound: latched by its workers, read by its transport.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

/// The failures of one device's queues. Clones share it.
#[derive(Clone, Debug)]
pub struct Health(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The device's name, for the log.
    device: String,
    /// A bit for each failed queue; the last bit stands for all beyond.
    failed: AtomicU64,
    first: Mutex<Option<String>>,
}

impl Health {
    /// All queues of `device` are sound.
    pub fn new(device: &str) -> Self {
        Self(Arc::new(Inner {
            device: device.to_owned(),
            failed: AtomicU64::new(0),
            first: Mutex::new(None),
        }))
    }

    /// Latches a queue as failed. The first time it is logged; a driver cannot flood the log.
    pub fn fail(&self, queue: usize, reason: &str) {
        let before = self.0.failed.fetch_or(bit(queue), Ordering::Relaxed);
        if before & bit(queue) != 0 {
            return;
        }
        tracing::warn!(device = %self.0.device, queue, reason, "the driver broke a queue: it is served no more");
        let mut first = self
            .0
            .first
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner());
        first.get_or_insert_with(|| format!("queue {queue}: {reason}"));
    }

    /// Whether `queue` has failed.
    pub fn failed(&self, queue: usize) -> bool {
        self.0.failed.load(Ordering::Relaxed) & bit(queue) != 0
    }

    /// The first failure, in words.
    pub fn failure(&self) -> Option<String> {
        self.0
            .first
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
            .clone()
    }
}

fn bit(queue: usize) -> u64 {
    1 << queue.min(63)
}
