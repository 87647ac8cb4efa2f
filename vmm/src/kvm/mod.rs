//! The virtual machine as KVM sees it: memory slots, vCPUs, and their exits.
//!
//! The interrupt controller is split: KVM emulates the local APICs, and nobody
//! emulates a PIC, a PIT or an I/O APIC, because the guest has none. Interrupts
//! arrive as messages only (see `irq`).

mod cpuid;
mod exits;
mod kick;
mod run;
mod state;
mod vcpu;

pub use exits::{Exit, ExitCounters};
pub use run::{Ending, Machine, StartError, VcpuError, VcpuSet};
pub use state::VcpuState;

use std::{io, sync::Arc};

use bulkhead_virtio::device::Memory;
use kvm_bindings::{
    CpuId, KVM_CAP_SPLIT_IRQCHIP, KVM_MAX_CPUID_ENTRIES, KVM_MEM_READONLY, kvm_enable_cap,
    kvm_userspace_memory_region,
};
use kvm_ioctls::{Cap, Kvm, VmFd};
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion};

use crate::{layout, pci::Ecam};

/// KVM's only API version.
const API_VERSION: i32 = 12;
/// The memory slot of the configuration space; RAM's begin at 0.
const ECAM_SLOT: u32 = 8;
/// KVM_PMU_CAP_DISABLE: the guest gets no performance counters.
const PMU_DISABLE: u64 = 1;

/// Why KVM cannot run this guest.
#[derive(Debug, thiserror::Error)]
pub enum KvmError {
    /// No device, or no permission.
    #[error("cannot open /dev/kvm: {0}; load kvm-intel or kvm-amd, and allow this user to open it")]
    Open(io::Error),
    /// Another API than the one there has been since 2007.
    #[error("KVM speaks API version {0}, not 12")]
    Version(i32),
    /// The processor has neither VT-x nor SVM (or a hypervisor hides them).
    #[error(
        "this processor offers neither VT-x nor SVM: /dev/kvm is there, but cannot run an unmodified guest; \
         enable hardware virtualization in the firmware, or nested virtualization in the hypervisor"
    )]
    NoHardware,
    /// The processor's physical addresses are too short for the memory map.
    #[error("the processor has {0} physical address bits, {needed} are needed", needed = layout::ADDRESS_BITS)]
    AddressBits(u8),
    /// The host's KVM lacks something.
    #[error("this host's KVM lacks {0}; Linux 5.10 or later is needed")]
    Missing(&'static str),
    /// More vCPUs than the host's KVM takes.
    #[error("{asked} vCPUs asked for, this host's KVM runs at most {most}")]
    TooManyVcpus {
        /// What was asked for.
        asked: u32,
        /// What the host takes.
        most: usize,
    },
    /// A request failed.
    #[error("KVM refused to {what}: {source}")]
    Ioctl {
        /// What was attempted.
        what: &'static str,
        /// The error.
        source: io::Error,
    },
}

