//! When an ended process's output counts as complete.
//!
//! Normally the stream's end says so. But a child left in the background may
//! hold the other end of the pipe for hours, and waiting for it would keep the
//! container from ever having exited. So after the exit the output counts as
//! complete when nothing came for a while, or when more has come than can have
//! been written before the exit: what the agent keeps, and the pipe.

use std::time::Duration;

use tokio::time::Instant;

/// Silence after which an ended process's output is complete.
pub const IDLE: Duration = Duration::from_millis(250);
/// Longest total wait for further output.
pub const PATIENCE: Duration = Duration::from_secs(10);
/// Most bytes that can have been under way at the exit: the agent's buffer and
/// the largest pipe, with room to spare.
pub const UNDER_WAY: u64 = 4 << 20;

/// Decides for one stream, from the moment its process has ended.
#[derive(Clone, Copy, Debug)]
pub struct Drain {
    waited: Duration,
    taken: u64,
}

impl Drain {
    /// The process has ended just now.
    #[must_use]
    pub fn begin() -> Self {
        Self {
            waited: Duration::ZERO,
            taken: 0,
        }
    }

    /// Until when to wait for the next bytes, from `now`; `None`: not at all.
    #[must_use]
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let left = PATIENCE.saturating_sub(self.waited);
        (self.taken < UNDER_WAY && !left.is_zero()).then(|| now + IDLE.min(left))
    }

    /// `bytes` came after a wait of `waited`.
    pub fn took(&mut self, bytes: usize, waited: Duration) {
        self.taken += bytes as u64;
        self.waited += waited;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trickle_and_a_flood_both_end() {
        let now = Instant::now();
        let mut trickle = Drain::begin();
        let mut rounds = 0;
        while let Some(until) = trickle.deadline(now) {
            assert!(until - now <= IDLE);
            trickle.took(1, Duration::from_millis(200));
            rounds += 1;
        }
        assert_eq!(rounds, 50, "ten seconds");
        let mut flood = Drain::begin();
        for _ in 0..64 {
            assert!(flood.deadline(now).is_some());
            flood.took(64 << 10, Duration::ZERO);
        }
        assert!(flood.deadline(now).is_none());
    }
}
