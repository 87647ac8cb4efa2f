//! vCPUs on a real KVM, with guests of a few instructions: pausing, saving and
//! restoring, and the ways in which a VM ends. They need a processor that runs guests,
//! so the test host runs them (`suites` of the whole-node tests).

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "tests may assert by unwrapping"
)]

use std::{
    sync::{Arc, mpsc},
    time::{Duration, Instant},
};

use bulkhead_virtio::device::Memory;
use bulkhead_vmm::{
    boot::paging,
    devices::Ports,
    jail::seccomp::{Filters, Kind},
    kvm::{Ending, ExitCounters, Machine, VcpuSet, Vm},
    layout, memory,
    pci::{Devfn, Ecam, PciBus},
    timings::Timings,
};
use bulkhead_vmm_api::ExitReason;
use vm_memory::{Bytes, GuestAddress};

const CODE: u64 = 16 << 20;
const COUNTER: GuestAddress = GuestAddress(0x5000);
const PATIENCE: Duration = Duration::from_secs(30);

struct Guest {
    memory: Memory,
    vcpus: VcpuSet,
    endings: mpsc::Receiver<Ending>,
    exits: Arc<ExitCounters>,
    // KVM's VM lives as long as its descriptor.
    _vm: Vm,
}

/// A guest of one vCPU that runs `code` in long mode.
fn guest(code: &[u8]) -> Guest {
    guest_with(code, |_, _| {})
}

/// The same; `prepare` may change it before it runs.
fn guest_with(code: &[u8], prepare: impl FnOnce(&Vm, &Memory)) -> Guest {
    let vm = Vm::create(1).unwrap();
    let memory = memory::allocate(32 << 20).unwrap();
    vm.set_memory(&memory).unwrap();
    paging::write(memory.as_ref()).unwrap();
    memory.write_slice(code, GuestAddress(CODE)).unwrap();
    prepare(&vm, &memory);
    let (end, endings) = mpsc::channel();
    let exits = Arc::new(ExitCounters::default());
    let machine = Machine {
        ports: Ports::new(None),
        bus: Arc::new(PciBus::default()),
        exits: exits.clone(),
        timings: Arc::new(Timings::default()),
        end: Box::new(move |ending| end.send(ending).unwrap()),
        confine: Box::new(|| Ok(())),
    };
    let vcpus = VcpuSet::start(&vm, 1, CODE, Arc::new(machine)).unwrap();
    Guest {
        memory,
        vcpus,
        endings,
        exits,
        _vm: vm,
    }
}

impl Guest {
    fn counter(&self) -> u64 {
        self.memory.read_obj(COUNTER).unwrap()
    }

