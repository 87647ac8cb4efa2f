//! Turns at starting a pod.
//!
//! A start is work for the CPUs from beginning to end: a kernel loads, boots and
//! an agent comes up. A node that starts all its pods at once, after a reboot,
//! makes each as slow as all together, and none meets its deadlines. So only
//! some start at the same moment, first come first served, and the others wait
//! before anything of theirs is on the host.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::store::PhaseTiming;

/// Hands out turns.
pub(super) struct Starts(Arc<Semaphore>);

/// A turn, which ends when this is dropped.
pub(super) struct Turn {
    waited: Duration,
    _permit: Option<OwnedSemaphorePermit>,
}

impl Starts {
    /// At most `at_once` turns at the same moment; at least one.
    pub(super) fn new(at_once: usize) -> Self {
        Self(Arc::new(Semaphore::new(
            at_once.clamp(1, Semaphore::MAX_PERMITS),
        )))
    }

    /// Waits for a turn. Nobody overtakes.
    pub(super) async fn turn(&self) -> Turn {
        let came = Instant::now();
        // An error would mean that the semaphore is closed, which nobody does.
        let permit = Arc::clone(&self.0).acquire_owned().await.ok();
        Turn {
            waited: came.elapsed(),
            _permit: permit,
        }
    }
}

impl Turn {
    /// The wait as the first phase of a start.
    pub(super) fn phase(&self) -> PhaseTiming {
        PhaseTiming {
            phase: "queued".to_owned(),
            took_ns: u64::try_from(self.waited.as_nanos()).unwrap_or(u64::MAX),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn the_third_of_two_waits() {
        let starts = Starts::new(2);
        let first = starts.turn().await;
        let second = starts.turn().await;
        let third = tokio::time::timeout(Duration::from_secs(60), starts.turn());
        assert!(third.await.is_err(), "three turns at once");
        drop(first);
        let third = starts.turn().await;
        assert_eq!(third.phase().phase, "queued");
        drop((second, third));
    }

    #[tokio::test]
    async fn none_is_one() {
        let starts = Starts::new(0);
        let _turn = starts.turn().await;
    }
}
