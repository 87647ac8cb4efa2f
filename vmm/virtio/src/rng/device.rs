//! What the driver sees before and around the queue.

use super::worker::RngWorker;
use crate::device::{ActivateError, Activation, Device, DeviceType, QueueState};
use crate::features;
use crate::queue::{Health, Queue};
use crate::worker::Worker;

/// Linux keeps one buffer in flight; a few more for others.
const QUEUE_SIZES: &[u16] = &[16];

/// An entropy device fed by the host's `getrandom(2)`.
#[derive(Debug)]
pub struct Rng {
    worker: Option<Worker<RngWorker>>,
    health: Health,
}

impl Rng {
    /// An inactive device.
    pub fn new() -> Self {
        Self {
            worker: None,
            health: Health::new("rng"),
        }
    }
}

impl Default for Rng {
    fn default() -> Self {
        Self::new()
    }
}

impl Device for Rng {
    fn device_type(&self) -> DeviceType {
        DeviceType::Rng
    }

    fn name(&self) -> String {
        "rng".to_owned()
    }

    fn features(&self) -> u64 {
        features::VERSION_1 | features::EVENT_IDX
    }

    fn queue_max_sizes(&self) -> &[u16] {
        QUEUE_SIZES
    }

    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let health = Health::new("rng");
        let queues = Queue::take_all(&mut activation, QUEUE_SIZES, 1, &health)?;
        let handler = RngWorker::new(queues.into_iter().flatten().collect());
        self.worker = Some(Worker::spawn(
            "rng",
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
