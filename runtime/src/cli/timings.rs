//! Where a start's time went.

use std::time::{Duration, Instant};

use bulkhead_cri_api::operator::{SandboxTimingsRequest, Timing};

use super::client::{Daemon, in_words};
use super::output::table;

/// The phases of a pod's start as the daemon saw them.
///
/// # Errors
/// The daemon's refusal.
pub(super) async fn of_pod(daemon: &mut Daemon, pod: &str) -> anyhow::Result<Vec<Phase>> {
    let request = SandboxTimingsRequest {
        pod_sandbox_id: pod.to_owned(),
    };
    let answer = daemon.operator.sandbox_timings(request).await;
    let timings = answer
        .map_err(|status| in_words(&status))?
        .into_inner()
        .timings;
    Ok(timings.into_iter().map(Phase::from).collect())
}

/// A named span of time.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(super) struct Phase {
    pub(super) phase: String,
    /// Nanoseconds.
    pub(super) took_ns: u64,
}

impl From<Timing> for Phase {
    fn from(timing: Timing) -> Self {
        Self {
            phase: timing.phase,
            took_ns: timing.took_ns,
        }
    }
}

/// A stopwatch that is read at each step.
#[derive(Debug)]
pub(super) struct Stopwatch {
    began: Instant,
    last: Instant,
    steps: Vec<Phase>,
}

impl Stopwatch {
    pub(super) fn start() -> Self {
        let now = Instant::now();
        Self {
            began: now,
            last: now,
            steps: Vec::new(),
        }
    }

    /// Ends a step at this moment.
    pub(super) fn step(&mut self, phase: &str) {
        self.step_at(phase, Instant::now());
    }

    /// Ends a step at an earlier moment, but not before the one before.
    pub(super) fn step_at(&mut self, phase: &str, at: Instant) {
        let at = at.max(self.last);
        self.steps.push(Phase {
            phase: phase.to_owned(),
            took_ns: nanos(at - self.last),
        });
        self.last = at;
    }

    /// The steps and their sum.
    pub(super) fn finish(mut self) -> Vec<Phase> {
        let took_ns = nanos(self.last - self.began);
        self.steps.push(Phase {
            phase: "altogether".to_owned(),
            took_ns,
        });
        self.steps
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Phases as a table.
#[must_use]
pub(super) fn render(phases: &[Phase]) -> String {
    table(&["PHASE", "TOOK"], &rows(phases))
}

/// The cells of that table.
#[must_use]
pub(super) fn rows(phases: &[Phase]) -> Vec<Vec<String>> {
    phases
        .iter()
        .map(|phase| vec![phase.phase.clone(), millis(phase.took_ns)])
        .collect()
}

/// Milliseconds with two decimals, aligned at the point for spans below 1,000 s.
fn millis(nanos: u64) -> String {
    let hundredths = nanos / 10_000;
    format!("{:>6}.{:02} ms", hundredths / 100, hundredths % 100)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_add_up() {
        let mut watch = Stopwatch::start();
        let began = watch.began;
        watch.step_at("one", began + Duration::from_millis(3));
        // Noted late, happened early: never negative.
        watch.step_at("two", began + Duration::from_millis(1));
        watch.step_at("three", began + Duration::from_millis(10));
        let took: Vec<_> = watch
            .finish()
            .iter()
            .map(|phase| phase.took_ns / 1_000_000)
            .collect();
        assert_eq!(took, [3, 0, 7, 10]);
    }

    #[test]
    fn spans_are_aligned() {
        assert_eq!(millis(1_234_567), "     1.23 ms");
        assert_eq!(millis(2_000_000_000), "  2000.00 ms");
    }
}
