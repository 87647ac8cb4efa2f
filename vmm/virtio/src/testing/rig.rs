//! A device with a driver attached.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use vm_memory::{GuestAddress, GuestMemoryMmap};

use super::arena::Arena;
use super::driver::{DriverQueue, Piece, TestInterrupt};
use crate::device::{ActivateError, Activation, Device, Memory, ThreadHook};
use crate::features;

/// Where the rings start; page 0 is left free, so that a null address is none of theirs.
const RINGS: u64 = 0x1000;

/// How long a device may take to answer in a test.
const PATIENCE: Duration = Duration::from_secs(20);

/// `low` bytes from 0, and 1 MiB from 4 GiB on: two regions with a hole between them, as a
/// VM's memory is around its devices.
pub fn guest_memory(low: usize) -> Memory {
    Arc::new(
        GuestMemoryMmap::from_ranges(&[(GuestAddress(0), low), (GuestAddress(4 << 30), 1 << 20)])
            .unwrap(),
    )
}

/// Confines nothing.
pub fn no_hook() -> ThreadHook {
    Arc::new(|_| Ok(()))
}

/// A device under test and its driver.
#[derive(Debug)]
pub struct Rig<D: Device> {
    /// The device.
    pub device: D,
    /// The driver's end of its queues.
    pub queues: Vec<DriverQueue>,
    /// For buffers.
    pub arena: Arena,
    features: u64,
    /// The threads that the device started, as directories of `/proc`.
    threads: Arc<Mutex<Vec<PathBuf>>>,
}

impl<D: Device> Rig<D> {
    /// Activates `device` with the features of `wanted` that it offers, every queue at its
    /// greatest size, and 16 MiB for buffers.
    pub fn new(device: D, wanted: u64) -> Self {
        Self::with_arena(device, wanted, 16 << 20)
    }

    /// As [`new`](Self::new), with `arena` bytes for buffers.
    pub fn with_arena(device: D, wanted: u64, arena: usize) -> Self {
        let negotiated = device.features() & (wanted | features::VERSION_1);
        let sizes = device.queue_max_sizes().to_vec();
        let rings: u64 = sizes
            .iter()
            .map(|&size| DriverQueue::footprint(size).next_multiple_of(4096))
            .sum();
        let low = (RINGS + rings) as usize + arena;
        let memory = guest_memory(low);
        let mut next = RINGS;
        let queues = sizes
            .iter()
            .map(|&size| {
                let queue = DriverQueue::new(
                    memory.clone(),
                    next,
                    size,
                    negotiated & features::EVENT_IDX != 0,
                );
                next += DriverQueue::footprint(size).next_multiple_of(4096);
                queue
            })
            .collect();
        let mut rig = Self {
            device,
            queues,
            arena: Arena::new(memory, next, low as u64),
            features: negotiated,
            threads: Arc::default(),
        };
        rig.activate().expect("the device starts");
        rig
    }

    /// DRIVER_OK with the queues as they stand.
    ///
    /// # Errors
    /// The device's.
    pub fn activate(&mut self) -> Result<(), ActivateError> {
        self.device.activate(Activation {
            memory: self.arena.memory().clone(),
            features: self.features,
            queues: self
                .queues
                .iter()
                .map(|queue| Some(queue.active()))
                .collect(),
            config_interrupt: TestInterrupt::new(),
            thread_hook: self.hook(),
        })
    }

    fn hook(&self) -> ThreadHook {
        let threads = self.threads.clone();
        Arc::new(move |_| {
            let thread = std::fs::read_link("/proc/thread-self")?;
            threads
                .lock()
                .unwrap()
                .push(Path::new("/proc").join(thread));
            Ok(())
        })
    }

    /// Processor time that the device's threads have used.
    pub fn thread_time(&self) -> Duration {
        let threads = self.threads.lock().unwrap();
        let times = threads.iter().filter_map(|thread| {
            let stat = std::fs::read_to_string(thread.join("schedstat")).ok()?;
            stat.split_whitespace().next()?.parse::<u64>().ok()
        });
        Duration::from_nanos(times.sum())
    }

    /// Stops the device and starts it again from the states that it gave back, as a restore does.
    pub fn restart(&mut self) {
        let states = self.device.stop();
        assert_eq!(states.len(), self.queues.len());
        for (queue, state) in self.queues.iter_mut().zip(states) {
            queue.resume(state.expect("the queue was active"));
        }
        self.activate().expect("the device starts again");
    }

    /// Offers a chain to queue `index`, kicks, waits for the answer: the bytes written.
    pub fn request(&mut self, index: usize, readable: &[Piece], writable: &[Piece]) -> u32 {
        let queue = &mut self.queues[index];
        let head = queue.add(readable, writable).expect("room in the queue");
        queue.kick();
        let (used, written) = queue.wait_used(PATIENCE).expect("the device answers");
        assert_eq!(used, head);
        written
    }
}
