//! The page tables and descriptor table that the kernel starts with.

use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::layout;

/// Selector of the flat 64-bit code segment (`__BOOT_CS`).
pub const CODE_SELECTOR: u16 = 0x10;
/// Selector of the flat data segment (`__BOOT_DS`).
pub const DATA_SELECTOR: u16 = 0x18;

/// Descriptors: null, unused, code (64-bit, readable), data (writable).
pub const GDT: [u64; 4] = [0, 0, 0x00af_9b00_0000_ffff, 0x00cf_9300_0000_ffff];

const PRESENT_WRITABLE: u64 = 0b11;
const LARGE: u64 = 1 << 7;

/// Writes the tables into guest memory: the first GiB one to one, in 2 MiB pages.
///
/// # Errors
/// When guest memory does not reach that far.
pub fn write<M: Bytes<GuestAddress, E = GuestMemoryError>>(
    memory: &M,
) -> Result<(), GuestMemoryError> {
    memory.write_obj(layout::PDPT | PRESENT_WRITABLE, GuestAddress(layout::PML4))?;
    memory.write_obj(layout::PD | PRESENT_WRITABLE, GuestAddress(layout::PDPT))?;
    let mut directory = [0u8; 4096];
    for (page, entry) in (0u64..).zip(directory.chunks_exact_mut(8)) {
        entry.copy_from_slice(&((page << 21) | PRESENT_WRITABLE | LARGE).to_le_bytes());
    }
    memory.write_slice(&directory, GuestAddress(layout::PD))?;
    for (index, descriptor) in (0u64..).zip(GDT) {
        memory.write_obj(descriptor, GuestAddress(layout::GDT + index * 8))?;
    }
    memory.write_obj(0u64, GuestAddress(layout::IDT))
}

#[cfg(test)]
mod tests {
    use vm_memory::GuestMemoryMmap;

    use super::*;

    #[test]
    fn the_first_gigabyte_is_mapped_one_to_one() {
        let memory = GuestMemoryMmap::<()>::from_ranges(&[(GuestAddress(0), 1 << 20)]).unwrap();
        write(&memory).unwrap();
        let read = |at| memory.read_obj::<u64>(GuestAddress(at)).unwrap();
        assert_eq!(read(layout::PML4) & !0xfff, layout::PDPT);
        assert_eq!(read(layout::PDPT) & !0xfff, layout::PD);
        for page in [0u64, 8, 511] {
            assert_eq!(read(layout::PD + page * 8), (page * (2 << 20)) | 0x83);
        }
        assert_eq!(read(layout::GDT + u64::from(CODE_SELECTOR)), GDT[2]);
    }
}
