//! When the milestones of a start were reached.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

/// A step of the VMM's start, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Milestone {
    /// The daemon began the spawn (from the configuration).
    Spawn,
    /// The process's `main` began.
    Main,
    /// The configuration was read and checked.
    Configured,
    /// The KVM VM is there.
    VmCreated,
    /// Guest memory, kernel, initramfs and tables are in place.
    Loaded,
    /// The devices are on the bus.
    Devices,
    /// Namespaces, user and privileges are dropped.
    Confined,
    /// The first KVM_RUN is about to happen.
    FirstRun,
}

const MILESTONES: usize = Milestone::FirstRun as usize + 1;

/// CLOCK_MONOTONIC times of the milestones, in nanoseconds; 0 = not reached.
#[derive(Debug, Default)]
pub struct Timings([AtomicU64; MILESTONES]);

impl Timings {
    /// Records that `milestone` is reached now, unless it was before.
    pub fn reached(&self, milestone: Milestone) {
        self.set(milestone, now());
    }

    /// Records `nanoseconds` for `milestone`, unless it was reached before.
    pub fn set(&self, milestone: Milestone, nanoseconds: u64) {
        if let Some(cell) = self.0.get(milestone as usize) {
            // Losing the race to another thread is fine: the first one counts.
            let _ = cell.compare_exchange(0, nanoseconds, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// When `milestone` was reached, in nanoseconds; 0 if it was not.
    #[must_use]
    pub fn get(&self, milestone: Milestone) -> u64 {
        self.0
            .get(milestone as usize)
            .map_or(0, |cell| cell.load(Ordering::Relaxed))
    }

    /// How long after `from` `to` was reached, if both were.
    #[must_use]
    pub fn between(&self, from: Milestone, to: Milestone) -> Option<Duration> {
        let (from, to) = (self.get(from), self.get(to));
        (from != 0 && to >= from).then(|| Duration::from_nanos(to - from))
    }

    /// How long ago `milestone` was reached, if it was.
    #[must_use]
    pub fn since(&self, milestone: Milestone) -> Option<Duration> {
        let at = self.get(milestone);
        (at != 0).then(|| Duration::from_nanos(now().saturating_sub(at)))
    }
}

/// CLOCK_MONOTONIC, in nanoseconds: comparable between processes of one host.
#[must_use]
pub fn now() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let nanoseconds = u64::try_from(time.tv_nsec).unwrap_or(0);
    seconds
        .saturating_mul(1_000_000_000)
        .saturating_add(nanoseconds)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_time_counts() {
        let timings = Timings::default();
        assert_eq!(timings.between(Milestone::Main, Milestone::FirstRun), None);
        timings.set(Milestone::Main, 100);
        timings.set(Milestone::Main, 200);
        timings.set(Milestone::FirstRun, 350);
        assert_eq!(timings.get(Milestone::Main), 100);
        assert_eq!(
            timings.between(Milestone::Main, Milestone::FirstRun),
            Some(Duration::from_nanos(250))
        );
        timings.reached(Milestone::Configured);
        assert!(timings.get(Milestone::Configured) > 0);
    }
}
