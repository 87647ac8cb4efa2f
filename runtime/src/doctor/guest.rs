//! A guest of a few instructions, to see whether KVM really runs one.
//!
//! It begins where a 64-bit kernel begins, in long mode with paging on, and does
//! what the first of a kernel's self-tests does, which software stand-ins for
//! hardware virtualization fail: it raises a breakpoint and comes back from it.
//!
//! ```text
//! 0x1000  page tables: three levels, one 2 MiB page that maps 0 to itself
//! 0x4000  global descriptor table: null, 64-bit code
//! 0x5000  interrupt descriptor table: vector 3 is the handler
//! 0x6000  main:     mov rax, A      a constant of 64 bits
//!                   xor ebx, ebx
//!                   int3 ──────────► handler:  mov rbx, B
//!                   add rax, rbx ◄─────────── iretq
//!                   out 0x10, al    exits to us, with the sum in rax
//!                   hlt
//! 0x7000  handler
//! 0x8000  stack, growing down
//! ```
//!
//! The only unsafe code of this crate is here: handing the memory to KVM.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use kvm_bindings::{
    KVM_MAX_CPUID_ENTRIES, kvm_regs, kvm_segment, kvm_sregs, kvm_userspace_memory_region,
};
use kvm_ioctls::{Kvm, VcpuExit, VcpuFd};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend, GuestMemoryMmap};
use vmm_sys_util::signal::{Killable, SIGRTMIN, register_signal_handler};

/// The guest's memory: one page as the tables map it.
const MEMORY_BYTES: usize = 2 << 20;
const PAGE_TABLES: u64 = 0x1000;
const DESCRIPTORS: u64 = 0x4000;
const INTERRUPTS: u64 = 0x5000;
const MAIN: u64 = 0x6000;
const HANDLER: u64 = 0x7000;
const STACK: u64 = 0x8000;

/// Selector of the code segment: the second descriptor.
const CODE_SELECTOR: u16 = 8;
/// A present 64-bit code segment (Intel SDM vol. 3, 3.4.5 and 5.2.1).
const CODE_DESCRIPTOR: u64 = 0x00af_9b00_0000_ffff;
/// `int3` is vector 3; a gate of 16 bytes each (SDM vol. 3, 6.14.1).
const BREAKPOINT_GATE: u64 = INTERRUPTS + 3 * 16;

const A: u64 = 0x0123_4567_89ab_cdef;
const B: u64 = 0xfedc_ba98_7654_3210;
/// The port that the guest writes its result to.
const RESULT_PORT: u16 = 0x10;

/// The guest needs microseconds.
const PATIENCE: Duration = Duration::from_secs(5);

/// Why the guest didn't run.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// A step of setting it up was refused.
    #[error("cannot {attempted}: {source}")]
    Setup {
        /// The step.
        attempted: &'static str,
        /// The system's reason.
        source: io::Error,
    },
    /// It ended somewhere else than it should.
    #[error("a 64-bit guest of a few instructions ended with {0}")]
    Ended(String),
    /// It computed something else.
    #[error("a 64-bit guest computed {found:#x} instead of {:#x}", A.wrapping_add(B))]
    Wrong {
        /// What it computed.
        found: u64,
    },
    /// It didn't end.
    #[error("a 64-bit guest of a few instructions did not end within 5 s")]
    Hung,
}

/// Runs the guest and checks its result.
///
/// # Errors
/// See [`GuestError`].
pub(super) fn run(kvm: Kvm) -> Result<(), GuestError> {
    // A guest that hangs is ended by a signal to its thread, which makes KVM_RUN return.
    let signal = SIGRTMIN();
    register_signal_handler(signal, ignore).map_err(|errno| GuestError::Setup {
        attempted: "handle the signal that ends a guest",
        source: errno.into(),
    })?;
    let given_up = Arc::new(AtomicBool::new(false));
    let (result, wait) = mpsc::channel();
    let worker = thread::Builder::new()
        .name("kvm-probe".to_owned())
        .spawn({
            let given_up = Arc::clone(&given_up);
            move || {
                // The receiver is gone only if it gave up on us.
                let _ = result.send(run_here(&kvm, &given_up));
            }
        })
        .map_err(|source| GuestError::Setup {
            attempted: "start a thread for the guest",
            source,
        })?;
    let outcome = wait.recv_timeout(PATIENCE).unwrap_or(Err(GuestError::Hung));
    given_up.store(true, Ordering::Release);
    // Again and again, since a signal may come just before the thread enters KVM_RUN.
    while !worker.is_finished() {
        if worker.kill(signal).is_err() {
            break;
        }
        thread::sleep(Duration::from_millis(1));
    }
    outcome
}

