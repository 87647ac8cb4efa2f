//! The panic device: one byte-wide port on which the guest kernel's `pvpanic` driver
//! says that it panicked (QEMU, docs/specs/pvpanic.rst), found by ACPI as `QEMU0001`.

use bulkhead_vmm_api::ExitReason;

/// The port.
pub const PORT: u16 = 0x505;
/// Events we act on, read by the driver: panicked. A crash kernel is not foreseen.
pub const SUPPORTED: u8 = PANICKED;

const PANICKED: u8 = 1 << 0;

/// What the byte that the driver wrote means for the VM.
#[must_use]
pub fn event(value: u8) -> Option<ExitReason> {
    (value & PANICKED != 0).then_some(ExitReason::GuestPanic)
}
