//! A write-only serial port for development, where "earlyprintk=ttyS0" expects one.
//!
//! The guest's driver would find no working UART here: there is no interrupt, no
//! input and no baud rate, only a transmitter that is always empty. It exists to see
//! a kernel die before its virtio console is up; each character is an exit.

use crate::console::ConsoleTail;

/// First port of COM1.
pub const FIRST_PORT: u16 = 0x3f8;
/// Last port of COM1.
pub const LAST_PORT: u16 = 0x3ff;

const LINE_CONTROL: u16 = 3;
const LINE_STATUS: u16 = 5;
/// Line control: the data port is the divisor latch now.
const DIVISOR_LATCH: u8 = 1 << 7;
/// Line status: transmitter and holding register empty.
const TRANSMITTER_EMPTY: u8 = 0x60;

/// The port. What it prints joins the console's tail.
#[derive(Debug)]
pub struct DebugSerial {
    tail: ConsoleTail,
    line_control: std::sync::atomic::AtomicU8,
}

impl DebugSerial {
    /// A port that prints to `tail`.
    #[must_use]
    pub fn new(tail: ConsoleTail) -> Self {
        Self {
            tail,
            line_control: 0.into(),
        }
    }

    /// A register read.
    #[must_use]
    pub fn read(&self, port: u16) -> u8 {
        match port.wrapping_sub(FIRST_PORT) {
            LINE_STATUS => TRANSMITTER_EMPTY,
            LINE_CONTROL => self.line_control.load(std::sync::atomic::Ordering::Relaxed),
            _ => 0,
        }
    }

    /// A register write.
    pub fn write(&self, port: u16, value: u8) {
        use std::sync::atomic::Ordering::Relaxed;
        match port.wrapping_sub(FIRST_PORT) {
            0 if self.line_control.load(Relaxed) & DIVISOR_LATCH == 0 => self.tail.append(&[value]),
            LINE_CONTROL => self.line_control.store(value, Relaxed),
            _ => {}
        }
    }
}
