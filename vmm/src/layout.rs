//! The guest-physical memory map.
//!
//! ```text
//! 0x00_0000_0000  low RAM (e820 RAM up to 0x9_fc00)
//!                   0x0500  GDT of the 64-bit boot protocol
//!                   0x7000  zero page (boot_params)
//!                   0x9000  initial page tables: PML4, PDPT, PD (1 GiB, identity)
//!                  0x20000  kernel command line
//! 0x00_000e_0000  ACPI tables (e820 ACPI), RSDP first
//! 0x00_0010_0000  RAM; the kernel where its program headers say (16 MiB),
//!                 the initramfs at the end of low RAM
//! 0x00_c000_0000  32-bit hole, no RAM
//!                   0xe800_0000  ECAM of bus 0, 1 MiB
//!                   0xfee0_0000  local APICs (also where MSIs are written)
//!                   0xfffb_d000  KVM's TSS, 3 pages (Intel, real mode)
//! 0x01_0000_0000  high RAM, when there is more than 3 GiB
//!                 ... room for memory that can be plugged ...
//! 0x40_0000_0000  64-bit PCI window: 256 slots of 16 KiB, one for each function's
//!                 only BAR
//! ```
//!
//! A BAR begins in the slot that its function's number says. The guest may move it:
//! Linux does with functions that appear after boot. As all BARs are of one size and
//! on a multiple of it, each fills one slot of the window wherever it goes.

/// A page, in bytes.
pub const PAGE: u64 = 4096;
/// A megabyte, in bytes.
pub const MIB: u64 = 1 << 20;
/// A gigabyte, in bytes.
pub const GIB: u64 = 1 << 30;

/// Global descriptor table that the boot protocol wants loaded.
pub const GDT: u64 = 0x500;
/// Interrupt descriptor table: one empty entry.
pub const IDT: u64 = 0x520;
/// The zero page (`struct boot_params`).
pub const ZERO_PAGE: u64 = 0x7000;
/// First page table level.
pub const PML4: u64 = 0x9000;
/// Second page table level.
pub const PDPT: u64 = 0xa000;
/// Third page table level: 512 pages of 2 MiB.
pub const PD: u64 = 0xb000;
/// Kernel command line.
pub const CMDLINE: u64 = 0x2_0000;
/// Longest command line with its terminator, in bytes (`COMMAND_LINE_SIZE` of Linux on x86).
pub const CMDLINE_MAX: usize = 2048;
/// End of the conventional memory that e820 reports, where an EBDA would begin.
pub const LOW_RAM_END: u64 = 0x9_fc00;
/// ACPI tables.
pub const ACPI_TABLES: u64 = 0xe_0000;
/// Where the ACPI tables' room ends.
pub const ACPI_TABLES_END: u64 = 0x10_0000;
/// Where RAM continues above the legacy hole.
pub const HIGH_RAM_START: u64 = 0x10_0000;

/// Where Linux is linked to run (`CONFIG_PHYSICAL_START`); its headers have the last word.
pub const KERNEL: u64 = 16 * MIB;

/// Start of the hole below 4 GiB.
pub const HOLE_START: u64 = 3 * GIB;
/// End of the hole; RAM continues here.
pub const HOLE_END: u64 = 4 * GIB;
/// PCI Express configuration space of bus 0: 4 KiB for each function.
pub const ECAM: u64 = 0xe800_0000;
/// Size of one bus's configuration space.
pub const ECAM_SIZE: u64 = MIB;
/// Local APICs.
pub const LAPIC: u64 = 0xfee0_0000;
/// Three pages that KVM wants on Intel processors without unrestricted guest mode.
pub const KVM_TSS: u64 = 0xfffb_d000;

/// The 64-bit PCI window.
pub const PCI_WINDOW: u64 = 256 * GIB;
/// Size of each function's one BAR.
pub const BAR_SIZE: u64 = 16 << 10;
/// Size of the whole window: a BAR for each of 256 functions.
pub const PCI_WINDOW_SIZE: u64 = 256 * BAR_SIZE;
/// Physical address bits that the map needs of the processor.
pub const ADDRESS_BITS: u8 = 39;

/// Least RAM that a VM may have: the kernel, its page structs and an initramfs.
pub const MIN_MEMORY: u64 = 32 * MIB;
/// Most RAM that a VM may have; the rest up to the PCI window is for plugging.
pub const MAX_MEMORY: u64 = 128 * GIB;
/// Most vCPUs: their APIC ids stay below 255, where the plain MADT entry reaches.
pub const MAX_VCPUS: u32 = 128;

/// The ranges of guest RAM for `bytes` of it: (start, length), ascending.
#[must_use]
pub fn ram(bytes: u64) -> Vec<(u64, u64)> {
    if bytes <= HOLE_START {
        vec![(0, bytes)]
    } else {
        vec![(0, HOLE_START), (HOLE_END, bytes - HOLE_START)]
    }
}

/// What e820 says of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum RangeKind {
    /// Usable memory.
    Ram = 1,
    /// Not to be touched by the allocator.
    Reserved = 2,
    /// ACPI tables.
    Acpi = 3,
}

