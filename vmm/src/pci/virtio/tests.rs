//! A driver, register by register, against the recorded device and event plumbing.

use std::sync::{Arc, Mutex};

use vm_memory::GuestAddress;

use super::{capabilities, *};
use crate::{
    irq::Message,
    layout,
    pci::value,
    testing::{Call, FakeDevice, Seen, function_at, surroundings},
};

const DEVFN: Devfn = Devfn(9);

struct Driver {
    function: Arc<VirtioFunction>,
    seen: Arc<Mutex<Seen>>,
    events: Arc<crate::testing::RecordedEvents>,
}

impl Driver {
    fn new() -> Self {
        let (surroundings, events) = surroundings();
        let (device, seen) = FakeDevice::named("blk fake");
        let function = VirtioFunction::new(DEVFN, Box::new(device), surroundings).unwrap();
        Self {
            function,
            seen,
            events,
        }
    }

    fn read(&self, offset: u64, len: usize) -> u64 {
        let mut data = vec![0; len];
        self.function.bar_read(offset, &mut data);
        value(&data)
    }

    fn write(&self, offset: u64, len: usize, number: u64) {
        self.function
            .bar_write(offset, &number.to_le_bytes()[..len]);
    }

    fn config(&self, offset: usize, len: usize) -> u64 {
        let mut data = vec![0; len];
        self.function.config_read(offset, &mut data);
        value(&data)
    }

    /// Negotiates, sets up queue 0 with vector 1, and sets DRIVER_OK.
    fn bring_up(&self) {
        for status in [1, 3] {
            self.write(0x14, 1, status);
        }
        self.write(0x08, 4, 1);
        self.write(0x0c, 4, 1);
        self.write(0x14, 1, 0xb);
        self.write(0x10, 2, 0);
        self.write(0x16, 2, 0);
        self.write(0x1a, 2, 1);
        self.write(0x20, 8, 0x1000);
        self.write(0x28, 8, 0x2000);
        self.write(0x30, 8, 0x3000);
        self.write(0x1c, 2, 1);
        self.write(0x14, 1, 0xf);
    }

    fn unmask_vector(&self, vector: u64, data: u64) {
        let entry = capabilities::MSIX_TABLE + vector * 16;
        self.write(entry, 4, layout::LAPIC);
        self.write(entry + 8, 4, data);
        self.write(entry + 12, 4, 0);
    }

    fn enable_msix(&self) {
        let at = self.function.lock().offsets.msix + 2;
        self.function.config_write(at, &0x8000u16.to_le_bytes());
    }

    fn notify_address() -> u64 {
        layout::bar(DEVFN.0) + capabilities::NOTIFY
    }
}

#[test]
fn capabilities_lead_to_every_structure() {
    let driver = Driver::new();
    let mut at = usize::try_from(driver.config(0x34, 1)).unwrap();
    let mut found = Vec::new();
    while at != 0 {
        let id = driver.config(at, 1);
        if id == 9 {
            let kind = driver.config(at + 3, 1);
            found.push((kind, driver.config(at + 8, 4), driver.config(at + 12, 4)));
            let expected = if kind == 2 || kind == 5 { 20 } else { 16 };
            assert_eq!(driver.config(at + 2, 1), expected);
            if kind == 2 {
                assert_eq!(driver.config(at + 16, 4), 4, "notify multiplier");
            }
        } else {
            assert_eq!(id, 0x11);
            assert_eq!(driver.config(at + 2, 2), 2, "three vectors");
            assert_eq!(driver.config(at + 4, 4), capabilities::MSIX_TABLE);
            assert_eq!(driver.config(at + 8, 4), capabilities::MSIX_PENDING);
        }
        at = usize::try_from(driver.config(at + 1, 1)).unwrap();
    }
    assert_eq!(
        found,
        [
            (1, 0, 0x40),
            (3, 0x100, 1),
            (2, 0x2000, 8),
            (4, 0x200, 0xe00),
            (5, 0, 0)
        ]
    );
}

#[test]
fn a_driver_starts_and_resets_the_device() {
    let driver = Driver::new();
    driver.unmask_vector(1, 0x41);
    driver.enable_msix();
    driver.bring_up();
    assert_eq!(driver.read(0x14, 1), 0xf);
    let message = Message {
        address: layout::LAPIC,
        data: 0x41,
    };
    let address = Driver::notify_address();
    assert_eq!(
        driver.events.take(),
        [Call::Route(None, message), Call::Attach(address)]
    );
    {
        let seen = driver.seen.lock().unwrap();
        let activation = seen.active.as_ref().unwrap();
        assert_eq!(activation.features, 1 << 32);
        let queue = activation.queues[0].as_ref().unwrap();
        assert_eq!(queue.state.descriptors, 0x1000);
        assert!(activation.queues[1].is_none());
        queue.interrupt.trigger();
        activation.config_interrupt.trigger();
    }
    assert_eq!(driver.read(0x15, 1), 1, "generation");
    assert!(driver.function.condition().unwrap().activated);
    driver.write(0x14, 1, 0);
    assert_eq!(driver.read(0x14, 1), 0);
    assert_eq!(driver.events.take(), [Call::Detach(address)]);
    assert_eq!(driver.seen.lock().unwrap().stops, 1);
    driver.bring_up();
    assert_eq!(driver.seen.lock().unwrap().activations, 2);
}

