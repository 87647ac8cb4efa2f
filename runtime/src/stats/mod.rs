//! What pods and containers use, measured in the background.
//!
//! ```text
//!   sampler (a task for each sandbox) ── every interval, or when asked ──► guest
//!      │ deadline: a hung guest costs its own task's time only
//!      ▼
//!   Meter (one a pod) ◄── answers read the newest sample, with its own time
//!      └── rates: CPU time to nanocores, over the time between two samples
//! ```
//!
//! An answer has a newer sample taken behind it: a client that asks twice, a second
//! apart, as crictl does for a rate, sees change.
//!
//! Answers wait for no guest, with one exception: a container that was made a moment
//! ago and is in no sample yet has one taken at once, and is waited for so long.
//!
//! The same round trip tells how far the guest's clock is off; [`clock`] decides
//! what is done about it.

pub mod clock;
mod meter;
mod rates;
mod sampler;

use std::time::Duration;

pub use meter::{Meter, Sample};
pub(crate) use sampler::follow;

/// Longest time from an answer until the sample behind it is taken: shorter than what
/// clients wait between two looks (crictl a second). Half of it passes between two
/// samples at least, however often somebody asks.
pub(crate) const FRESH: Duration = Duration::from_millis(500);

/// How pods are measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sampling {
    /// Time between two samples of a pod.
    pub interval: Duration,
    /// Longest time that a guest may take to answer.
    pub deadline: Duration,
    /// How far a guest's clock may be off before it is corrected.
    pub clock_tolerance: Duration,
}

impl Default for Sampling {
    fn default() -> Self {
        Self {
            // kubelet's eviction manager looks every ten seconds.
            interval: Duration::from_secs(10),
            deadline: Duration::from_secs(5),
            clock_tolerance: Duration::from_millis(20),
        }
    }
}
