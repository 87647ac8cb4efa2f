//! A vCPU before its first instruction.

use kvm_bindings::{CpuId, kvm_regs, kvm_segment};
use kvm_ioctls::VcpuFd;

use super::{KvmError, Vm, cpuid, ioctl, state::write_msrs};
use crate::{boot::paging, layout};

const CR0_PE: u64 = 1 << 0;
const CR0_ET: u64 = 1 << 4;
const CR0_PG: u64 = 1 << 31;
const CR4_PAE: u64 = 1 << 5;
const EFER_LME: u64 = 1 << 8;
const EFER_LMA: u64 = 1 << 10;
/// RFLAGS with only the bit that is always set: interrupts are off.
const RFLAGS_RESET: u64 = 1 << 1;

const MSR_MISC_ENABLE: u32 = 0x1a0;
const MISC_ENABLE_FAST_STRINGS: u64 = 1;
const MSR_MTRR_DEFAULT: u32 = 0x2ff;
/// MTRRs on, default type write-back: a firmware would have left them so, and Linux
/// would otherwise map all of its memory uncached.
const MTRR_ENABLED_WRITE_BACK: u64 = 1 << 11 | 6;

impl Vm {
    /// Creates vCPU `id` of `count`. It waits for its start-up message unless it is 0,
    /// which begins at `entry` by the 64-bit boot protocol.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`]
    pub(super) fn create_vcpu(&self, id: u32, count: u32, entry: u64) -> Result<VcpuFd, KvmError> {
        let vcpu = self
            .fd
            .create_vcpu(u64::from(id))
            .map_err(ioctl("create a vCPU"))?;
        let leaves = cpuid::for_vcpu(self.cpuid.as_slice(), id, count);
        let leaves = CpuId::from_entries(&leaves)
            .map_err(|_| ioctl("take the CPUID leaves")(kvm_ioctls::Error::new(libc::E2BIG)))?;
        vcpu.set_cpuid2(&leaves)
            .map_err(ioctl("take the CPUID leaves"))?;
        write_msrs(
            &vcpu,
            &[
                (MSR_MISC_ENABLE, MISC_ENABLE_FAST_STRINGS),
                (MSR_MTRR_DEFAULT, MTRR_ENABLED_WRITE_BACK),
            ],
        )?;
        if id == 0 {
            set_boot_state(&vcpu, entry)?;
        }
        Ok(vcpu)
    }
}

/// Long mode, paging on, RSI at the zero page (boot.rst, "64-bit Boot Protocol").
fn set_boot_state(vcpu: &VcpuFd, entry: u64) -> Result<(), KvmError> {
    let mut special = vcpu.get_sregs().map_err(ioctl("read special registers"))?;
    special.cr0 = CR0_PE | CR0_ET | CR0_PG;
    special.cr3 = layout::PML4;
    special.cr4 = CR4_PAE;
    special.efer = EFER_LME | EFER_LMA;
    special.gdt.base = layout::GDT;
    special.gdt.limit = u16::try_from(size_of_val(&paging::GDT) - 1).unwrap_or(0);
    special.idt.base = layout::IDT;
    special.idt.limit = 7;
    special.cs = flat(paging::CODE_SELECTOR, CODE);
    for segment in [
        &mut special.ds,
        &mut special.es,
        &mut special.fs,
        &mut special.gs,
        &mut special.ss,
    ] {
        *segment = flat(paging::DATA_SELECTOR, DATA);
    }
    vcpu.set_sregs(&special)
        .map_err(ioctl("set special registers"))?;
    let registers = kvm_regs {
        rip: entry,
        rsi: layout::ZERO_PAGE,
        rflags: RFLAGS_RESET,
        ..Default::default()
    };
    vcpu.set_regs(&registers).map_err(ioctl("set registers"))
}

/// Segment type: execute, read, accessed.
const CODE: u8 = 0xb;
/// Segment type: read, write, accessed.
const DATA: u8 = 0x3;

fn flat(selector: u16, kind: u8) -> kvm_segment {
    let code = kind == CODE;
    kvm_segment {
        base: 0,
        limit: u32::MAX,
        selector,
        type_: kind,
        present: 1,
        dpl: 0,
        db: u8::from(!code),
        s: 1,
        l: u8::from(code),
        g: 1,
        ..Default::default()
    }
}
