//! A guest of a few bytes that tells whether `/dev/kvm` runs 64-bit code.
//!
//! It starts in long mode, raises a breakpoint exception as every Linux kernel
//! does in its self-test, and its handler writes a byte to an I/O port. Whoever
//! emulates a guest instead of running it fails on the way.
//!
//! ```text
//!  0x0000  interrupt descriptor table, gate 3 → 0x6000
//!  0x1000  page tables: one entry each, the last a 2 MiB page at 0
//!  0x4000  segment descriptors: code and data
//!  0x5000  int3; hlt
//!  0x6000  mov al, 0x42; out 0x80, al
//!  0x8000  stack, growing down
//! ```

use std::ptr;

use kvm_bindings::{kvm_segment, kvm_userspace_memory_region};
use kvm_ioctls::{Kvm, VcpuExit};

const MEMORY: usize = 2 << 20;
const PML4: usize = 0x1000;
const PDPT: usize = 0x2000;
const PD: usize = 0x3000;
const GDT: usize = 0x4000;
const CODE: usize = 0x5000;
const HANDLER: usize = 0x6000;
const STACK: usize = 0x8000;
const PORT: u16 = 0x80;
const ANSWER: u8 = 0x42;

/// Runs the guest once.
///
/// # Errors
/// Says in words which step failed.
pub(crate) fn run_guest() -> Result<(), String> {
    let step = |what: &'static str| move |error| format!("{what}: {error}");
    let kvm = Kvm::new().map_err(step("/dev/kvm"))?;
    let memory = Memory::new()?;
    memory.fill();
    let vm = kvm.create_vm().map_err(step("KVM_CREATE_VM"))?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY as u64,
        userspace_addr: memory.address(),
    };
    // SAFETY: the region is a mapping of MEMORY bytes; `memory` was declared
    // before `vm` and so outlives it, and nothing else in this process touches
    // the mapping while the guest runs.
    unsafe { vm.set_user_memory_region(region) }.map_err(step("KVM_SET_USER_MEMORY_REGION"))?;

    let mut vcpu = vm.create_vcpu(0).map_err(step("KVM_CREATE_VCPU"))?;
    let mut sregs = vcpu.get_sregs().map_err(step("KVM_GET_SREGS"))?;
    let flat = kvm_segment {
        limit: u32::MAX,
        selector: 0x8,
        type_: 0xb,
        present: 1,
        s: 1,
        l: 1,
        g: 1,
        ..Default::default()
    };
    sregs.cs = flat;
    let data = kvm_segment {
        selector: 0x10,
        type_: 0x3,
        l: 0,
        db: 1,
        ..flat
    };
    (sregs.ds, sregs.es, sregs.ss) = (data, data, data);
    sregs.idt.base = 0;
    sregs.idt.limit = 0x3f;
    // The handler's code segment is loaded from here when the gate is taken.
    sregs.gdt.base = GDT as u64;
    sregs.gdt.limit = 0x17;
    sregs.cr3 = PML4 as u64;
    sregs.cr4 = 1 << 5; // PAE
    sregs.cr0 = 1 << 31 | 1; // paging, protection
    sregs.efer = 1 << 10 | 1 << 8; // long mode active, enabled
    vcpu.set_sregs(&sregs).map_err(step("KVM_SET_SREGS"))?;
    let mut regs = vcpu.get_regs().map_err(step("KVM_GET_REGS"))?;
    regs.rip = CODE as u64;
    regs.rsp = STACK as u64;
    regs.rflags = 2;
    vcpu.set_regs(&regs).map_err(step("KVM_SET_REGS"))?;

    match vcpu.run().map_err(step("KVM_RUN"))? {
        VcpuExit::IoOut(PORT, [ANSWER]) => Ok(()),
        exit => Err(format!("a 64-bit guest does not run on /dev/kvm: {exit:?}")),
    }
}

/// The guest's memory: an anonymous mapping, zeroed.
struct Memory {
    address: *mut u8,
}

impl Memory {
    fn new() -> Result<Self, String> {
        use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous};
        // SAFETY: a new private mapping at an address of the kernel's choice
        // overlaps nothing.
        let address = unsafe {
            mmap_anonymous(
                ptr::null_mut(),
                MEMORY,
                ProtFlags::READ | ProtFlags::WRITE,
                MapFlags::PRIVATE,
            )
        }
        .map_err(|error| format!("mapping the guest's memory: {error}"))?;
        Ok(Self {
            address: address.cast(),
        })
    }

    fn address(&self) -> u64 {
        self.address as u64
    }

    fn fill(&self) {
        // Present, writable; and for the last one: a large page.
        self.put(PML4, &(PDPT as u64 | 3).to_le_bytes());
        self.put(PDPT, &(PD as u64 | 3).to_le_bytes());
        self.put(PD, &0x83_u64.to_le_bytes());
        // Code and data segments at selectors 8 and 16.
        self.put(GDT + 8, &0x00af_9b00_0000_ffff_u64.to_le_bytes());
        self.put(GDT + 16, &0x00cf_9300_0000_ffff_u64.to_le_bytes());
        // Gate 3: offset 0x6000, selector 8, present, a 64-bit interrupt gate.
        self.put(
            3 * 16,
            &(HANDLER as u64 | 0x8 << 16 | 0x8e00 << 32).to_le_bytes(),
        );
        self.put(CODE, &[0xcc, 0xf4]);
        self.put(HANDLER, &[0xb0, ANSWER, 0xe6, 0x80]);
    }

    fn put(&self, offset: usize, bytes: &[u8]) {
        assert!(
            offset + bytes.len() <= MEMORY,
            "outside of the guest's memory"
        );
        // SAFETY: the range was just checked to lie within the mapping, and no
        // reference to the mapping exists anywhere.
        unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), self.address.add(offset), bytes.len()) };
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new` with this length; the virtual
        // machine that used it is gone or will never run again.
        unsafe {
            let _ = rustix::mm::munmap(self.address.cast(), MEMORY);
        }
    }
}
