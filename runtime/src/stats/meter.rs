//! A pod's newest sample, and whoever waits for a newer one.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bulkhead_sandbox::{ContainerStats, SandboxStats};
use tokio::sync::{Notify, watch};

use super::rates::{Rates, Reading};
use crate::store::{ContainerRecord, PodRecord};

/// Samples taken for one who waits: the first may have been under way before.
const ATTEMPTS: u32 = 2;

/// The name of the pod's own rate, beside those of its containers: no id is empty.
const POD: &str = "";

/// What was measured at one moment.
#[derive(Debug)]
pub struct Sample {
    /// As the sandbox said it.
    pub stats: SandboxStats,
    nano_cores: BTreeMap<String, u64>,
}

impl Sample {
    /// A container's figures.
    #[must_use]
    pub fn container(&self, id: &str) -> Option<&ContainerStats> {
        self.stats
            .containers
            .iter()
            .find(|it| it.container_id == id)
    }

    /// What a container used of the CPUs until then, in billionths of one.
    #[must_use]
    pub fn container_nano_cores(&self, id: &str) -> u64 {
        self.nano_cores.get(id).copied().unwrap_or(0)
    }

    /// What the whole pod used.
    #[must_use]
    pub fn pod_nano_cores(&self) -> u64 {
        self.container_nano_cores(POD)
    }

    /// CPU time of the whole pod, ns: what it cost the host, where that is known.
    #[must_use]
    pub fn pod_cpu_ns(&self) -> u64 {
        pod_cpu_ns(&self.stats)
    }
}

fn pod_cpu_ns(stats: &SandboxStats) -> u64 {
    match &stats.host {
        Some(host) => host.cpu_usage_ns,
        None => stats.guest.cpu_usage_ns,
    }
}

/// Where a pod's figures are.
#[derive(Debug, Default)]
pub struct Meter {
    latest: watch::Sender<Option<Arc<Sample>>>,
    wanted: Notify,
    used: Notify,
    rates: Mutex<Rates>,
    /// The last attempt to take a sample failed.
    failing: AtomicBool,
}

impl Meter {
    /// The newest sample.
    #[must_use]
    pub fn latest(&self) -> Option<Arc<Sample>> {
        self.latest.borrow().clone()
    }

    /// The newest sample, once it satisfies `enough`: if the one there is does not,
    /// another is asked for and waited for as long as `patience`. A guest that did
    /// not answer last time is not waited for.
    pub async fn sufficient(
        &self,
        patience: Duration,
        enough: impl Fn(&Sample) -> bool,
    ) -> Option<Arc<Sample>> {
        let mut news = self.latest.subscribe();
        let waiting = async {
            for _ in 0..=ATTEMPTS {
                let satisfied = news.borrow_and_update().as_deref().is_some_and(&enough);
                if satisfied || self.failing.load(Ordering::Relaxed) {
                    return;
                }
                self.wanted.notify_one();
                if news.changed().await.is_err() {
                    return;
                }
            }
        };
        // Whatever came of it: the newest there is.
        let _ = tokio::time::timeout(patience, waiting).await;
        self.latest()
    }

    /// Says that the newest sample was used as it was, and has it replaced in the
    /// background: whoever asks twice sees change.
    pub fn used(&self) {
        self.used.notify_one();
    }

    /// Returns when somebody waits for a newer sample.
    pub(super) async fn wanted(&self) {
        self.wanted.notified().await;
    }

    /// Returns when the newest sample was used.
    pub(super) async fn was_used(&self) {
        self.used.notified().await;
    }

    /// Takes a sample in.
    pub(crate) fn take(
        &self,
        stats: SandboxStats,
        pod: &PodRecord,
        containers: &[Arc<ContainerRecord>],
    ) {
        let began = |id: &str| {
            let record = containers.iter().find(|it| it.id == id);
            record.map_or(pod.created_at, |it| it.started_at.max(it.created_at))
        };
        let readings = stats.containers.iter().map(|it| Reading {
            name: &it.container_id,
            began_ns: began(&it.container_id),
            cpu_ns: it.cpu.total_ns,
        });
        let whole = Reading {
            name: POD,
            began_ns: pod.created_at,
            cpu_ns: pod_cpu_ns(&stats),
        };
        let nano_cores = self
            .rates
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take(stats.at_unix_ns, readings.chain([whole]));
        self.failing.store(false, Ordering::Relaxed);
        self.latest
            .send_replace(Some(Arc::new(Sample { stats, nano_cores })));
    }

    /// Notes that none could be taken; returns whether that is news.
    pub(super) fn failed(&self) -> bool {
        let news = !self.failing.swap(true, Ordering::Relaxed);
        // Whoever waits need not wait any more.
        self.latest.send_modify(|_| {});
        news
    }
}
