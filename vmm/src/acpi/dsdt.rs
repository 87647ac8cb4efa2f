//! The DSDT: the PCI root bridge and its windows, the panic device, and S5.

use acpi_tables::{
    Aml,
    aml::{
        AddressSpace, AddressSpaceCacheable, Device, EISAName, IO, Memory32Fixed, Name, Package,
        Path, ResourceTemplate, Scope,
    },
    sdt::Sdt,
};

use super::{OEM_ID, OEM_REVISION, OEM_TABLE_ID};
use crate::{devices::panic, devices::power, layout};

/// Status "present, enabled, shown, functioning".
const STATUS_OK: u8 = 0xf;

/// Builds the DSDT.
pub(super) fn build() -> Sdt {
    let mut aml = Vec::new();
    system_bus(&mut aml);
    sleep_states(&mut aml);
    let mut dsdt = Sdt::new(*b"DSDT", 36, 6, OEM_ID, OEM_TABLE_ID, OEM_REVISION);
    dsdt.append_slice(&aml);
    dsdt
}

fn system_bus(aml: &mut Vec<u8>) {
    let bus_numbers = AddressSpace::new_bus_number(0u16, 0u16);
    let window = AddressSpace::new_memory(
        AddressSpaceCacheable::NotCacheable,
        true,
        layout::PCI_WINDOW,
        layout::PCI_WINDOW + layout::PCI_WINDOW_SIZE - 1,
        None,
    );
    let root_bridge = Device::new(
        Path::new("PCI0"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0A08")),
            &Name::new(Path::new("_CID"), &EISAName::new("PNP0A03")),
            &Name::new(Path::new("_SEG"), &0u8),
            &Name::new(Path::new("_BBN"), &0u8),
            &Name::new(Path::new("_UID"), &0u8),
            &Name::new(
                Path::new("_CRS"),
                &ResourceTemplate::new(vec![&bus_numbers, &window]),
            ),
        ],
    )
    .bytes();
    // Linux uses the configuration space only if a motherboard resource reserves it.
    let ecam = Memory32Fixed::new(
        true,
        u32::try_from(layout::ECAM).unwrap_or(0),
        u32::try_from(layout::ECAM_SIZE).unwrap_or(0),
    );
    let motherboard = Device::new(
        Path::new("MBRD"),
        vec![
            &Name::new(Path::new("_HID"), &EISAName::new("PNP0C02")),
            &Name::new(Path::new("_UID"), &0u8),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&ecam])),
        ],
    )
    .bytes();
    let port = IO::new(panic::PORT, panic::PORT, 1, 1);
    let panic_device = Device::new(
        Path::new("PEVT"),
        vec![
            &Name::new(Path::new("_HID"), &"QEMU0001"),
            &Name::new(Path::new("_STA"), &STATUS_OK),
            &Name::new(Path::new("_CRS"), &ResourceTemplate::new(vec![&port])),
        ],
    )
    .bytes();
    let (bridge, board, event) = (Raw(root_bridge), Raw(motherboard), Raw(panic_device));
    Scope::new(Path::new("\\_SB_"), vec![&bridge, &board, &event]).to_aml_bytes(aml);
}

/// `_S5`: what to write to the sleep control register to power off (ACPI 6.5, 7.4.2).
fn sleep_states(aml: &mut Vec<u8>) {
    let s5 = power::S5_TYPE;
    Name::new(
        Path::new("\\_S5_"),
        &Package::new(vec![&s5, &0u8, &0u8, &0u8]),
    )
    .to_aml_bytes(aml);
}

/// Bytes of AML that are already made.
struct Raw(Vec<u8>);

impl Aml for Raw {
    fn to_aml_bytes(&self, sink: &mut dyn acpi_tables::AmlSink) {
        sink.vec(&self.0);
    }
}

/// Renders AML at once, so that what it borrows may go.
trait Render {
    fn bytes(&self) -> Vec<u8>;
}

impl<T: Aml> Render for T {
    fn bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.to_aml_bytes(&mut bytes);
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn contains(haystack: &[u8], needle: &[u8]) -> bool {
        haystack.windows(needle.len()).any(|w| w == needle)
    }

    #[test]
    fn names_and_windows_are_in_it() {
        let dsdt = build();
        let aml = dsdt.as_slice();
        for name in [b"PCI0", b"MBRD", b"PEVT", b"_S5_"] {
            assert!(contains(aml, name));
        }
        assert!(contains(aml, b"QEMU0001\0"));
        assert!(contains(aml, &layout::PCI_WINDOW.to_le_bytes()));
        assert!(contains(aml, &0xe800_0000u32.to_le_bytes()));
    }
}
