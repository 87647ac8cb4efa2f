//! ACPI tables: static, hardware-reduced, as few as Linux needs.
//!
//! ```text
//! RSDP -> XSDT -> FADT (hardware-reduced, reset and sleep registers) -> DSDT
//!              -> MADT (a local APIC for every vCPU, no I/O APIC)
//!              -> MCFG (configuration space of bus 0)
//! ```
//!
//! There is no legacy hardware to describe, no SCI, no GPE: nothing is plugged by
//! ACPI. Without an I/O APIC every interrupt is a message (MSI-X).

mod dsdt;

use acpi_tables::{
    Aml,
    fadt::{FADTBuilder, Flags},
    gas::{AccessSize, AddressSpace, GAS},
    madt::{EnabledStatus, LocalInterruptController, MADT, ProcessorLocalApic},
    mcfg::MCFG,
    rsdp::Rsdp,
    xsdt::XSDT,
};
use vm_memory::{Bytes, GuestAddress, GuestMemoryError};

use crate::{devices::power, layout};

const OEM_ID: [u8; 6] = *b"BLKHD ";
const OEM_TABLE_ID: [u8; 8] = *b"BULKHEAD";
const OEM_REVISION: u32 = 1;

/// IA-PC boot architecture flags (ACPI 6.5, table 5.11): do not probe for VGA, no
/// CMOS clock. Their absence says: no legacy devices, no keyboard controller.
const NO_VGA_NO_CMOS: u16 = 1 << 2 | 1 << 5;

/// Why the tables could not be written.
#[derive(Debug, thiserror::Error)]
pub enum AcpiError {
    /// They are larger than their room.
    #[error("{0} bytes of ACPI tables do not fit")]
    TooLarge(usize),
    /// Guest memory does not reach that far.
    #[error("cannot write the ACPI tables: {0}")]
    Write(#[from] GuestMemoryError),
}

/// Writes the tables for `vcpus` processors and returns the RSDP's address.
///
/// # Errors
/// [`AcpiError`]
pub fn write<M: Bytes<GuestAddress, E = GuestMemoryError>>(
    memory: &M,
    vcpus: u32,
) -> Result<u64, AcpiError> {
    let tables = build(vcpus);
    let room = layout::ACPI_TABLES_END - layout::ACPI_TABLES;
    if tables.len() as u64 > room {
        return Err(AcpiError::TooLarge(tables.len()));
    }
    memory.write_slice(&tables, GuestAddress(layout::ACPI_TABLES))?;
    Ok(layout::ACPI_TABLES)
}

/// All tables in one block that begins at [`layout::ACPI_TABLES`], RSDP first.
fn build(vcpus: u32) -> Vec<u8> {
    let mut block = Block::after_rsdp();
    let dsdt = block.append(&dsdt::build());
    let fadt = block.append(&fadt(dsdt));
    let madt = block.append(&madt(vcpus));
    let mcfg = block.append(&mcfg());
    let mut xsdt = XSDT::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    for table in [fadt, madt, mcfg] {
        xsdt.add_entry(table);
    }
    let xsdt = block.append(&xsdt);
    block.finish(&Rsdp::new(OEM_ID, xsdt))
}

/// Tables one after the other, each on an 8 byte boundary, after room for the RSDP.
struct Block(Vec<u8>);

impl Block {
    fn after_rsdp() -> Self {
        Self(vec![0; Rsdp::len()])
    }

    /// Appends a table and returns its guest-physical address.
    fn append(&mut self, table: &dyn Aml) -> u64 {
        self.0.resize(self.0.len().next_multiple_of(8), 0);
        let address = layout::ACPI_TABLES + self.0.len() as u64;
        table.to_aml_bytes(&mut self.0);
        address
    }

    fn finish(mut self, rsdp: &Rsdp) -> Vec<u8> {
        let mut head = Vec::new();
        rsdp.to_aml_bytes(&mut head);
        for (place, byte) in self.0.iter_mut().zip(head) {
            *place = byte;
        }
        self.0
    }
}

fn fadt(dsdt: u64) -> impl Aml {
    let port = |port| {
        GAS::new(
            AddressSpace::SystemIo,
            8,
            0,
            AccessSize::ByteAccess,
            u64::from(port),
        )
    };
    let mut fadt = FADTBuilder::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION)
        .dsdt_64(dsdt)
        .flag(Flags::HwReducedAcpi)
        .flag(Flags::ResetRegSup)
        .flag(Flags::PwrButton)
        .flag(Flags::SlpButton)
        .flag(Flags::Headless);
    fadt.iapc_boot_arch = NO_VGA_NO_CMOS.into();
    fadt.reset_reg = port(power::RESET_PORT);
    fadt.reset_value = power::RESET_VALUE;
    fadt.sleep_control_reg = port(power::SLEEP_CONTROL_PORT);
    fadt.sleep_status_reg = port(power::SLEEP_STATUS_PORT);
    fadt.hypervisor_vendor_identity = u64::from_le_bytes(OEM_TABLE_ID).into();
    fadt.finalize()
}

