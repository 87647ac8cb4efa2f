//! Asks one sandbox for its figures, again and again, until it ends.

use std::{sync::Arc, time::Duration};

use bulkhead_sandbox::Sandbox;
use tokio::time::{Instant, MissedTickBehavior, interval_at, sleep_until, timeout};

use super::{FRESH, Sampling, clock};
use crate::{
    observe::metrics::Metrics,
    pods::model::{Model, Pod},
};

/// Samples a pod until its sandbox ends. A task of its own for each: one that waits
/// for a hung guest keeps nobody.
pub(crate) async fn follow(
    pod: Arc<Pod>,
    sandbox: Arc<dyn Sandbox>,
    model: &Model,
    metrics: &Metrics,
    sampling: Sampling,
) {
    let mut exited = sandbox.exited();
    let work = async {
        let first = Instant::now() + phase(&pod.id, sampling.interval);
        let mut ticks = interval_at(first, sampling.interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Lists are of all pods; their guests need not all be woken at once.
        let spread = phase(&pod.id, FRESH / 2);
        let mut last = Instant::now();
        loop {
            let used = async {
                pod.meter.was_used().await;
                sleep_until(Instant::now().max(last + FRESH / 2) + spread).await;
            };
            tokio::select! {
                _ = ticks.tick() => {}
                () = pod.meter.wanted() => {}
                () = used => ticks.reset(),
            }
            if !sample(&pod, sandbox.as_ref(), model, sampling).await {
                metrics.sample_failed();
            }
            last = Instant::now();
        }
    };
    tokio::select! {
        biased;
        _ = exited.wait_for(Option::is_some) => {}
        () = work => {}
    }
}

/// Where in the interval a pod is sampled: by its id, which is random, so that a
/// thousand pods found at a start are not all asked at once.
fn phase(id: &str, interval: Duration) -> Duration {
    let digits: String = id.chars().take(4).collect();
    let part = u32::from_str_radix(&digits, 16).unwrap_or(0);
    interval * part / (1 << 16)
}

/// Whether there is a newer sample now.
async fn sample(pod: &Pod, sandbox: &dyn Sandbox, model: &Model, sampling: Sampling) -> bool {
    let stats = match timeout(sampling.deadline, sandbox.stats()).await {
        Ok(Ok(stats)) => stats,
        outcome => {
            let why = match outcome {
                Ok(Err(error)) => error.to_string(),
                _ => format!("no answer within {:?}", sampling.deadline),
            };
            if pod.meter.failed() {
                tracing::warn!(pod = %pod.id, %why, "the pod can't be measured");
            }
            return false;
        }
    };
    let change = clock::correction(&stats, sampling.clock_tolerance);
    let containers: Vec<_> = model
        .containers_in(&pod.id)
        .iter()
        .map(|container| container.record())
        .collect();
    pod.meter.take(stats, &pod.record(), &containers);
    if let Some(change) = change {
        tracing::info!(pod = %pod.id, ?change, "correcting the guest's clock");
        match timeout(sampling.deadline, sandbox.change_clock(change)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(pod = %pod.id, %error, "the clock stays as it is"),
            Err(_) => tracing::warn!(pod = %pod.id, "the clock's correction was not answered"),
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_are_spread_over_the_interval() {
        let interval = Duration::from_secs(10);
        assert_eq!(phase("0000ab", interval), Duration::ZERO);
        assert_eq!(phase("8000", interval), Duration::from_secs(5));
        assert!(phase("ffff", interval) < interval);
        assert_eq!(phase("web", interval), Duration::ZERO);
    }
}