    fn wait_beyond(&self, count: u64) {
        let start = Instant::now();
        while self.counter() <= count {
            assert!(start.elapsed() < PATIENCE, "the guest does not run");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn ending(&self) -> ExitReason {
        self.endings.recv_timeout(PATIENCE).unwrap().0
    }
}

/// inc rbx; mov [0x5000], rbx; jmp back.
const COUNT: &[u8] = &[
    0x48, 0xff, 0xc3, 0x48, 0x89, 0x1c, 0x25, 0x00, 0x50, 0x00, 0x00, 0xeb, 0xf3,
];

#[test]
#[ignore = "needs a KVM that runs guests: the test host has one"]
fn a_paused_guest_stands_still_and_goes_on() {
    let guest = guest(COUNT);
    for _ in 0..50 {
        guest.wait_beyond(guest.counter());
        guest.vcpus.pause(PATIENCE).unwrap();
        assert!(guest.vcpus.is_paused());
        let count = guest.counter();
        std::thread::sleep(Duration::from_millis(1));
        assert_eq!(guest.counter(), count);
        guest.vcpus.resume();
    }
    guest.wait_beyond(guest.counter());
}

#[test]
#[ignore = "needs a KVM that runs guests: the test host has one"]
fn a_saved_vcpu_continues_where_it_was() {
    let guest = guest(COUNT);
    assert!(guest.vcpus.save().is_err(), "a running vCPU has no state");
    guest.wait_beyond(1000);
    guest.vcpus.pause(PATIENCE).unwrap();
    let saved = guest.vcpus.save().unwrap();
    let json = serde_json::to_string(&saved).unwrap();
    let count = guest.counter();
    guest.vcpus.resume();
    guest.wait_beyond(count + 100_000);
    guest.vcpus.pause(PATIENCE).unwrap();
    let later = guest.counter();
    guest
        .vcpus
        .restore(&serde_json::from_str::<Vec<_>>(&json).unwrap())
        .unwrap();
    // RBX is what it was: the counter starts again from there.
    guest.memory.write_obj(0u64, COUNTER).unwrap();
    guest.vcpus.resume();
    guest.wait_beyond(count);
    let first = guest.counter();
    assert!(first > count && count < later, "{count} {first} {later}");
    assert!(guest.vcpus.restore(&[]).is_err());
}

#[test]
#[ignore = "needs a KVM that runs guests: the test host has one"]
fn power_off_reset_and_panic_are_told_apart() {
    // mov dx, port; mov al, value; out dx, al; jmp $
    let out = |port: u16, value: u8| {
        let [low, high] = port.to_le_bytes();
        vec![0x66, 0xba, low, high, 0xb0, value, 0xee, 0xeb, 0xfe]
    };
    for (port, value, reason) in [
        (0x600, 0x34, ExitReason::Shutdown),
        (0x602, 0x01, ExitReason::Reset),
        (0x64, 0xfe, ExitReason::Reset),
        (0x505, 0x01, ExitReason::GuestPanic),
    ] {
        let guest = guest(&out(port, value));
        assert_eq!(guest.ending(), reason);
        assert_eq!(guest.exits.by_reason().get("port-power"), Some(&1));
        guest.vcpus.pause(PATIENCE).unwrap();
    }
}

#[test]
#[ignore = "needs a KVM that runs guests: the test host has one"]
fn a_triple_fault_is_a_reset() {
    // ud2, and no handler for it.
    let guest = guest(&[0x0f, 0x0b]);
    assert_eq!(guest.ending(), ExitReason::Reset);
}

#[test]
#[ignore = "needs a KVM that runs guests: the test host has one"]
fn nothing_answers_with_all_ones() {
    // mov edx, 0x1234; in eax, dx; mov ebx, eax; mov [0x5000], rbx; jmp $
    let code = [
        0xba, 0x34, 0x12, 0x00, 0x00, 0xed, 0x89, 0xc3, 0x48, 0x89, 0x1c, 0x25, 0x00, 0x50, 0x00,
        0x00, 0xeb, 0xfe,
    ];
    let guest = guest(&code);
    guest.wait_beyond(0);
    assert_eq!(guest.counter(), u64::from(u32::MAX));
}

#[test]
#[ignore = "needs a KVM that runs guests: the test host has one"]
fn configuration_space_is_memory_until_it_is_withdrawn() {
    const READ: GuestAddress = GuestAddress(0x5010);
    // Again: mov eax, [ECAM + page 8]; mov [0x5010], eax; inc rbx; mov [0x5000], rbx; jmp.
    let code = [
        0xa1, 0x00, 0x80, 0x00, 0xe8, 0x00, 0x00, 0x00, 0x00, 0x89, 0x04, 0x25, 0x10, 0x50, 0x00,
        0x00, 0x48, 0xff, 0xc3, 0x48, 0x89, 0x1c, 0x25, 0x00, 0x50, 0x00, 0x00, 0xeb, 0xe3,
    ];
    let ecam = Ecam::new().unwrap();
    let mut registers = [0; 256];
    registers[..4].copy_from_slice(&0x1042_1af4u32.to_le_bytes());
    // Not on the bus: exits would read all ones.
    ecam.appear(Devfn(8), &registers);
    let guest = guest_with(&code, |vm, memory| {
        vm.show(&ecam).unwrap();
        // The fourth gigabyte, as one page.
        let fourth = GuestAddress(layout::PDPT + 3 * 8);
        memory.write_obj(0xc000_0083u64, fourth).unwrap();
    });
    let exits = || guest.exits.by_reason().get("ecam-read").copied();
    guest.wait_beyond(1000);
    let read: u32 = guest.memory.read_obj(READ).unwrap();
    assert_eq!((read, exits()), (0x1042_1af4, None));

    registers[..4].copy_from_slice(&[1, 2, 3, 4]);
    ecam.write(Devfn(8), &registers);
    guest.wait_beyond(guest.counter() + 1000);
    let read: u32 = guest.memory.read_obj(READ).unwrap();
    assert_eq!((read, exits()), (0x0403_0201, None));

    // As the device thread does it, under its filter.
    let filters = Filters::compile().unwrap();
    std::thread::scope(|scope| {
        let withdrawing = scope.spawn(|| {
            filters.apply(&Kind::Devices).unwrap();
            ecam.give_up();
        });
        withdrawing.join().unwrap();
    });
    guest.wait_beyond(guest.counter() + 10);
    let read: u32 = guest.memory.read_obj(READ).unwrap();
    assert_eq!(read, u32::MAX);
    assert!(exits().is_some_and(|count| count >= 10), "{:?}", exits());
}
