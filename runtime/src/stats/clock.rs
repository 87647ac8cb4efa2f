//! When a guest's clock is moved, and how.
//!
//! A guest's clock counts by the host's counter but knows nothing of the host's NTP,
//! and stands still while the machine is suspended. Each sample compares the two:
//! the host's time in the middle of the call with the guest's in its answer. That
//! is wrong by half the round trip at most.

use std::time::Duration;

use bulkhead_sandbox::{ClockChange, SandboxStats};

/// Further than this a clock is stepped: the kernel slews at 500 parts in a million,
/// and this would take a quarter of an hour.
const SLEW_MAX_NS: i64 = 500_000_000;

/// What to do about a guest's clock, if anything: nothing while the difference may
/// be the measurement's own, or is within `tolerance`.
#[must_use]
pub fn correction(stats: &SandboxStats, tolerance: Duration) -> Option<ClockChange> {
    let behind = stats.at_unix_ns.checked_sub(stats.guest_unix_ns?)?;
    let certain = behind
        .unsigned_abs()
        .saturating_sub(stats.round_trip_ns.div_ceil(2));
    if u128::from(certain) <= tolerance.as_nanos() {
        None
    } else if behind.unsigned_abs() <= SLEW_MAX_NS.unsigned_abs() {
        Some(ClockChange::Slew(behind))
    } else {
        Some(ClockChange::Step(behind))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn off(guest_unix_ns: Option<i64>, round_trip_ns: u64) -> Option<ClockChange> {
        let stats = SandboxStats {
            at_unix_ns: 10_000_000_000,
            round_trip_ns,
            guest_unix_ns,
            ..Default::default()
        };
        correction(&stats, Duration::from_millis(20))
    }

    #[test]
    fn a_little_is_slewed_and_much_is_stepped() {
        assert_eq!(off(Some(9_990_000_000), 0), None);
        assert_eq!(
            off(Some(9_900_000_000), 0),
            Some(ClockChange::Slew(100_000_000))
        );
        assert_eq!(
            off(Some(10_100_000_000), 0),
            Some(ClockChange::Slew(-100_000_000))
        );
        assert_eq!(off(Some(1), 0), Some(ClockChange::Step(9_999_999_999)));
        assert_eq!(
            off(Some(90_000_000_000), 0),
            Some(ClockChange::Step(-80_000_000_000))
        );
    }

    #[test]
    fn what_the_measurement_may_be_wrong_by_is_left_alone() {
        // 100 ms off, but the call took 200 ms.
        assert_eq!(off(Some(9_900_000_000), 200_000_000), None);
        assert!(off(Some(9_900_000_000), 100_000_000).is_some());
    }

    #[test]
    fn no_clock_and_no_sense_change_nothing() {
        assert_eq!(off(None, 0), None);
        assert_eq!(off(Some(i64::MIN), 0), None);
        assert_eq!(off(Some(1), u64::MAX), None);
    }
}
