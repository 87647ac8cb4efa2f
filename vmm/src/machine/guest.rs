//! The guest's memory, with everything that is loaded before the start, and the VM
//! that it belongs to.

use std::{fs::File, thread};

use bulkhead_virtio::device::Memory;
use bulkhead_vmm_api::ExitReason;

use crate::{
    acpi,
    boot::{self, LoadedKernel},
    config::Config,
    descriptors::Descriptors,
    exit::Fatal,
    kvm::{KvmError, Vm},
    layout, memory,
    timings::{Milestone, Timings},
};

/// The loader's frames are shallow.
const STACK: usize = 256 << 10;

/// Creates the VM and puts its memory together: the VM, the memory, and where the
/// kernel begins.
///
/// Copying the kernel takes about as long as all the rest, so it has a thread.
pub(super) fn build(
    config: &Config,
    fds: &mut Descriptors,
    timings: &Timings,
) -> Result<(Vm, Memory, u64), Fatal> {
    let bytes = config.memory_bytes;
    let guest = memory::allocate(bytes).map_err(|e| Fatal::internal(&e))?;
    let kernel = fds.file(config.kernel).map_err(|e| Fatal::config(&e))?;
    let initramfs = config
        .initramfs
        .map(|fd| fds.file(fd))
        .transpose()
        .map_err(|e| Fatal::config(&e))?;
    let (vm, kernel, initramfs) = thread::scope(|scope| {
        let loading = thread::Builder::new()
            .name("load".into())
            .stack_size(STACK)
            .spawn_scoped(scope, || load_kernel(&guest, bytes, kernel))
            .map_err(|e| Fatal::internal(&e))?;
        let vm = Vm::create(config.max_vcpus);
        timings.reached(Milestone::VmCreated);
        let initramfs = initramfs.map(|file| load_initramfs(&guest, bytes, file));
        let kernel = loading.join().map_err(|_| Fatal {
            reason: ExitReason::Internal,
            message: "loading the kernel failed unexpectedly".into(),
        })?;
        // The operator's mistakes are told before the host's.
        let (kernel, initramfs) = (kernel?, initramfs.transpose()?);
        Ok::<_, Fatal>((vm.map_err(|e| kvm_fatal(&e))?, kernel, initramfs))
    })?;
    if let Some((start, len)) = initramfs
        && u64::from(start) < kernel.end
    {
        return Err(Fatal::config(&boot::LoadError::InitramfsTooLarge {
            len: len.into(),
            memory_bytes: bytes,
        }));
    }
    let rsdp = acpi::write(guest.as_ref(), config.max_vcpus).map_err(|e| Fatal::internal(&e))?;
    let vcpus = (config.boot_vcpus, config.max_vcpus);
    boot::write_tables(&guest, bytes, &config.cmdline, vcpus, initramfs, rsdp)
        .map_err(|e| Fatal::config(&e))?;
    vm.set_memory(&guest).map_err(|e| kvm_fatal(&e))?;
    timings.reached(Milestone::Loaded);
    Ok((vm, guest, kernel.entry))
}

fn load_kernel(guest: &Memory, bytes: u64, file: File) -> Result<LoadedKernel, Fatal> {
    memory::prefer_huge_pages(guest, layout::KERNEL, len(&file));
    boot::kernel::load(guest.as_ref(), bytes, file).map_err(|e| Fatal::config(&e))
}

/// Loads the initramfs while the kernel is being loaded: whether they overlap shows
/// when both are there.
fn load_initramfs(guest: &Memory, bytes: u64, file: File) -> Result<(u32, u32), Fatal> {
    let len = len(&file);
    if let Some(start) = layout::initramfs(bytes, len, layout::HIGH_RAM_START) {
        memory::prefer_huge_pages(guest, start, len);
    }
    boot::kernel::load_initramfs(guest.as_ref(), bytes, layout::HIGH_RAM_START, file)
        .map_err(|e| Fatal::config(&e))
}

/// A file's length, as far as it matters for advice.
fn len(file: &File) -> u64 {
    file.metadata().map_or(0, |metadata| metadata.len())
}

/// Whose fault an error of KVM is.
pub(super) fn kvm_fatal(error: &KvmError) -> Fatal {
    let reason = match error {
        KvmError::Ioctl { .. } => ExitReason::Internal,
        KvmError::TooManyVcpus { .. } => ExitReason::BadConfig,
        _ => ExitReason::KvmUnusable,
    };
    Fatal::new(reason, error)
}
