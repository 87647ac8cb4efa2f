//! Direct boot of an uncompressed Linux by the 64-bit boot protocol
//! (Documentation/arch/x86/boot.rst, "64-bit Boot Protocol").
//!
//! There is no firmware. The kernel finds itself in long mode with the first GiB
//! mapped one to one, RSI pointing at the zero page, and everything it would have
//! asked a firmware for (memory map, command line, initramfs, ACPI root) in there.
//! A vmlinux entered this way is not relocated, so there is no KASLR of its text.

pub mod cmdline;
pub mod kernel;
pub mod paging;
pub mod params;

pub use kernel::{LoadError, LoadedKernel};

use vm_memory::{Bytes, GuestAddress, GuestMemoryMmap};

use crate::layout;

/// Why the tables of the boot protocol could not be written.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The command line got too long.
    #[error("the kernel command line is longer than {} bytes", layout::CMDLINE_MAX)]
    CmdlineTooLong,
    /// Guest memory does not reach that far.
    #[error("cannot write to guest memory: {0}")]
    Write(#[from] vm_memory::GuestMemoryError),
    /// The zero page.
    #[error("cannot write the zero page: {0}")]
    ZeroPage(#[from] linux_loader::configurator::Error),
}

/// Writes page tables, command line and zero page. `vcpus` are those to boot with and
/// those there are; `initramfs` and `rsdp` are where they were loaded.
///
/// # Errors
/// [`TableError`]
pub fn write_tables(
    memory: &GuestMemoryMmap,
    memory_bytes: u64,
    cmdline: &str,
    (boot_vcpus, max_vcpus): (u32, u32),
    initramfs: Option<(u32, u32)>,
    rsdp: u64,
) -> Result<(), TableError> {
    let cmdline =
        cmdline::complete(cmdline, boot_vcpus, max_vcpus).ok_or(TableError::CmdlineTooLong)?;
    memory.write_slice(&cmdline, GuestAddress(layout::CMDLINE))?;
    paging::write(memory)?;
    let info = params::BootInfo {
        memory_bytes,
        cmdline_len: u32::try_from(cmdline.len() - 1).unwrap_or(0),
        initramfs,
        rsdp,
    };
    Ok(params::write(memory, &info)?)
}
