//! Power off and reset.
//!
//! Hardware-reduced ACPI has a sleep control and a sleep status register of a byte
//! each (ACPI 6.5, section 4.8.3.7) and a reset register (4.8.3.6), all ports here.
//! Linux told `reboot=k` pulses the keyboard controller's reset line instead.

/// Sleep control register.
pub const SLEEP_CONTROL_PORT: u16 = 0x600;
/// Sleep status register; reads as zero, we never wake.
pub const SLEEP_STATUS_PORT: u16 = 0x601;
/// Reset register.
pub const RESET_PORT: u16 = 0x602;
/// What resets when written to the reset register.
pub const RESET_VALUE: u8 = 1;
/// SLP_TYP of S5, announced in `_S5`.
pub const S5_TYPE: u8 = 5;

const SLEEP_ENABLE: u8 = 1 << 5;
const SLEEP_TYPE_SHIFT: u8 = 2;
const SLEEP_TYPE_MASK: u8 = 0b111;
const I8042_COMMAND_PORT: u16 = 0x64;
const I8042_PULSE_RESET: u8 = 0xfe;

/// What a write to a power register means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PowerEvent {
    /// Power off (S5).
    Off,
    /// Reset.
    Reset,
    /// Nothing to do.
    None,
}

/// What writing `value` to `port` means; `None` if it is no power register.
#[must_use]
pub fn write(port: u16, value: u8) -> Option<PowerEvent> {
    let sleep_type = value >> SLEEP_TYPE_SHIFT & SLEEP_TYPE_MASK;
    match port {
        SLEEP_CONTROL_PORT if value & SLEEP_ENABLE != 0 && sleep_type == S5_TYPE => {
            Some(PowerEvent::Off)
        }
        RESET_PORT if value == RESET_VALUE => Some(PowerEvent::Reset),
        I8042_COMMAND_PORT if value == I8042_PULSE_RESET => Some(PowerEvent::Reset),
        SLEEP_CONTROL_PORT | SLEEP_STATUS_PORT | RESET_PORT => Some(PowerEvent::None),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_s5_with_the_enable_bit_powers_off() {
        let s5 = S5_TYPE << 2;
        assert_eq!(write(SLEEP_CONTROL_PORT, s5), Some(PowerEvent::None));
        assert_eq!(write(SLEEP_CONTROL_PORT, s5 | 0x20), Some(PowerEvent::Off));
        let s3 = 3 << 2 | 0x20;
        assert_eq!(write(SLEEP_CONTROL_PORT, s3), Some(PowerEvent::None));
        assert_eq!(write(0x64, 0xfe), Some(PowerEvent::Reset));
        assert_eq!(write(0x64, 0xd1), None);
        assert_eq!(write(0x80, 0), None);
    }
}
