//! A function's configuration space (PCI 3.0, section 6.1): a type 0 header with one
//! 64-bit BAR and a list of capabilities.
//!
//! Registers are bytes with a mask of what the driver may change. The address bits of
//! a BAR below its size are not writable, which is how software finds the size
//! (section 6.2.5.1). What a write means is its owner's business ([`Write`]).

use super::{read_registers, value};
use crate::layout;

/// Size of the conventional configuration space.
pub const SIZE: usize = 256;

const COMMAND: usize = 0x04;
const STATUS: usize = 0x06;
const HEADER_TYPE: usize = 0x0e;
const BAR0: usize = 0x10;
const BAR0_END: usize = BAR0 + 8;
const CAPABILITIES: usize = 0x34;
/// First byte after the header, where capabilities begin.
const FIRST_CAPABILITY: usize = 0x40;

const COMMAND_MEMORY: u16 = 1 << 1;
const COMMAND_MASTER: u16 = 1 << 2;
const COMMAND_INTX_DISABLE: u16 = 1 << 10;
const STATUS_CAPABILITIES: u16 = 1 << 4;
const MULTI_FUNCTION: u8 = 1 << 7;
/// Memory BAR, 64 bits, not prefetchable.
const BAR_64_BIT: u64 = 0b100;

/// Who a function is.
#[derive(Clone, Copy, Debug)]
pub struct Identity {
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Revision.
    pub revision: u8,
    /// Base class, subclass and programming interface: 0xCCSSPP.
    pub class: u32,
    /// Subsystem vendor id.
    pub subsystem_vendor: u16,
    /// Subsystem id.
    pub subsystem: u16,
}

/// What a write changed that its owner cares about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Write {
    /// The capability (its offset) that the write fell into, if it did.
    pub capability: Option<usize>,
    /// Whether the command register or the BAR was written.
    pub decoding: bool,
}

/// The registers.
#[derive(Clone, Debug)]
pub struct ConfigSpace {
    registers: [u8; SIZE],
    writable: [u8; SIZE],
    /// Start and end of each capability.
    capabilities: Vec<(usize, usize)>,
}

impl ConfigSpace {
    /// A function with a BAR of `bar_size` bytes (a power of two), at `bar` for now.
    ///
    /// Function 0 always says that its device has more functions, so that a rescan
    /// finds those that are added later.
    #[must_use]
    pub fn new(identity: Identity, bar: u64, bar_size: u64, function: u8) -> Self {
        let mut space = Self {
            registers: [0; SIZE],
            writable: [0; SIZE],
            capabilities: Vec::new(),
        };
        space.set(0x00, &identity.vendor.to_le_bytes());
        space.set(0x02, &identity.device.to_le_bytes());
        space.set(COMMAND, &COMMAND_MEMORY.to_le_bytes());
        space.set(STATUS, &STATUS_CAPABILITIES.to_le_bytes());
        let [interface, subclass, base, _] = identity.class.to_le_bytes();
        space.set(0x08, &[identity.revision, interface, subclass, base]);
        if function == 0 {
            space.set(HEADER_TYPE, &[MULTI_FUNCTION]);
        }
        space.set(BAR0, &(bar | BAR_64_BIT).to_le_bytes());
        space.set(0x2c, &identity.subsystem_vendor.to_le_bytes());
        space.set(0x2e, &identity.subsystem.to_le_bytes());
        let command = COMMAND_MEMORY | COMMAND_MASTER | COMMAND_INTX_DISABLE;
        space.allow(COMMAND, &command.to_le_bytes());
        space.allow(BAR0, &(!(bar_size - 1)).to_le_bytes());
        // Cache line size, latency timer and interrupt line are the system's scratch.
        space.allow(0x0c, &[0xff, 0xff]);
        space.allow(0x3c, &[0xff]);
        space
    }

