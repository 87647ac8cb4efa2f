//! PCI: one bus, no bridges, every device a virtio function with one BAR.
//!
//! ```text
//!  vCPU --MMIO exit--> PciBus --devfn--> VirtioFunction
//!                                          ConfigSpace   (ECAM page of the function:
//!                                                         read as memory, see `ecam`)
//!                                          BAR, 16 KiB:
//!                                            0x0000 common configuration
//!                                            0x0100 interrupt status
//!                                            0x0200 device configuration
//!                                            0x1000 MSI-X table
//!                                            0x1800 MSI-X pending bits
//!                                            0x2000 notify, 4 bytes a queue
//! ```
//!
//! There is no host bridge function: Linux does not need one, and reading its
//! header would cost exits. Functions are placed densely, eight to a device, because
//! a scan reads every function number of a device that says it is multi-function.

pub mod bus;
pub mod config_space;
pub mod ecam;
pub mod msix;
pub mod virtio;

pub use bus::{PciBus, SlotError};
pub use ecam::Ecam;
pub use virtio::VirtioFunction;

use std::fmt;

/// A function's place on bus 0: device << 3 | function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Devfn(pub u8);

impl Devfn {
    /// The device number, 0 to 31.
    #[must_use]
    pub const fn device(self) -> u8 {
        self.0 >> 3
    }

    /// The function number, 0 to 7.
    #[must_use]
    pub const fn function(self) -> u8 {
        self.0 & 7
    }
}

/// As Linux prints it, without the segment: "00:01.0".
impl fmt::Display for Devfn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00:{:02x}.{}", self.device(), self.function())
    }
}

/// Copies the part of a little-endian register file that an access of `data.len()`
/// bytes at `offset` covers; bytes past its end read as zero.
pub(crate) fn read_registers(registers: &[u8], offset: usize, data: &mut [u8]) {
    data.fill(0);
    for (place, byte) in data.iter_mut().zip(registers.iter().skip(offset)) {
        *place = *byte;
    }
}

/// The value of a write of 1, 2, 4 or 8 bytes, little-endian.
pub(crate) fn value(data: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    for (place, byte) in bytes.iter_mut().zip(data) {
        *place = *byte;
    }
    u64::from_le_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_print_as_linux_does() {
        assert_eq!(Devfn(0x0f).to_string(), "00:01.7");
        assert_eq!(Devfn(0xf8).to_string(), "00:1f.0");
    }

    #[test]
    fn reads_past_the_registers_are_zero() {
        let mut data = [0xaa; 8];
        read_registers(&[1, 2, 3, 4], 2, &mut data);
        assert_eq!(data, [3, 4, 0, 0, 0, 0, 0, 0]);
        read_registers(&[1, 2, 3, 4], usize::MAX, &mut data);
        assert_eq!(data, [0; 8]);
        assert_eq!(value(&[0x34, 0x12]), 0x1234);
    }
}