fn ioctl(what: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> KvmError {
    move |e| KvmError::Ioctl {
        what,
        source: e.into(),
    }
}

/// A VM without memory or vCPUs yet, and what its vCPUs will look like.
#[derive(Debug)]
pub struct Vm {
    fd: Arc<VmFd>,
    cpuid: CpuId,
}

impl Vm {
    /// Opens /dev/kvm, checks that it can run our guests, and creates a VM.
    ///
    /// # Errors
    /// [`KvmError`]
    pub fn create(vcpus: u32) -> Result<Self, KvmError> {
        let kvm = Kvm::new().map_err(|e| KvmError::Open(e.into()))?;
        check(&kvm, vcpus)?;
        let cpuid = kvm
            .get_supported_cpuid(KVM_MAX_CPUID_ENTRIES)
            .map_err(ioctl("list the CPUID leaves it supports"))?;
        let bits = cpuid::address_bits(cpuid.as_slice());
        if bits < layout::ADDRESS_BITS {
            return Err(KvmError::AddressBits(bits));
        }
        let fd = create_vm(&kvm)?;
        // Only Intel processors without "unrestricted guest" use it; free elsewhere.
        let tss = usize::try_from(layout::KVM_TSS).unwrap_or(0);
        fd.set_tss_address(tss)
            .map_err(ioctl("place its task state segment"))?;
        split_irqchip(&fd)?;
        disable_pmu(&fd);
        Ok(Self {
            fd: Arc::new(fd),
            cpuid,
        })
    }

    /// The VM's descriptor, for interrupts and notifications.
    #[must_use]
    pub fn fd(&self) -> Arc<VmFd> {
        self.fd.clone()
    }

    /// Gives the VM its RAM.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`]
    pub fn set_memory(&self, memory: &Memory) -> Result<(), KvmError> {
        for (slot, region) in (0u32..).zip(memory.iter()) {
            let slot = kvm_userspace_memory_region {
                slot,
                flags: 0,
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: region.as_ptr().addr() as u64,
            };
            #[allow(unsafe_code)] // the ioctl trusts the address
            // SAFETY: the region is memory of `memory::allocate`, mapped for as long as
            // the process lives, and regions do not overlap.
            unsafe { self.fd.set_user_memory_region(slot) }.map_err(ioctl("take guest memory"))?;
        }
        Ok(())
    }
}

impl Vm {
    /// Lets the guest read bus 0's configuration space as memory. Where the host's KVM
    /// can't, reads stay exits.
    ///
    /// # Errors
    /// [`KvmError::Ioctl`]
    pub fn show(&self, ecam: &Ecam) -> Result<(), KvmError> {
        if !self.fd.check_extension(Cap::ReadonlyMem) {
            return Ok(());
        }
        let slot = kvm_userspace_memory_region {
            slot: ECAM_SLOT,
            flags: KVM_MEM_READONLY,
            guest_phys_addr: layout::ECAM,
            memory_size: ecam.window().bytes(),
            userspace_addr: ecam.window().address(),
        };
        #[allow(unsafe_code)] // the ioctl trusts the address
        // SAFETY: a window is never unmapped, and the guest can't write to it.
        unsafe { self.fd.set_user_memory_region(slot) }
            .map_err(ioctl("show the configuration space"))?;
        let fd = self.fd.clone();
        ecam.shown(Box::new(move || {
            let gone = kvm_userspace_memory_region {
                memory_size: 0,
                ..slot
            };
            #[allow(unsafe_code)] // as above
            // SAFETY: a slot without memory has no address.
            unsafe { fd.set_user_memory_region(gone) }.map_err(Into::into)
        }));
        Ok(())
    }
}

fn check(kvm: &Kvm, vcpus: u32) -> Result<(), KvmError> {
    let version = kvm.get_api_version();
    if version != API_VERSION {
        return Err(KvmError::Version(version));
    }
    if !cpuid::host_virtualizes() {
        return Err(KvmError::NoHardware);
    }
    for (cap, name) in [
        (Cap::SplitIrqchip, "a split interrupt controller"),
        (Cap::Irqfd, "irqfd"),
        (Cap::Ioeventfd, "ioeventfd"),
        (Cap::IoeventfdNoLength, "ioeventfd without a length"),
        (Cap::ImmediateExit, "immediate exit"),
        (Cap::UserMemory, "user memory"),
        (Cap::TscDeadlineTimer, "the TSC deadline timer"),
    ] {
        if !kvm.check_extension(cap) {
            return Err(KvmError::Missing(name));
        }
    }
    let most = kvm.get_max_vcpus();
    if usize::try_from(vcpus).is_ok_and(|asked| asked > most) {
        return Err(KvmError::TooManyVcpus { asked: vcpus, most });
    }
    Ok(())
}

/// KVM_CREATE_VM gives up with EINTR when a signal arrives at the wrong moment.
fn create_vm(kvm: &Kvm) -> Result<VmFd, KvmError> {
    const ATTEMPTS: usize = 5;
    let mut last = None;
    for _ in 0..ATTEMPTS {
        match kvm.create_vm() {
            Ok(vm) => return Ok(vm),
            Err(e) if e.errno() == libc::EINTR => last = Some(e),
            Err(e) => return Err(ioctl("create a VM")(e)),
        }
    }
    Err(ioctl("create a VM")(
        last.unwrap_or_else(|| kvm_ioctls::Error::new(libc::EINTR)),
    ))
}

fn split_irqchip(vm: &VmFd) -> Result<(), KvmError> {
    // The first argument is the number of I/O APIC pins to keep routes for: none.
    let cap = kvm_enable_cap {
        cap: KVM_CAP_SPLIT_IRQCHIP,
        ..Default::default()
    };
    vm.enable_cap(&cap)
        .map_err(ioctl("split its interrupt controller"))
}

/// Without counters there is nothing to virtualize, and less of the host to attack.
/// KVM before 5.18 cannot be told; the CPUID leaves are hidden in any case.
fn disable_pmu(vm: &VmFd) {
    let cap = kvm_enable_cap {
        cap: kvm_bindings::KVM_CAP_PMU_CAPABILITY,
        args: [PMU_DISABLE, 0, 0, 0],
        ..Default::default()
    };
    if vm.enable_cap(&cap).is_err() {
        tracing::debug!("KVM cannot switch its performance counters off");
    }
}