    /// Appends a capability of id `id` whose bytes after id and next pointer are
    /// `body`; `writable` masks what of `body` the driver may change. Returns its
    /// offset, or `None` when the space is full.
    pub fn add_capability(&mut self, id: u8, body: &[u8], writable: &[u8]) -> Option<usize> {
        let start = self
            .capabilities
            .last()
            .map_or(FIRST_CAPABILITY, |&(_, end)| end.next_multiple_of(4));
        let end = start + 2 + body.len();
        if end > SIZE {
            return None;
        }
        let link = self
            .capabilities
            .last()
            .map_or(CAPABILITIES, |&(previous, _)| previous + 1);
        self.set(link, &[u8::try_from(start).ok()?]);
        self.set(start, &[id, 0]);
        self.set(start + 2, body);
        self.allow(start + 2, writable);
        self.capabilities.push((start, end));
        Some(start)
    }

    /// All registers.
    #[must_use]
    pub fn registers(&self) -> &[u8; SIZE] {
        &self.registers
    }

    /// Reads `data.len()` bytes at `offset`; zero past the end.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        read_registers(&self.registers, offset, data);
    }

    /// Writes what is writable of `data` at `offset`.
    pub fn write(&mut self, offset: usize, data: &[u8]) -> Write {
        let places = self.registers.iter_mut().zip(&self.writable).skip(offset);
        for ((register, mask), byte) in places.zip(data) {
            *register = *register & !mask | byte & mask;
        }
        let end = offset.saturating_add(data.len());
        let capability = self
            .capabilities
            .iter()
            .find(|&&(start, stop)| offset < stop && end > start)
            .map(|&(start, _)| start);
        Write {
            capability,
            decoding: offset < BAR0_END && end > BAR0 || offset < STATUS && end > COMMAND,
        }
    }

    /// The BAR's address, as written.
    #[must_use]
    pub fn bar(&self) -> u64 {
        let mut bytes = [0; 8];
        self.read(BAR0, &mut bytes);
        value(&bytes) & !0xf
    }

    /// Puts a saved address back.
    pub fn set_bar(&mut self, address: u64) {
        self.write(BAR0, &address.to_le_bytes());
    }

    /// Where the BAR answers: nowhere while memory accesses are off (as software turns
    /// them for sizing), or outside of the window.
    #[must_use]
    pub fn decoded(&self) -> Option<u64> {
        let bar = self.bar();
        (self.memory_enabled() && layout::is_bar_slot(bar)).then_some(bar)
    }

    /// Whether the function answers memory accesses.
    #[must_use]
    pub fn memory_enabled(&self) -> bool {
        self.command() & COMMAND_MEMORY != 0
    }

    /// The command register, to be saved.
    #[must_use]
    pub fn command(&self) -> u16 {
        let [low, high] = [self.registers[COMMAND], self.registers[COMMAND + 1]];
        u16::from_le_bytes([low, high])
    }

    /// Puts a saved command register back.
    pub fn set_command(&mut self, command: u16) {
        self.write(COMMAND, &command.to_le_bytes());
    }

    /// Sets registers, read-only ones too.
    pub fn set(&mut self, offset: usize, bytes: &[u8]) {
        for (place, byte) in self.registers.iter_mut().skip(offset).zip(bytes) {
            *place = *byte;
        }
    }

    fn allow(&mut self, offset: usize, mask: &[u8]) {
        for (place, byte) in self.writable.iter_mut().skip(offset).zip(mask) {
            *place = *byte;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAR: u64 = 0x40_0000_8000;

    fn space(function: u8) -> ConfigSpace {
        let identity = Identity {
            vendor: 0x1af4,
            device: 0x1042,
            revision: 1,
            class: 0x01_80_00,
            subsystem_vendor: 0x1af4,
            subsystem: 2,
        };
        ConfigSpace::new(identity, BAR, 0x4000, function)
    }

    fn read32(space: &ConfigSpace, offset: usize) -> u32 {
        let mut data = [0; 4];
        space.read(offset, &mut data);
        u32::from_le_bytes(data)
    }

    #[test]
    fn the_header_identifies_the_function() {
        let space = space(0);
        assert_eq!(read32(&space, 0), 0x1042_1af4);
        assert_eq!(read32(&space, 8), 0x0180_0001);
        assert_eq!(read32(&space, 0x0c) >> 16 & 0xff, 0x80);
        assert_eq!(read32(&self::space(3), 0x0c) >> 16 & 0xff, 0);
        assert_eq!(read32(&space, 0x3c) >> 8 & 0xff, 0, "no INTx pin");
    }

    #[test]
    fn the_bar_answers_sizing_and_moves_within_the_window() {
        let mut space = space(0);
        assert_eq!(read32(&space, 0x10), 0x0000_8004);
        assert_eq!(read32(&space, 0x14), 0x40);
        assert_eq!(space.decoded(), Some(BAR));
        assert!(space.write(0x10, &[0xff; 4]).decoding);
        assert_eq!(read32(&space, 0x10), 0xffff_c004);
        space.write(0x14, &[0xff; 4]);
        assert_eq!(read32(&space, 0x14), 0xffff_ffff);
        assert_eq!(space.decoded(), None);
        space.write(0x10, &0x0000_4004u32.to_le_bytes());
        space.write(0x14, &0x40u32.to_le_bytes());
        assert_eq!(space.decoded(), Some(0x40_0000_4000));
        space.write(0x14, &0x41u32.to_le_bytes());
        assert_eq!(space.decoded(), None, "outside of the window");
        space.set_bar(BAR);
        assert_eq!(space.decoded(), Some(BAR));
        // BARs 2 to 5 and the ROM are not there.
        space.write(0x18, &[0xff; 4]);
        assert_eq!(read32(&space, 0x18), 0);
        space.write(0x30, &[0xff; 4]);
        assert_eq!(read32(&space, 0x30), 0);
    }

    #[test]
    fn only_masked_bits_are_writable() {
        let mut space = space(0);
        space.write(0, &[0; 4]);
        assert_eq!(read32(&space, 0), 0x1042_1af4);
        space.write(4, &[0xff; 4]);
        assert_eq!(space.command(), 0x406);
        assert!(space.memory_enabled());
        assert!(space.write(4, &[0, 0]).decoding);
        assert!(!space.memory_enabled());
        assert_eq!(space.decoded(), None);
    }

    #[test]
    fn capabilities_are_chained_and_reported_when_written() {
        let mut space = space(0);
        let first = space.add_capability(9, &[4, 0], &[]).unwrap();
        let second = space.add_capability(0x11, &[0; 10], &[0, 0xc0]).unwrap();
        assert_eq!(read32(&space, 0x34) & 0xff, 0x40);
        assert_eq!((first, second), (0x40, 0x44));
        assert_eq!(read32(&space, first) >> 8 & 0xff, 0x44);
        assert_eq!(read32(&space, second) >> 8 & 0xff, 0);
        let written = space.write(second + 2, &[0xff, 0xff]);
        assert_eq!(written.capability, Some(second));
        assert_eq!(read32(&space, second) >> 16, 0xc000);
        assert_eq!(space.write(0x3c, &[1]), Write::default());
        assert!(space.add_capability(9, &[0; 200], &[]).is_none());
    }

    #[test]
    fn odd_accesses_are_harmless() {
        let mut space = space(0);
        for offset in [
            0usize,
            1,
            0x0f,
            0x11,
            0x13,
            0x17,
            0xff,
            0x100,
            0xfff,
            usize::MAX,
        ] {
            for width in [1usize, 2, 4, 8] {
                let mut data = vec![0; width];
                space.read(offset, &mut data);
                space.write(offset, &vec![0xff; width]);
            }
        }
        assert_eq!(read32(&space, 0), 0x1042_1af4);
    }
}
