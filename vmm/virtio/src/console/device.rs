//! What the driver sees before and around the queues.

use std::os::fd::OwnedFd;

use super::tail::ConsoleTail;
use super::worker::ConsoleWorker;
use crate::device::{ActivateError, Activation, Device, DeviceType, QueueState};
use crate::features;
use crate::queue::{Health, Queue};
use crate::worker::Worker;

/// Input and output. Linux fills the whole input queue with a page per entry, so it is small.
const QUEUE_SIZES: &[u16] = &[4, 64];

/// A console whose output is kept, and shown on a descriptor if wanted.
#[derive(Debug)]
pub struct Console {
    tail: ConsoleTail,
    echo: Option<OwnedFd>,
    worker: Option<Worker<ConsoleWorker>>,
    health: Health,
}

impl Console {
    /// An inactive console that appends to `tail`, and copies to `echo` what that takes
    /// without blocking (for development: a terminal or a file).
    pub fn new(tail: ConsoleTail, echo: Option<OwnedFd>) -> Self {
        Self {
            tail,
            echo,
            worker: None,
            health: Health::new("console"),
        }
    }
}

impl Device for Console {
    fn device_type(&self) -> DeviceType {
        DeviceType::Console
    }

    fn name(&self) -> String {
        "console".to_owned()
    }

    fn features(&self) -> u64 {
        features::VERSION_1 | features::EVENT_IDX
    }

    fn queue_max_sizes(&self) -> &[u16] {
        QUEUE_SIZES
    }

    /// Columns, rows, ports, emergency write: none of them offered, all zero.
    fn read_config(&self, _offset: u64, data: &mut [u8]) {
        data.fill(0);
    }

    fn write_config(&mut self, _offset: u64, _data: &[u8]) {}

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let health = Health::new("console");
        let queues = Queue::take_all(&mut activation, QUEUE_SIZES, 2, &health)?;
        let echo = self.echo.as_ref().map(OwnedFd::try_clone).transpose()?;
        let handler = ConsoleWorker::new(
            queues.into_iter().flatten().collect(),
            self.tail.clone(),
            echo,
        );
        self.worker = Some(Worker::spawn(
            "console",
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
