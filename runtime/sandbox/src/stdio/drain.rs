//! When an ended process's output counts as complete.
//!
//! Normally the stream's end says so. But a child left in the background may
//! hold the other end of the pipe for hours, and waiting for it would keep the
//! container from ever having exited. So the agent tells with the exit how much
//! had been written by then:
//!
//! - what is missing of that is waited for, however slow the machine is; a guest
//!   that promises bytes and never sends them is given up in the end;
//! - behind it, a child's last words are heard as long as they come without a
//!   pause, and are no more than can have been under way at the exit.
//!
//! Nobody knows how much was written to a terminal; but that ends with its session.

use std::time::Duration;

use tokio::time::Instant;

/// How long to wait for one more byte, and in all.
#[derive(Clone, Copy, Debug)]
struct Patience {
    silence: Duration,
    total: Duration,
}

/// For bytes that are there.
const MISSING: Patience = Patience {
    silence: Duration::from_secs(30),
    total: Duration::from_secs(60),
};
/// For bytes that may be there.
const UNKNOWN: Patience = Patience {
    silence: Duration::from_secs(1),
    total: Duration::from_secs(10),
};
/// For bytes that would come after the exit.
const BEHIND: Patience = Patience {
    silence: Duration::from_millis(250),
    total: Duration::from_secs(10),
};
/// Most bytes that can have been under way at the exit: the agent's buffer and
/// the largest pipe, with room to spare.
pub const UNDER_WAY: u64 = 4 << 20;

/// Decides for one stream, from the moment its process has ended.
#[derive(Clone, Copy, Debug)]
pub struct Drain {
    /// Length of the stream at the exit.
    length: Option<u64>,
    waited: Duration,
    taken: u64,
}

impl Drain {
    /// The process has ended just now, having written `length` bytes.
    #[must_use]
    pub fn begin(length: Option<u64>) -> Self {
        Self {
            length,
            waited: Duration::ZERO,
            taken: 0,
        }
    }

    /// Until when to wait, from `now`, for what is behind `offset`; `None`: not at
    /// all.
    #[must_use]
    pub fn deadline(&self, offset: u64, now: Instant) -> Option<Instant> {
        let patience = match self.length {
            None => UNKNOWN,
            Some(length) if offset < length => MISSING,
            Some(_) => BEHIND,
        };
        let left = patience.total.saturating_sub(self.waited);
        (self.taken < UNDER_WAY && !left.is_zero()).then(|| now + patience.silence.min(left))
    }

    /// Bytes that were promised and are not in a stream that stands at `offset`.
    #[must_use]
    pub fn missing(&self, offset: u64) -> u64 {
        self.length.unwrap_or(0).saturating_sub(offset)
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
        for (length, seconds) in [(None, 10), (Some(5), 10), (Some(u64::MAX), 60)] {
            let mut trickle = Drain::begin(length);
            let mut rounds = 0;
            while trickle.deadline(5, now).is_some() {
                trickle.took(1, Duration::from_millis(200));
                rounds += 1;
            }
            assert_eq!(rounds, 5 * seconds, "{length:?}");
            let mut flood = Drain::begin(length);
            for _ in 0..64 {
                assert!(flood.deadline(5, now).is_some());
                flood.took(64 << 10, Duration::ZERO);
            }
            assert!(flood.deadline(5, now).is_none());
        }
    }

    #[test]
    fn what_is_there_is_waited_for_longer_than_what_may_come() {
        let now = Instant::now();
        let drain = Drain::begin(Some(100));
        assert_eq!(drain.deadline(99, now), Some(now + MISSING.silence));
        assert_eq!(drain.deadline(100, now), Some(now + BEHIND.silence));
        assert_eq!((drain.missing(99), drain.missing(101)), (1, 0));
        let unknown = Drain::begin(None);
        assert_eq!(unknown.deadline(0, now), Some(now + UNKNOWN.silence));
        assert_eq!(unknown.missing(0), 0);
    }
}