/// The e820 map for `bytes` of RAM: (start, length, kind), ascending.
#[must_use]
pub fn e820(bytes: u64) -> Vec<(u64, u64, RangeKind)> {
    let mut map = vec![
        (0, LOW_RAM_END, RangeKind::Ram),
        (ACPI_TABLES, ACPI_TABLES_END - ACPI_TABLES, RangeKind::Acpi),
        (
            HIGH_RAM_START,
            bytes.min(HOLE_START).saturating_sub(HIGH_RAM_START),
            RangeKind::Ram,
        ),
        (ECAM, ECAM_SIZE, RangeKind::Reserved),
    ];
    if bytes > HOLE_START {
        map.push((HOLE_END, bytes - HOLE_START, RangeKind::Ram));
    }
    map
}

/// Where an initramfs of `len` bytes goes: at the end of low RAM, on a page boundary,
/// above `kernel_end`. `None` when it does not fit.
#[must_use]
pub fn initramfs(bytes: u64, len: u64, kernel_end: u64) -> Option<u64> {
    let end = bytes.min(HOLE_START);
    let start = end.checked_sub(len)? & !(PAGE - 1);
    (start >= kernel_end.checked_next_multiple_of(PAGE)?).then_some(start)
}

/// Where a function's BAR begins; `devfn` is device << 3 | function.
#[must_use]
pub const fn bar(devfn: u8) -> u64 {
    PCI_WINDOW + devfn as u64 * BAR_SIZE
}

/// What an address beyond RAM belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Region {
    /// Configuration space of a function: its number and the offset within.
    Ecam {
        /// device << 3 | function.
        devfn: u8,
        /// Offset in the function's 4 KiB.
        offset: u64,
    },
    /// A slot of the PCI window, where a BAR may be.
    Bar {
        /// Address of the slot.
        base: u64,
        /// Offset in the slot.
        offset: u64,
    },
    /// Nothing is there.
    Unknown,
}

/// Which region a guest-physical address outside RAM is in.
#[must_use]
pub fn region(address: u64) -> Region {
    if let Some(offset) = within(address, ECAM, ECAM_SIZE) {
        Region::Ecam {
            devfn: u8::try_from(offset / PAGE).unwrap_or(u8::MAX),
            offset: offset % PAGE,
        }
    } else if let Some(offset) = within(address, PCI_WINDOW, PCI_WINDOW_SIZE) {
        Region::Bar {
            base: address - offset % BAR_SIZE,
            offset: offset % BAR_SIZE,
        }
    } else {
        Region::Unknown
    }
}

fn within(address: u64, base: u64, size: u64) -> Option<u64> {
    address.checked_sub(base).filter(|&offset| offset < size)
}

/// Whether a BAR may be at `address`.
#[must_use]
pub fn is_bar_slot(address: u64) -> bool {
    matches!(region(address), Region::Bar { offset: 0, .. })
}

const _: () = assert!(ECAM_SIZE == 256 * PAGE);
const _: () = assert!(PCI_WINDOW + PCI_WINDOW_SIZE <= 1 << ADDRESS_BITS);
const _: () = assert!(HOLE_END + MAX_MEMORY <= PCI_WINDOW);
const _: () = assert!(CMDLINE + CMDLINE_MAX as u64 <= LOW_RAM_END);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_skips_the_hole_and_keeps_its_size() {
        for bytes in [MIN_MEMORY, HOLE_START, HOLE_START + MIB, MAX_MEMORY] {
            let ranges = ram(bytes);
            assert_eq!(ranges.iter().map(|(_, len)| len).sum::<u64>(), bytes);
            for (start, len) in ranges {
                assert!(start + len <= HOLE_START || start >= HOLE_END);
            }
        }
        assert_eq!(ram(HOLE_START).len(), 1);
    }

    #[test]
    fn e820_is_ascending_and_disjoint() {
        for bytes in [MIN_MEMORY, HOLE_START, 8 * GIB] {
            let map = e820(bytes);
            for pair in map.windows(2) {
                assert!(pair[0].0 + pair[0].1 <= pair[1].0, "{pair:?}");
            }
            assert!(map.iter().all(|&(_, len, _)| len > 0));
        }
    }

    #[test]
    fn initramfs_ends_low_ram_and_never_covers_the_kernel() {
        assert_eq!(initramfs(128 * MIB, 5000, 40 * MIB), Some(128 * MIB - 8192));
        assert_eq!(initramfs(8 * GIB, PAGE, 40 * MIB), Some(HOLE_START - PAGE));
        assert_eq!(initramfs(64 * MIB, 40 * MIB, 40 * MIB), None);
        assert_eq!(initramfs(64 * MIB, u64::MAX, 0), None);
        assert_eq!(initramfs(64 * MIB, 1, u64::MAX), None);
    }

    #[test]
    fn regions_are_found_to_their_last_byte() {
        assert_eq!(
            region(ECAM + ECAM_SIZE - 1),
            Region::Ecam {
                devfn: 255,
                offset: 4095
            }
        );
        assert_eq!(region(ECAM + ECAM_SIZE), Region::Unknown);
        assert_eq!(region(ECAM - 1), Region::Unknown);
        assert_eq!(
            region(bar(9) + 0x1234),
            Region::Bar {
                base: bar(9),
                offset: 0x1234
            }
        );
        assert_eq!(region(PCI_WINDOW + PCI_WINDOW_SIZE), Region::Unknown);
        assert_eq!(region(u64::MAX), Region::Unknown);
        assert!(is_bar_slot(bar(255)));
        assert!(!is_bar_slot(bar(255) + 1));
        assert!(!is_bar_slot(PCI_WINDOW + PCI_WINDOW_SIZE));
    }
}