extern "C" fn ignore(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}

fn run_here(kvm: &Kvm, given_up: &AtomicBool) -> Result<(), GuestError> {
    let setup = |attempted| {
        move |errno: kvm_ioctls::Error| GuestError::Setup {
            attempted,
            source: errno.into(),
        }
    };
    let memory = memory()?;
    let vm = kvm.create_vm().map_err(setup("create a VM"))?;
    let host_address =
        memory
            .get_host_address(GuestAddress(0))
            .map_err(|error| GuestError::Setup {
                attempted: "find the guest's memory",
                source: io::Error::other(error),
            })?;
    let region = kvm_userspace_memory_region {
        slot: 0,
        flags: 0,
        guest_phys_addr: 0,
        memory_size: MEMORY_BYTES as u64,
        userspace_addr: host_address as u64,
    };
    // SAFETY: the region is exactly the mapping that `memory` owns, page-aligned and of
    // that length. `memory` was declared before `vm` and the vCPU, so it is unmapped after
    // both are closed, and nothing else of this process refers to it meanwhile.
    unsafe { vm.set_user_memory_region(region) }.map_err(setup("give the VM its memory"))?;

    let mut vcpu = vm.create_vcpu(0).map_err(setup("create a vCPU"))?;
    // Without it the vCPU has no long mode to be in.
    let cpuid = kvm
        .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
        .map_err(setup("read the CPUID leaves"))?;
    vcpu.set_cpuid2(&cpuid)
        .map_err(setup("set the CPUID leaves"))?;
    let mut system = vcpu
        .get_sregs()
        .map_err(setup("read the system registers"))?;
    enter_long_mode(&mut system);
    vcpu.set_sregs(&system).map_err(setup("enter long mode"))?;
    let registers = kvm_regs {
        rip: MAIN,
        rsp: STACK,
        rflags: 2,
        ..kvm_regs::default()
    };
    vcpu.set_regs(&registers)
        .map_err(setup("set the registers"))?;
    run_vcpu(&mut vcpu, given_up)
}

fn run_vcpu(vcpu: &mut VcpuFd, given_up: &AtomicBool) -> Result<(), GuestError> {
    loop {
        match vcpu.run() {
            Ok(VcpuExit::IoOut(RESULT_PORT, _)) => break,
            Err(errno) if matches!(errno.errno(), libc::EINTR | libc::EAGAIN) => {
                if given_up.load(Ordering::Acquire) {
                    return Err(GuestError::Hung);
                }
            }
            Ok(exit) => return Err(GuestError::Ended(format!("{exit:?}"))),
            Err(errno) => return Err(GuestError::Ended(io::Error::from(errno).to_string())),
        }
    }
    let registers = vcpu.get_regs().map_err(|errno| GuestError::Setup {
        attempted: "read the result",
        source: errno.into(),
    })?;
    if registers.rax == A.wrapping_add(B) {
        Ok(())
    } else {
        Err(GuestError::Wrong {
            found: registers.rax,
        })
    }
}

fn memory() -> Result<GuestMemoryMmap, GuestError> {
    let failed = |source: io::Error| GuestError::Setup {
        attempted: "make guest memory",
        source,
    };
    let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), MEMORY_BYTES)])
        .map_err(|error| failed(io::Error::other(error)))?;
    let write = |address: u64, bytes: &[u8]| {
        memory
            .write_slice(bytes, GuestAddress(address))
            .map_err(|error| failed(io::Error::other(error)))
    };
    for (level, entry) in page_tables().iter().enumerate() {
        write(PAGE_TABLES + 0x1000 * level as u64, &entry.to_le_bytes())?;
    }
    write(
        DESCRIPTORS + u64::from(CODE_SELECTOR),
        &CODE_DESCRIPTOR.to_le_bytes(),
    )?;
    write(BREAKPOINT_GATE, &interrupt_gate(HANDLER))?;
    write(MAIN, &main_code())?;
    write(HANDLER, &handler_code())?;
    Ok(memory)
}