/// APIC ids stay below 255, for which the specification wants the plain local APIC
/// entry (ACPI 6.5, 5.2.12.12); the guest still runs them in x2APIC mode.
fn madt(vcpus: u32) -> impl Aml {
    let lapic = u32::try_from(layout::LAPIC).unwrap_or(0);
    let mut madt = MADT::new(
        OEM_ID,
        OEM_TABLE_ID,
        OEM_REVISION,
        LocalInterruptController::Address(lapic),
    );
    for id in 0..vcpus.min(layout::MAX_VCPUS) {
        let id = u8::try_from(id).unwrap_or(u8::MAX);
        madt.add_structure(ProcessorLocalApic::new(id, id, EnabledStatus::Enabled));
    }
    madt
}

fn mcfg() -> impl Aml {
    let mut mcfg = MCFG::new(OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    mcfg.add_ecam(layout::ECAM, 0, 0, 0);
    mcfg
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(bytes: &[u8]) -> u8 {
        bytes.iter().fold(0, |sum, b| sum.wrapping_add(*b))
    }

    fn number(bytes: &[u8]) -> u64 {
        let mut value = [0; 8];
        value[..bytes.len()].copy_from_slice(bytes);
        u64::from_le_bytes(value)
    }

    /// The table at a guest-physical address, by its own length.
    fn table(block: &[u8], address: u64) -> &[u8] {
        let start = usize::try_from(address - layout::ACPI_TABLES).unwrap();
        let len = usize::try_from(number(&block[start + 4..start + 8])).unwrap();
        &block[start..start + len]
    }

    #[test]
    fn every_table_is_reached_and_sums_to_zero() {
        let block = build(3);
        assert_eq!(&block[..8], b"RSD PTR ");
        assert_eq!(sum(&block[..20]), 0);
        assert_eq!(sum(&block[..36]), 0);
        let xsdt = table(&block, number(&block[24..32]));
        assert_eq!(&xsdt[..4], b"XSDT");
        assert_eq!(sum(xsdt), 0);
        let mut signatures = Vec::new();
        for entry in xsdt[36..].chunks_exact(8) {
            let table = table(&block, number(entry));
            assert_eq!(sum(table), 0);
            signatures.push(&table[..4]);
        }
        assert_eq!(signatures, [b"FACP", b"APIC", b"MCFG"]);
        let fadt = table(&block, number(&xsdt[36..44]));
        let dsdt = table(&block, number(&fadt[140..148]));
        assert_eq!(&dsdt[..4], b"DSDT");
        assert_eq!(sum(dsdt), 0);
    }

    #[test]
    fn the_fadt_says_hardware_reduced_with_reset_and_sleep() {
        let mut fadt_bytes = Vec::new();
        fadt(layout::ACPI_TABLES).to_aml_bytes(&mut fadt_bytes);
        let flags = number(&fadt_bytes[112..116]);
        assert_ne!(flags & 1 << 20, 0, "HW_REDUCED_ACPI");
        assert_ne!(flags & 1 << 10, 0, "RESET_REG_SUP");
        assert_eq!(number(&fadt_bytes[120..128]), u64::from(power::RESET_PORT));
        assert_eq!(fadt_bytes[128], power::RESET_VALUE);
        assert_eq!(
            number(&fadt_bytes[248..256]),
            u64::from(power::SLEEP_CONTROL_PORT)
        );
    }

    #[test]
    fn every_vcpu_has_an_enabled_local_apic() {
        let mut bytes = Vec::new();
        madt(5).to_aml_bytes(&mut bytes);
        let entries: Vec<_> = bytes[44..].chunks_exact(8).collect();
        assert_eq!(entries.len(), 5);
        assert_eq!(entries[4], [0, 8, 4, 4, 1, 0, 0, 0]);
    }

    #[test]
    fn the_largest_set_fits_its_room() {
        let size = build(layout::MAX_VCPUS).len() as u64;
        assert!(size < layout::ACPI_TABLES_END - layout::ACPI_TABLES);
    }
}
