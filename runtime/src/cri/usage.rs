//! What was measured, in the interface's words.

use std::{sync::Arc, time::Duration};

use bulkhead_cri_api::v1;
use bulkhead_sandbox::figures::{self, ContainerStats};
use futures::future::join_all;

use super::Cri;
use crate::{
    pods::model::Pod,
    stats::Sample,
    store::{ContainerPhase, ContainerRecord, PodRecord},
};

/// Longest that an answer waits for the first sample of something new.
const PATIENCE: Duration = Duration::from_secs(3);

/// A pod, its containers, and the newest sample that has them.
pub(super) struct Measured {
    pub(super) pod: Arc<PodRecord>,
    pub(super) containers: Vec<Arc<ContainerRecord>>,
    pub(super) sample: Option<Arc<Sample>>,
}

/// Looks at pods, all at once. `wanted` says which of their containers matter: only
/// for a young one among them a sample is waited for.
pub(super) async fn measured(
    cri: &Cri,
    pods: Vec<Arc<Pod>>,
    wanted: impl Fn(&ContainerRecord) -> bool,
) -> Vec<Measured> {
    let model = cri.pods.model();
    let looks = pods.into_iter().map(|pod| {
        let containers: Vec<_> = model
            .containers_in(&pod.id)
            .iter()
            .map(|container| container.record())
            .filter(|it| is_measured(it) && wanted(it))
            .collect();
        async move {
            let sample = match pod.sandbox() {
                Some(_) => {
                    let enough = |sample: &Sample| containers.iter().all(|it| is_in(sample, it));
                    let sample = pod.meter.sufficient(PATIENCE, enough).await;
                    pod.meter.used();
                    sample
                }
                None => pod.meter.latest(),
            };
            Measured {
                pod: pod.record(),
                containers,
                sample,
            }
        }
    });
    join_all(looks).await
}

fn is_measured(container: &ContainerRecord) -> bool {
    container.phase.is_listed() && container.phase != ContainerPhase::Removing
}

/// Whether a sample says something of a container as it is now.
fn is_in(sample: &Sample, container: &ContainerRecord) -> bool {
    let since = container.created_at.max(container.started_at);
    !container.phase.is_alive()
        || (sample.stats.at_unix_ns >= since && sample.container(&container.id).is_some())
}

/// A container's statistics. What is not known is absent, not zero.
pub(super) fn container(
    cri: &Cri,
    record: &ContainerRecord,
    sample: Option<&Sample>,
) -> v1::ContainerStats {
    let figures = sample.and_then(|sample| {
        let stats = sample.container(&record.id)?;
        Some((sample, stats))
    });
    let attributes = v1::ContainerAttributes {
        id: record.id.clone(),
        metadata: record.config.metadata.clone(),
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
    };
    let Some((sample, stats)) = figures else {
        return v1::ContainerStats {
            attributes: Some(attributes),
            ..Default::default()
        };
    };
    let at = sample.stats.at_unix_ns;
    v1::ContainerStats {
        attributes: Some(attributes),
        cpu: Some(v1::CpuUsage {
            timestamp: at,
            usage_core_nano_seconds: number(stats.cpu.total_ns),
            usage_nano_cores: number(sample.container_nano_cores(&record.id)),
            psi: stats.cpu_pressure.map(psi),
        }),
        memory: Some(memory(at, stats)),
        writable_layer: Some(v1::FilesystemUsage {
            timestamp: at,
            fs_id: Some(v1::FilesystemIdentifier {
                mountpoint: cri.pods.settings().writable_fs.display().to_string(),
            }),
            used_bytes: number(stats.upper_bytes),
            inodes_used: number(stats.upper_inodes),
        }),
        // A guest has no swap to give.
        swap: Some(v1::SwapUsage {
            timestamp: at,
            swap_available_bytes: number(0),
            swap_usage_bytes: number(stats.memory.swap),
        }),
        io: Some(v1::IoUsage {
            timestamp: at,
            psi: stats.io_pressure.map(psi),
        }),
    }
}