/// The first entry of each of the three tables: present, writable; the last maps a
/// page of 2 MiB (SDM vol. 3, 4.5.4).
fn page_tables() -> [u64; 3] {
    const PRESENT_WRITABLE: u64 = 0b11;
    const LARGE: u64 = 1 << 7;
    [
        (PAGE_TABLES + 0x1000) | PRESENT_WRITABLE,
        (PAGE_TABLES + 0x2000) | PRESENT_WRITABLE,
        PRESENT_WRITABLE | LARGE,
    ]
}

/// A present 64-bit interrupt gate to `handler`.
fn interrupt_gate(handler: u64) -> [u8; 16] {
    const PRESENT_INTERRUPT_GATE: u8 = 0x8e;
    let offset = handler.to_le_bytes();
    let selector = CODE_SELECTOR.to_le_bytes();
    let mut gate = [0; 16];
    gate[0..2].copy_from_slice(&offset[0..2]);
    gate[2..4].copy_from_slice(&selector);
    gate[5] = PRESENT_INTERRUPT_GATE;
    gate[6..8].copy_from_slice(&offset[2..4]);
    gate[8..12].copy_from_slice(&offset[4..8]);
    gate
}

fn main_code() -> Vec<u8> {
    let mut code = vec![0x48, 0xb8]; // mov rax, A
    code.extend_from_slice(&A.to_le_bytes());
    code.extend_from_slice(&[0x31, 0xdb]); // xor ebx, ebx
    code.push(0xcc); // int3
    code.extend_from_slice(&[0x48, 0x01, 0xd8]); // add rax, rbx
    code.extend_from_slice(&[0xe6, 0x10]); // out 0x10, al
    code.push(0xf4); // hlt
    code
}

fn handler_code() -> Vec<u8> {
    let mut code = vec![0x48, 0xbb]; // mov rbx, B
    code.extend_from_slice(&B.to_le_bytes());
    code.extend_from_slice(&[0x48, 0xcf]); // iretq
    code
}

/// Protected mode, paging, long mode, flat segments (SDM vol. 3, 9.8.5).
fn enter_long_mode(system: &mut kvm_sregs) {
    /// PE, MP, ET, NE, WP, PG
    const CR0: u64 = 0x8001_0033;
    /// PAE
    const CR4: u64 = 1 << 5;
    /// LME, LMA
    const EFER: u64 = (1 << 8) | (1 << 10);

    let code = kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector: CODE_SELECTOR,
        type_: 0b1011, // execute, read, accessed
        present: 1,
        s: 1,
        l: 1,
        g: 1,
        ..kvm_segment::default()
    };
    let data = kvm_segment {
        selector: 0,
        type_: 0b0011, // read, write, accessed
        l: 0,
        db: 1,
        ..code
    };
    system.cs = code;
    system.ds = data;
    system.es = data;
    system.fs = data;
    system.gs = data;
    system.ss = data;
    system.gdt.base = DESCRIPTORS;
    system.gdt.limit = 15;
    system.idt.base = INTERRUPTS;
    system.idt.limit = 4 * 16 - 1;
    system.cr0 = CR0;
    system.cr3 = PAGE_TABLES;
    system.cr4 = CR4;
    system.efer = EFER;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_stays_within_its_page_and_the_tables_map_it() {
        assert!(MAIN + main_code().len() as u64 <= HANDLER);
        assert!(HANDLER + handler_code().len() as u64 <= STACK);
        assert!(STACK <= MEMORY_BYTES as u64);
        let tables = page_tables();
        assert_eq!(tables[0], 0x2003);
        assert_eq!(tables[1], 0x3003);
        assert_eq!(tables[2], 0x83);
    }

    #[test]
    fn a_gate_splits_its_handlers_address() {
        let gate = interrupt_gate(0x1122_3344_5566_7788);
        assert_eq!(gate[0..2], [0x88, 0x77]);
        assert_eq!(gate[2..4], [8, 0]);
        assert_eq!(gate[5], 0x8e);
        assert_eq!(gate[6..8], [0x66, 0x55]);
        assert_eq!(gate[8..12], [0x44, 0x33, 0x22, 0x11]);
    }
}
