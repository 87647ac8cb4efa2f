//! What is behind I/O ports: power, the panic notice and, for development, a serial
//! port. Everything else is on the PCI bus.

pub mod panic;
pub mod power;
pub mod serial;

use bulkhead_vmm_api::ExitReason;

use self::{power::PowerEvent, serial::DebugSerial};
use crate::{console::ConsoleTail, kvm::Exit};

/// The I/O ports.
#[derive(Debug)]
pub struct Ports {
    serial: Option<DebugSerial>,
}

/// What an access to a port led to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortEffect {
    /// The kind under which the exit is counted.
    pub exit: Exit,
    /// Set when the VM is to end.
    pub end: Option<ExitReason>,
}

impl Ports {
    /// The ports, with a debug serial port that writes to `serial` if given.
    #[must_use]
    pub fn new(serial: Option<ConsoleTail>) -> Self {
        Self {
            serial: serial.map(DebugSerial::new),
        }
    }

    /// Answers a read of 1, 2 or 4 bytes; all ones where nothing is.
    pub fn read(&self, port: u16, data: &mut [u8]) -> PortEffect {
        data.fill(0xff);
        let mut exit = Exit::port(port, false);
        match (port, &self.serial) {
            (power::SLEEP_STATUS_PORT | power::SLEEP_CONTROL_PORT, _) => {
                data.fill(0);
                exit = Exit::PortPower;
            }
            (panic::PORT, _) => {
                if let Some(byte) = data.first_mut() {
                    *byte = panic::SUPPORTED;
                }
                exit = Exit::PortPower;
            }
            (serial::FIRST_PORT..=serial::LAST_PORT, Some(serial)) => {
                if let Some(byte) = data.first_mut() {
                    *byte = serial.read(port);
                }
            }
            _ => {}
        }
        PortEffect { exit, end: None }
    }

    /// Takes a write of 1, 2 or 4 bytes; only the first counts on byte-wide ports.
    pub fn write(&self, port: u16, data: &[u8]) -> PortEffect {
        let value = data.first().copied().unwrap_or(0);
        let mut effect = PortEffect {
            exit: Exit::port(port, true),
            end: None,
        };
        match (port, &self.serial) {
            (serial::FIRST_PORT..=serial::LAST_PORT, Some(serial)) => serial.write(port, value),
            (panic::PORT, _) => {
                effect.exit = Exit::PortPower;
                effect.end = panic::event(value);
            }
            _ => {
                if let Some(event) = power::write(port, value) {
                    effect.exit = Exit::PortPower;
                    effect.end = match event {
                        PowerEvent::Off => Some(ExitReason::Shutdown),
                        PowerEvent::Reset => Some(ExitReason::Reset),
                        PowerEvent::None => None,
                    };
                }
            }
        }
        effect
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_ports_read_all_ones_in_every_width() {
        let ports = Ports::new(None);
        for width in [1, 2, 4] {
            let mut data = vec![0; width];
            assert_eq!(ports.read(0x1234, &mut data).exit, Exit::PortIn);
            assert!(data.iter().all(|&b| b == 0xff));
        }
        assert_eq!(ports.write(0x1234, &[1, 2, 3, 4]).end, None);
    }

    #[test]
    fn power_registers_end_the_vm() {
        let ports = Ports::new(None);
        let off = power::S5_TYPE << 2 | 0x20;
        assert_eq!(
            ports.write(power::SLEEP_CONTROL_PORT, &[off]).end,
            Some(ExitReason::Shutdown)
        );
        assert_eq!(
            ports.write(power::RESET_PORT, &[power::RESET_VALUE]).end,
            Some(ExitReason::Reset)
        );
        assert_eq!(ports.write(power::RESET_PORT, &[0]).end, None);
        assert_eq!(
            ports.write(panic::PORT, &[1]).end,
            Some(ExitReason::GuestPanic)
        );
    }

    #[test]
    fn the_serial_port_is_there_only_when_asked_for() {
        let tail = ConsoleTail::default();
        let with = Ports::new(Some(tail.clone()));
        for byte in *b"hello" {
            with.write(0x3f8, &[byte]);
        }
        assert_eq!(tail.snapshot().0, b"hello");
        let mut status = [0];
        with.read(0x3fd, &mut status);
        assert_eq!(status, [0x60]);
        Ports::new(None).read(0x3fd, &mut status);
        assert_eq!(status, [0xff]);
    }
}
