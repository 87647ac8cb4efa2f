//! Doubles for unit tests and fuzzers: KVM's event plumbing and a virtio device, both
//! recording.
#![allow(clippy::expect_used, reason = "test support may assert by unwrapping")]

use std::{
    io,
    sync::{
        Arc, Mutex, OnceLock, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use bulkhead_virtio::device::{ActivateError, Activation, Device, DeviceType, Memory, QueueState};
use vmm_sys_util::eventfd::EventFd;

use crate::{
    device_thread::DeviceThread,
    irq::{Events, Gsi, Message},
    memory,
    pci::{Devfn, VirtioFunction, virtio::Surroundings},
};

/// One call to [`RecordedEvents`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Call {
    /// A route, with the GSI that was passed.
    Route(Option<Gsi>, Message),
    /// The end of a route.
    Unroute(Gsi),
    /// A notification address.
    Attach(u64),
    /// The end of a notification address.
    Detach(u64),
}

/// [`Events`] that only remembers what was asked of it.
#[derive(Debug, Default)]
pub struct RecordedEvents {
    calls: Mutex<Vec<Call>>,
    next: AtomicU32,
}

impl RecordedEvents {
    /// The calls since the last time.
    pub fn take(&self) -> Vec<Call> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Call>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Events for RecordedEvents {
    fn route(&self, gsi: Option<Gsi>, _: &EventFd, message: Message) -> io::Result<Gsi> {
        self.lock().push(Call::Route(gsi, message));
        Ok(gsi.unwrap_or_else(|| Gsi::for_tests(self.next.fetch_add(1, Ordering::Relaxed))))
    }

    fn unroute(&self, gsi: Gsi, _: &EventFd) {
        self.lock().push(Call::Unroute(gsi));
    }

    fn attach_notify(&self, address: u64, _: &EventFd) -> io::Result<()> {
        self.lock().push(Call::Attach(address));
        Ok(())
    }

    fn detach_notify(&self, address: u64, _: &EventFd) {
        self.lock().push(Call::Detach(address));
    }
}

/// What a [`FakeDevice`] went through; shared with the test.
#[derive(Debug, Default)]
pub struct Seen {
    /// The activation in force.
    pub active: Option<Activation>,
    /// Activations so far.
    pub activations: usize,
    /// Stops so far.
    pub stops: usize,
    /// Whether the next activation is refused.
    pub refuse: bool,
    /// Writes to the device configuration.
    pub config_writes: Vec<(u64, Vec<u8>)>,
}

/// A device of two queues of at most 256 and 64 entries, with 8 bytes of configuration.
#[derive(Debug)]
pub struct FakeDevice {
    name: String,
    seen: Arc<Mutex<Seen>>,
}

impl FakeDevice {
    /// Features it offers: VERSION_1, EVENT_IDX and bit 5.
    pub const FEATURES: u64 = 1 << 32 | 1 << 29 | 1 << 5;

    /// A device and a view into it.
    #[must_use]
    pub fn named(name: &str) -> (Self, Arc<Mutex<Seen>>) {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let device = Self {
            name: name.to_owned(),
            seen: seen.clone(),
        };
        (device, seen)
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device for FakeDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn name(&self) -> String {
        self.name.clone()
    }

    fn features(&self) -> u64 {
        Self::FEATURES
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &[256, 64]
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        crate::pci::read_registers(&[1, 2, 3, 4, 5, 6, 7, 8], start, data);
    }

    fn write_config(&mut self, offset: u64, data: &[u8]) {
        self.seen().config_writes.push((offset, data.to_vec()));
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let mut seen = self.seen();
        if seen.refuse {
            return Err(ActivateError::Queue {
                index: 0,
                reason: "refused by the test".into(),
            });
        }
        seen.activations += 1;
        seen.active = Some(activation);
        Ok(())
    }

    fn stop(&mut self) -> Vec<Option<QueueState>> {
        let mut seen = self.seen();
        seen.stops += 1;
        let Some(activation) = seen.active.take() else {
            return Vec::new();
        };
        // Pretends to have served one buffer of each queue.
        activation
            .queues
            .iter()
            .map(|queue| {
                queue.as_ref().map(|queue| QueueState {
                    next_available: queue.state.next_available.wrapping_add(1),
                    next_used: queue.state.next_used.wrapping_add(1),
                    ..queue.state
                })
            })
            .collect()
    }

    fn failure(&self) -> Option<String> {
        None
    }
}

/// Surroundings without KVM: 1 MiB of guest memory and a device thread, which all
/// share.
#[must_use]
pub fn surroundings() -> (Surroundings, Arc<RecordedEvents>) {
    static SHARED: OnceLock<(Memory, DeviceThread)> = OnceLock::new();
    let (memory, device_thread) = SHARED.get_or_init(|| {
        (
            memory::allocate(1 << 20).expect("1 MiB of address space"),
            DeviceThread::start(|| {}).expect("a thread"),
        )
    });
    let events = Arc::new(RecordedEvents::default());
    let surroundings = Surroundings {
        memory: memory.clone(),
        events: events.clone(),
        device_thread: device_thread.clone(),
        thread_hook: Arc::new(|_| Ok(())),
        ecam: None,
    };
    (surroundings, events)
}

/// A function of a fake device with a name of its own.
#[must_use]
pub fn function_at(devfn: Devfn, name: &str) -> Arc<VirtioFunction> {
    let device = FakeDevice::named(name).0;
    VirtioFunction::new(devfn, Box::new(device), surroundings().0).expect("descriptors")
}
