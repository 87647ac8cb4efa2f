//! A vCPU's state as plain data, to be taken out and put back (templates).

use kvm_bindings::{
    Msrs, kvm_debugregs, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs, kvm_xsave,
};
use kvm_ioctls::VcpuFd;
use serde::{Deserialize, Serialize};

use super::{KvmError, ioctl};

/// Model specific registers that a Linux guest sets and that outlive an exit. What the
/// host does not know is skipped. Order matters when they are put back: the TSC before
/// its deadline.
const SAVED_MSRS: &[u32] = &[
    0x0000_0010, // TSC
    0x0000_003b, // TSC_ADJUST
    0x0000_0048, // SPEC_CTRL
    0x0000_0122, // TSX_CTRL
    0x0000_0174, // SYSENTER_CS
    0x0000_0175, // SYSENTER_ESP
    0x0000_0176, // SYSENTER_EIP
    0x0000_01a0, // MISC_ENABLE
    0x0000_0277, // PAT
    0x0000_02ff, // MTRR default type
    0x0000_06e0, // TSC deadline
    0x0000_0da0, // XSS
    0xc000_0081, // STAR
    0xc000_0082, // LSTAR
    0xc000_0083, // CSTAR
    0xc000_0084, // SYSCALL mask
    0xc000_0102, // kernel GS base
    0xc000_0103, // TSC_AUX
    0xc001_011f, // VIRT_SPEC_CTRL
    0x4b56_4d00, // KVM wall clock
    0x4b56_4d01, // KVM system time
    0x4b56_4d02, // KVM async page faults
    0x4b56_4d03, // KVM steal time
    0x4b56_4d04, // KVM end of interrupt
    0x4b56_4d05, // KVM poll control
    0x4b56_4d06, // KVM async page fault interrupt
];

/// All of one vCPU.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct VcpuState {
    registers: kvm_regs,
    special: kvm_sregs,
    debug: kvm_debugregs,
    /// Extended state by words, as KVM_GET_XSAVE has it.
    xsave: Vec<u32>,
    xcrs: kvm_xcrs,
    lapic: Vec<i8>,
    mp_state: kvm_mp_state,
    events: kvm_vcpu_events,
    msrs: Vec<(u32, u64)>,
    tsc_khz: u32,
}

impl VcpuState {
    /// Takes a vCPU's state out. The vCPU is not running.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`]
    pub fn save(vcpu: &VcpuFd) -> Result<Self, KvmError> {
        // The order is KVM's: reading the MP state first settles pending INITs.
        let mp_state = vcpu.get_mp_state().map_err(ioctl("read the MP state"))?;
        Ok(Self {
            mp_state,
            registers: vcpu.get_regs().map_err(ioctl("read registers"))?,
            special: vcpu.get_sregs().map_err(ioctl("read special registers"))?,
            debug: vcpu
                .get_debug_regs()
                .map_err(ioctl("read debug registers"))?,
            xsave: vcpu
                .get_xsave()
                .map_err(ioctl("read extended state"))?
                .region
                .to_vec(),
            xcrs: vcpu
                .get_xcrs()
                .map_err(ioctl("read extended control registers"))?,
            lapic: vcpu
                .get_lapic()
                .map_err(ioctl("read the local APIC"))?
                .regs
                .iter()
                .map(|&byte| byte.to_le_bytes())
                .map(i8::from_le_bytes)
                .collect(),
            events: vcpu
                .get_vcpu_events()
                .map_err(ioctl("read pending events"))?,
            msrs: read_msrs(vcpu)?,
            tsc_khz: vcpu.get_tsc_khz().unwrap_or(0),
        })
    }

    /// Puts a state back. The vCPU is not running, and its CPUID is set.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`]
    pub fn restore(&self, vcpu: &VcpuFd) -> Result<(), KvmError> {
        let mut xsave = kvm_xsave::default();
        for (place, word) in xsave.region.iter_mut().zip(&self.xsave) {
            *place = *word;
        }
        let mut lapic = kvm_lapic_state::default();
        for (place, byte) in lapic.regs.iter_mut().zip(&self.lapic) {
            *place = *byte;
        }
        if self.tsc_khz != 0 {
            // Hosts without TSC scaling refuse another frequency than their own.
            let _ = vcpu.set_tsc_khz(self.tsc_khz);
        }
        vcpu.set_mp_state(self.mp_state)
            .map_err(ioctl("set the MP state"))?;
        vcpu.set_sregs(&self.special)
            .map_err(ioctl("set special registers"))?;
        vcpu.set_regs(&self.registers)
            .map_err(ioctl("set registers"))?;
        #[allow(unsafe_code)] // the ioctl reads as much as the guest's XCR0 enables
        // SAFETY: no feature beyond the classic 4 KiB (AMX) is enabled for this process,
        // so KVM reads no further than the structure.
        unsafe { vcpu.set_xsave(&xsave) }.map_err(ioctl("set extended state"))?;
        vcpu.set_xcrs(&self.xcrs)
            .map_err(ioctl("set extended control registers"))?;
        vcpu.set_debug_regs(&self.debug)
            .map_err(ioctl("set debug registers"))?;
        vcpu.set_lapic(&lapic)
            .map_err(ioctl("set the local APIC"))?;
        write_msrs(vcpu, &self.msrs)?;
        vcpu.set_vcpu_events(&self.events)
            .map_err(ioctl("set pending events"))
    }
}

/// Reads what of [`SAVED_MSRS`] the host knows. KVM stops at the first it does not.
fn read_msrs(vcpu: &VcpuFd) -> Result<Vec<(u32, u64)>, KvmError> {
    let mut values = Vec::with_capacity(SAVED_MSRS.len());
    for &index in SAVED_MSRS {
        let entry = kvm_msr_entry {
            index,
            ..Default::default()
        };
        let mut msrs = wrap(&[entry])?;
        let read = vcpu
            .get_msrs(&mut msrs)
            .map_err(ioctl("read model specific registers"))?;
        if let (1, [entry]) = (read, msrs.as_slice()) {
            values.push((index, entry.data));
        }
    }
    Ok(values)
}

/// Writes model specific registers; what the host refuses is an error.
pub(super) fn write_msrs(vcpu: &VcpuFd, values: &[(u32, u64)]) -> Result<(), KvmError> {
    let entries: Vec<_> = values
        .iter()
        .map(|&(index, data)| kvm_msr_entry {
            index,
            data,
            ..Default::default()
        })
        .collect();
    let written = vcpu
        .set_msrs(&wrap(&entries)?)
        .map_err(ioctl("set model specific registers"))?;
    if written != entries.len() {
        return Err(ioctl("set a model specific register")(
            kvm_ioctls::Error::new(libc::EINVAL),
        ));
    }
    Ok(())
}

fn wrap(entries: &[kvm_msr_entry]) -> Result<Msrs, KvmError> {
    Msrs::from_entries(entries).map_err(|_| {
        ioctl("take so many model specific registers")(kvm_ioctls::Error::new(libc::E2BIG))
    })
}