fn memory(at: i64, stats: &ContainerStats) -> v1::MemoryUsage {
    let memory = &stats.memory;
    let limit = Some(memory.limit).filter(|limit| *limit > 0);
    v1::MemoryUsage {
        timestamp: at,
        working_set_bytes: number(memory.working_set),
        available_bytes: limit.and_then(|limit| number(limit.saturating_sub(memory.working_set))),
        usage_bytes: number(memory.usage),
        rss_bytes: number(memory.rss),
        page_faults: number(memory.page_faults),
        major_page_faults: number(memory.major_page_faults),
        psi: stats.memory_pressure.map(psi),
    }
}

/// A pod's statistics: CPU and memory are what it costs the host, its VMM and its
/// guest's kernel included; network and processes are the guest's.
pub(super) fn pod(cri: &Cri, it: &Measured) -> v1::PodSandboxStats {
    let attributes = v1::PodSandboxAttributes {
        id: it.pod.id.clone(),
        metadata: it.pod.config.metadata.clone(),
        labels: it.pod.config.labels.clone(),
        annotations: it.pod.config.annotations.clone(),
    };
    let sample = it.sample.as_deref();
    let containers = it
        .containers
        .iter()
        .map(|record| container(cri, record, sample))
        .collect();
    let linux = match sample {
        Some(sample) => whole(sample, containers),
        None => v1::LinuxPodSandboxStats {
            containers,
            ..Default::default()
        },
    };
    v1::PodSandboxStats {
        attributes: Some(attributes),
        linux: Some(linux),
        windows: None,
    }
}

fn whole(sample: &Sample, containers: Vec<v1::ContainerStats>) -> v1::LinuxPodSandboxStats {
    let stats = &sample.stats;
    let at = stats.at_unix_ns;
    let memory = match &stats.host {
        Some(host) => v1::MemoryUsage {
            timestamp: at,
            working_set_bytes: number(host.memory_working_set_bytes),
            usage_bytes: number(host.memory_usage_bytes),
            rss_bytes: number(host.memory_rss_bytes),
            page_faults: number(host.page_faults),
            major_page_faults: number(host.major_page_faults),
            ..Default::default()
        },
        None => {
            let guest = &stats.guest;
            let used = guest
                .mem_total_bytes
                .saturating_sub(guest.mem_available_bytes);
            v1::MemoryUsage {
                timestamp: at,
                working_set_bytes: number(used),
                usage_bytes: number(used),
                available_bytes: number(guest.mem_available_bytes),
                ..Default::default()
            }
        }
    };
    let interfaces: Vec<_> = stats.guest.interfaces.iter().map(interface).collect();
    v1::LinuxPodSandboxStats {
        cpu: Some(v1::CpuUsage {
            timestamp: at,
            usage_core_nano_seconds: number(sample.pod_cpu_ns()),
            usage_nano_cores: number(sample.pod_nano_cores()),
            psi: None,
        }),
        memory: Some(memory),
        network: Some(v1::NetworkUsage {
            timestamp: at,
            default_interface: interfaces.first().cloned(),
            interfaces,
        }),
        process: Some(v1::ProcessUsage {
            timestamp: at,
            process_count: number(stats.guest.processes),
        }),
        containers,
        io: None,
    }
}

fn interface(it: &figures::InterfaceStats) -> v1::NetworkInterfaceUsage {
    v1::NetworkInterfaceUsage {
        name: it.name.clone(),
        rx_bytes: number(it.rx.bytes),
        rx_errors: number(it.rx.errors),
        tx_bytes: number(it.tx.bytes),
        tx_errors: number(it.tx.errors),
    }
}

fn psi(pressure: figures::Pressure) -> v1::PsiStats {
    let data = |stall: figures::Stall| {
        let [avg10, avg60, avg300] = stall.averages;
        Some(v1::PsiData {
            // Nanoseconds, as cAdvisor gives them.
            total: stall.total_us.saturating_mul(1000),
            avg10,
            avg60,
            avg300,
        })
    };
    v1::PsiStats {
        full: data(pressure.full),
        some: data(pressure.some),
    }
}

fn number(value: u64) -> Option<v1::UInt64Value> {
    Some(v1::UInt64Value { value })
}
