//! The zero page: what a boot loader tells the kernel.

use linux_loader::{
    configurator::{BootConfigurator, BootParams, linux::LinuxBootConfigurator},
    loader::bootparam::{boot_e820_entry, boot_params},
};
use vm_memory::{GuestAddress, GuestMemoryMmap};

use crate::layout;

/// "HdrS", the boot protocol's magic.
const HEADER_MAGIC: u32 = 0x5372_6448;
const BOOT_FLAG: u16 = 0xaa55;
/// "No assigned boot loader id".
const LOADER_UNDEFINED: u8 = 0xff;
const KERNEL_ALIGNMENT: u32 = 0x0100_0000;

/// What the zero page is made of.
#[derive(Clone, Copy, Debug)]
pub struct BootInfo {
    /// RAM, in bytes.
    pub memory_bytes: u64,
    /// Length of the command line at [`layout::CMDLINE`], without its NUL.
    pub cmdline_len: u32,
    /// Address and length of the initramfs.
    pub initramfs: Option<(u32, u32)>,
    /// Address of the ACPI root pointer.
    pub rsdp: u64,
}

/// Builds the zero page.
#[must_use]
pub fn build(info: &BootInfo) -> boot_params {
    let mut params = boot_params::default();
    params.hdr.boot_flag = BOOT_FLAG;
    params.hdr.header = HEADER_MAGIC;
    params.hdr.type_of_loader = LOADER_UNDEFINED;
    params.hdr.kernel_alignment = KERNEL_ALIGNMENT;
    params.hdr.cmd_line_ptr = u32::try_from(layout::CMDLINE).unwrap_or(0);
    params.hdr.cmdline_size = info.cmdline_len;
    if let Some((address, len)) = info.initramfs {
        params.hdr.ramdisk_image = address;
        params.hdr.ramdisk_size = len;
    }
    params.acpi_rsdp_addr = info.rsdp;
    let map = layout::e820(info.memory_bytes);
    for (entry, &(addr, size, kind)) in params.e820_table.iter_mut().zip(&map) {
        *entry = boot_e820_entry {
            addr,
            size,
            r#type: kind as u32,
        };
    }
    params.e820_entries = u8::try_from(map.len()).unwrap_or(0);
    params
}

/// Writes the zero page.
///
/// # Errors
/// When guest memory does not reach [`layout::ZERO_PAGE`].
pub fn write(memory: &GuestMemoryMmap, info: &BootInfo) -> linux_loader::configurator::Result<()> {
    let params = BootParams::new(&build(info), GuestAddress(layout::ZERO_PAGE));
    LinuxBootConfigurator::write_bootparams(&params, memory)
}

#[cfg(test)]
mod tests {
    use vm_memory::Bytes;

    use super::*;

    #[test]
    fn fields_are_where_the_protocol_puts_them() {
        let memory = GuestMemoryMmap::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        let info = BootInfo {
            memory_bytes: 4 * layout::GIB,
            cmdline_len: 5,
            initramfs: Some((0x700_0000, 0x1234)),
            rsdp: layout::ACPI_TABLES,
        };
        write(&memory, &info).unwrap();
        let at = |offset| GuestAddress(layout::ZERO_PAGE + offset);
        // Offsets from Documentation/arch/x86/boot.rst and zero-page.rst.
        assert_eq!(memory.read_obj::<u64>(at(0x70)).unwrap(), info.rsdp);
        assert_eq!(memory.read_obj::<u8>(at(0x1e8)).unwrap(), 5);
        assert_eq!(memory.read_obj::<u16>(at(0x1fe)).unwrap(), 0xaa55);
        assert_eq!(memory.read_obj::<u32>(at(0x202)).unwrap(), HEADER_MAGIC);
        assert_eq!(memory.read_obj::<u32>(at(0x218)).unwrap(), 0x700_0000);
        assert_eq!(memory.read_obj::<u32>(at(0x21c)).unwrap(), 0x1234);
        assert_eq!(memory.read_obj::<u32>(at(0x228)).unwrap(), 0x2_0000);
        // e820: the fifth entry is RAM above 4 GiB.
        let entry = 0x2d0 + 4 * 20;
        assert_eq!(memory.read_obj::<u64>(at(entry)).unwrap(), layout::HOLE_END);
        assert_eq!(memory.read_obj::<u64>(at(entry + 8)).unwrap(), layout::GIB);
        assert_eq!(memory.read_obj::<u32>(at(entry + 16)).unwrap(), 1);
    }
}
