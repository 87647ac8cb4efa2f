//! Amounts as people write them.

use std::str::FromStr;

/// Bytes: a number with an optional unit, as Docker writes them: "M" is 2^20.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory(pub i64);

impl FromStr for Memory {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wanted = || format!("{text:?} is no amount of memory; write 256M, 2G or bytes");
        let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
        let factor: i64 = match text.get(digits.len()..).unwrap_or_default() {
            "" | "b" | "B" => 1,
            "k" | "K" | "Ki" | "KiB" => 1 << 10,
            "m" | "M" | "Mi" | "MiB" => 1 << 20,
            "g" | "G" | "Gi" | "GiB" => 1 << 30,
            "t" | "T" | "Ti" | "TiB" => 1 << 40,
            _ => return Err(wanted()),
        };
        let number: i64 = digits.parse().map_err(|_| wanted())?;
        match number.checked_mul(factor) {
            Some(bytes) if bytes > 0 => Ok(Self(bytes)),
            _ => Err(wanted()),
        }
    }
}

/// CPUs in thousandths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cpus {
    /// Thousandths of a CPU.
    pub milli: i64,
}

/// The period that CPU quotas are given in, in microseconds: the kernel's default.
pub(super) const CPU_PERIOD_US: i64 = 100_000;

impl Cpus {
    /// Microseconds of CPU time in each [`CPU_PERIOD_US`].
    #[must_use]
    pub fn quota_us(self) -> i64 {
        self.milli.saturating_mul(CPU_PERIOD_US / 1000)
    }
}

impl FromStr for Cpus {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wanted = || format!("{text:?} is no number of CPUs; write 2, 0.5 or 1500m");
        let milli = match text.strip_suffix('m') {
            Some(milli) => milli.parse().map_err(|_| wanted())?,
            None => decimal_milli(text).ok_or_else(wanted)?,
        };
        // The kernel takes no quota below a millisecond: a hundredth of the period.
        if (10..=1_000_000).contains(&milli) {
            Ok(Self { milli })
        } else {
            Err(wanted())
        }
    }
}

/// A decimal number in thousandths; further digits are refused.
fn decimal_milli(text: &str) -> Option<i64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if fraction.len() > 3 || !digits(whole) || !digits(fraction) {
        return None;
    }
    let whole: i64 = whole.parse().ok()?;
    let fraction: i64 = format!("{fraction:0<3}").parse().ok()?;
    whole.checked_mul(1000)?.checked_add(fraction)
}

/// An amount of bytes for people, with one decimal.
#[must_use]
pub(super) fn human_bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut unit = 0;
    let mut scale = 1024_u64;
    while unit + 1 < UNITS.len() && bytes / scale >= 1024 {
        scale *= 1024;
        unit += 1;
    }
    let tenths = u128::from(bytes) * 10 / u128::from(scale);
    format!("{}.{} {}", tenths / 10, tenths % 10, UNITS[unit])
}

/// A span of time for people: its largest unit alone.
#[must_use]
pub(super) fn human_age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_takes_the_usual_units() {
        for (text, bytes) in [
            ("1", 1),
            ("512k", 512 << 10),
            ("256M", 256 << 20),
            ("2Gi", 2 << 30),
            ("2GiB", 2 << 30),
        ] {
            assert_eq!(text.parse::<Memory>().unwrap().0, bytes, "{text}");
        }
        for text in ["", "0", "M", "-1M", "1.5G", "1X", "9999999999T", "1 M"] {
            assert!(text.parse::<Memory>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn cpus_take_decimals_and_milli() {
        for (text, milli) in [
            ("2", 2000),
            ("0.5", 500),
            ("1.25", 1250),
            ("1500m", 1500),
            ("0.01", 10),
        ] {
            assert_eq!(text.parse::<Cpus>().unwrap().milli, milli, "{text}");
        }
        for text in [
            "",
            "0",
            "0.001",
            "-1",
            "1.2345",
            "a",
            ".5",
            "1e3",
            "99999999999999999999",
        ] {
            assert!(text.parse::<Cpus>().is_err(), "{text:?}");
        }
        assert_eq!("0.5".parse::<Cpus>().unwrap().quota_us(), 50_000);
    }

    #[test]
    fn amounts_read_well() {
        assert_eq!(human_bytes(0), "0 B");
        assert_eq!(human_bytes(1023), "1023 B");
        assert_eq!(human_bytes(1536), "1.5 KiB");
        assert_eq!(human_bytes(5 << 30), "5.0 GiB");
        assert_eq!(human_bytes(u64::MAX), "16383.9 PiB");
        assert_eq!(human_age(59), "59s");
        assert_eq!(human_age(3599), "59m");
        assert_eq!(human_age(90_000), "1d");
    }
}
