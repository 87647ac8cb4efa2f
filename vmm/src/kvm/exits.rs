//! Counts of the exits to user space, by reason.
//!
//! An exit costs a microsecond or two on hardware and far more under emulation, so
//! a boot is compared by its exits as well as by its time.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicU64, Ordering},
};

/// Why a vCPU left the guest for this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Exit {
    /// Read of a port that nothing answers.
    PortIn,
    /// Write to a port that nothing answers.
    PortOut,
    /// Read or write of the legacy PCI configuration ports, 0xcf8 to 0xcff.
    PortPciConfig,
    /// Read or write of the legacy clock, 0x70 and 0x71.
    PortRtc,
    /// Read or write of the keyboard controller, 0x60 and 0x64.
    PortI8042,
    /// Read or write of the interrupt controllers and the timer (PIC, PIT, ELCR).
    PortPicPit,
    /// Write to port 0x80: a delay, or a boot marker.
    PortDelay,
    /// Sleep, reset and panic registers.
    PortPower,
    /// The debug serial port.
    PortSerial,
    /// Configuration space read.
    EcamRead,
    /// Configuration space write.
    EcamWrite,
    /// Virtio common configuration read.
    CommonRead,
    /// Virtio common configuration write.
    CommonWrite,
    /// Virtio device configuration read or write.
    DeviceConfig,
    /// Interrupt status read.
    InterruptStatus,
    /// MSI-X table read or write.
    Msix,
    /// A queue notification that no ioeventfd took.
    Notify,
    /// Read of an address that nothing answers.
    MmioUnknownRead,
    /// Write of an address that nothing answers.
    MmioUnknownWrite,
    /// HLT without an interrupt controller in the kernel; not expected.
    Halt,
    /// A signal: pause, resume, stop.
    Signal,
    /// Triple fault.
    Shutdown,
    /// Anything else.
    Other,
}

const KINDS: usize = Exit::Other as usize + 1;
const NAMES: [&str; KINDS] = [
    "port-in",
    "port-out",
    "port-pci-config",
    "port-rtc",
    "port-i8042",
    "port-pic-pit",
    "port-delay",
    "port-power",
    "port-serial",
    "ecam-read",
    "ecam-write",
    "virtio-common-read",
    "virtio-common-write",
    "virtio-device-config",
    "virtio-isr",
    "msix",
    "notify",
    "mmio-unknown-read",
    "mmio-unknown-write",
    "halt",
    "signal",
    "shutdown",
    "other",
];

impl Exit {
    /// The kind of an access to an I/O port.
    #[must_use]
    pub fn port(port: u16, write: bool) -> Self {
        match port {
            0x60 | 0x64 => Self::PortI8042,
            0x70 | 0x71 => Self::PortRtc,
            0x80 => Self::PortDelay,
            0x20 | 0x21 | 0xa0 | 0xa1 | 0x40..=0x43 | 0x61 | 0x4d0 | 0x4d1 => Self::PortPicPit,
            0xcf8..=0xcff => Self::PortPciConfig,
            0x3f8..=0x3ff => Self::PortSerial,
            _ if write => Self::PortOut,
            _ => Self::PortIn,
        }
    }
}

/// One counter for each kind of exit, shared by the vCPUs.
#[derive(Debug, Default)]
pub struct ExitCounters([AtomicU64; KINDS]);

impl ExitCounters {
    /// Counts one exit.
    pub fn count(&self, exit: Exit) {
        if let Some(counter) = self.0.get(exit as usize) {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The counts that are not zero, by name.
    #[must_use]
    pub fn by_reason(&self) -> BTreeMap<String, u64> {
        NAMES
            .iter()
            .zip(&self.0)
            .map(|(name, counter)| ((*name).to_owned(), counter.load(Ordering::Relaxed)))
            .filter(|&(_, count)| count > 0)
            .collect()
    }

    /// All exits together.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0
            .iter()
            .map(|counter| counter.load(Ordering::Relaxed))
            .sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_named_and_summed() {
        let counters = ExitCounters::default();
        counters.count(Exit::EcamRead);
        counters.count(Exit::EcamRead);
        counters.count(Exit::Other);
        let by_reason = counters.by_reason();
        assert_eq!(by_reason.get("ecam-read"), Some(&2));
        assert_eq!(by_reason.get("other"), Some(&1));
        assert_eq!(by_reason.len(), 2);
        assert_eq!(counters.total(), 3);
    }

    #[test]
    fn legacy_ports_have_their_kinds() {
        assert_eq!(Exit::port(0xcfc, false), Exit::PortPciConfig);
        assert_eq!(Exit::port(0x43, true), Exit::PortPicPit);
        assert_eq!(Exit::port(0x1234, true), Exit::PortOut);
        assert_eq!(Exit::port(0x1234, false), Exit::PortIn);
    }
}
