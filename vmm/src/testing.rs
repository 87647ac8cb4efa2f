//! Doubles for unit tests: KVM's event plumbing and a virtio device, both recording.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
};

use bulkhead_virtio::device::{ActivateError, Activation, Device, DeviceType, QueueState};
use vmm_sys_util::eventfd::EventFd;

use crate::irq::{Events, Gsi, Message};

/// One call to [`RecordedEvents`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Call {
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
pub(crate) struct RecordedEvents {
    calls: Mutex<Vec<Call>>,
    next: AtomicU32,
}

impl RecordedEvents {
    /// The calls since the last time.
    pub(crate) fn take(&self) -> Vec<Call> {
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
pub(crate) struct Seen {
    /// The activation in force.
    pub(crate) active: Option<Activation>,
    /// Activations so far.
    pub(crate) activations: usize,
    /// Stops so far.
    pub(crate) stops: usize,
    /// Whether the next activation is refused.
    pub(crate) refuse: bool,
    /// Writes to the device configuration.
    pub(crate) config_writes: Vec<(u64, Vec<u8>)>,
}

/// A device of two queues of at most 256 and 64 entries, with 8 bytes of configuration.
#[derive(Debug)]
pub(crate) struct FakeDevice(Arc<Mutex<Seen>>);

impl FakeDevice {
    /// Features it offers: VERSION_1, EVENT_IDX and bit 5.
    pub(crate) const FEATURES: u64 = 1 << 32 | 1 << 29 | 1 << 5;

    /// A device and a view into it.
    pub(crate) fn new() -> (Self, Arc<Mutex<Seen>>) {
        let seen = Arc::new(Mutex::new(Seen::default()));
        (Self(seen.clone()), seen)
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Device for FakeDevice {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn name(&self) -> String {
        "blk fake".into()
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