#[test]
fn a_refused_activation_needs_a_reset() {
    let driver = Driver::new();
    driver.seen.lock().unwrap().refuse = true;
    driver.bring_up();
    assert_eq!(driver.read(0x14, 1), 0x4f);
    let address = Driver::notify_address();
    assert_eq!(
        driver.events.take(),
        [Call::Attach(address), Call::Detach(address)]
    );
    assert_eq!(driver.read(0x100, 1), 2, "configuration interrupt");
    assert_eq!(driver.read(0x100, 1), 0, "reading acknowledges");
    driver.seen.lock().unwrap().refuse = false;
    driver.write(0x14, 1, 0);
    driver.bring_up();
    assert_eq!(driver.read(0x14, 1), 0xf);
}

#[test]
fn notifications_without_an_ioeventfd_kick_too() {
    let driver = Driver::new();
    driver.bring_up();
    driver.write(capabilities::NOTIFY, 2, 0);
    driver.write(capabilities::NOTIFY + 4, 2, 1);
    driver.write(capabilities::NOTIFY + 0x1000, 4, 1);
    let seen = driver.seen.lock().unwrap();
    let queues = &seen.active.as_ref().unwrap().queues;
    assert_eq!(queues[0].as_ref().unwrap().kick.read().unwrap(), 1);
}

#[test]
fn device_configuration_passes_through_within_its_room() {
    let driver = Driver::new();
    assert_eq!(driver.read(0x200, 4), 0x0403_0201);
    assert_eq!(driver.read(0x207, 2), 8);
    assert_eq!(driver.read(0xfff, 8), 0);
    driver.write(0x204, 2, 0x1234);
    let seen = driver.seen.lock().unwrap();
    assert_eq!(seen.config_writes, [(4, vec![0x34, 0x12])]);
}

#[test]
fn notifications_follow_a_bar_that_moves() {
    let driver = Driver::new();
    driver.bring_up();
    let old = Driver::notify_address();
    let new = layout::bar(0) + capabilities::NOTIFY;
    assert_eq!(driver.events.take(), [Call::Attach(old)]);
    driver.function.config_write(4, &[0, 0]);
    assert!(!driver.function.answers(layout::bar(DEVFN.0)));
    assert_eq!(driver.events.take(), [Call::Detach(old)]);
    driver.function.config_write(0x10, &4u32.to_le_bytes());
    driver.function.config_write(4, &[2, 0]);
    assert!(driver.function.answers(layout::bar(0)));
    assert_eq!(driver.events.take(), [Call::Attach(new)]);
    driver.write(0x14, 1, 0);
    assert_eq!(driver.events.take(), [Call::Detach(new)]);
}

#[test]
fn the_bar_is_reached_through_the_configuration_space() {
    let driver = Driver::new();
    let access = driver.function.lock().offsets.access;
    let set = |offset: u32, length: u32| {
        driver
            .function
            .config_write(access + 8, &offset.to_le_bytes());
        driver
            .function
            .config_write(access + 12, &length.to_le_bytes());
    };
    set(0x12, 2);
    assert_eq!(driver.config(access + 16, 4), 2, "number of queues");
    set(0x14, 1);
    driver.function.config_write(access + 16, &[1, 0, 0, 0]);
    assert_eq!(driver.read(0x14, 1), 1);
    // Outside of the BAR, unaligned, or of another width: nothing happens.
    for (offset, length) in [(0x4000, 4), (0x13, 2), (0, 8), (u32::MAX, 1), (0, 0)] {
        set(offset, length);
        driver.function.config_write(access + 16, &[0xff; 4]);
        assert_eq!(driver.config(access + 16, 4), 0);
    }
    assert_eq!(driver.read(0x14, 1), 1);
}

#[test]
fn removal_waits_for_the_driver() {
    let driver = Driver::new();
    driver.bring_up();
    assert!(!driver.function.release());
    driver.write(0x14, 1, 0);
    assert!(driver.function.release());
}

#[test]
fn a_saved_function_continues_where_it_was() {
    let driver = Driver::new();
    driver.unmask_vector(1, 0x41);
    driver.enable_msix();
    driver.bring_up();
    let saved = driver.function.save();
    assert!(driver.seen.lock().unwrap().active.is_none());
    let json = serde_json::to_string(&saved).unwrap();
    let saved: FunctionState = serde_json::from_str(&json).unwrap();

    let other = Driver::new();
    other.function.restore(&saved).unwrap();
    assert_eq!(other.read(0x14, 1), 0xf);
    let message = Message {
        address: layout::LAPIC,
        data: 0x41,
    };
    assert_eq!(
        other.events.take(),
        [
            Call::Route(None, message),
            Call::Attach(Driver::notify_address())
        ]
    );
    let next = |driver: &Driver| {
        let seen = driver.seen.lock().unwrap();
        let queue = seen.active.as_ref().unwrap().queues[0].as_ref().unwrap();
        queue.state.next_available
    };
    assert_eq!(next(&other), 1, "the queue's position was carried over");
    // The same function can go on, too.
    driver.function.restore(&saved).unwrap();
    assert_eq!(next(&driver), 1);
    assert_eq!(driver.function.save().devfn, DEVFN.0);

    let elsewhere = function_at(Devfn(10), "blk x");
    assert!(elsewhere.restore(&saved).is_err());
}

#[test]
fn guest_memory_is_handed_on() {
    let driver = Driver::new();
    driver.bring_up();
    let seen = driver.seen.lock().unwrap();
    let memory = &seen.active.as_ref().unwrap().memory;
    use vm_memory::GuestMemoryBackend;
    assert!(memory.address_in_range(GuestAddress(0x1000)));
}
