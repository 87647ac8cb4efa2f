//! Figures of containers and of the guest, read when asked.

pub mod parse;
pub mod upper;

use std::{fs, sync::Arc};

use bulkhead_agent_api::agent::{ContainerStats, GuestStats, InterfaceStats};

use crate::container::Container;
use upper::UpperUsage;

/// A container's figures. Files of the kernel that are missing count as zero.
#[must_use]
pub fn of_container(container: &Arc<Container>, upper: UpperUsage) -> ContainerStats {
    let cgroup = container.cgroup();
    let memory = cgroup.read("memory.stat");
    let usage = parse::number(&cgroup.read("memory.current"));
    let of = |key| parse::keyed(&memory, key).unwrap_or(0);
    ContainerStats {
        container_id: container.id().to_owned(),
        cpu_usage_ns: parse::keyed(&cgroup.read("cpu.stat"), "usage_usec").unwrap_or(0) * 1000,
        memory_usage_bytes: usage,
        // What the kubelet evicts by: usage less the cache that can go at once.
        memory_working_set_bytes: usage.saturating_sub(of("inactive_file")),
        memory_rss_bytes: of("anon"),
        page_faults: of("pgfault"),
        major_page_faults: of("pgmajfault"),
        pids: parse::number(&cgroup.read("pids.current")),
        upper_bytes: upper.bytes,
        upper_inodes: upper.inodes,
        oom_kills: cgroup.oom_kills(),
        memory_limit_bytes: parse::number(&cgroup.read("memory.max")),
        ..Default::default()
    }
}

/// The guest's figures.
#[must_use]
pub fn of_guest() -> GuestStats {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let memory = read("/proc/meminfo");
    let kib = |key| parse::keyed(&memory, key).unwrap_or(0) * 1024;
    let stat = read("/proc/stat");
    let loadavg = read("/proc/loadavg");
    GuestStats {
        cpu_usage_ns: parse::cpu_busy_ns(&stat),
        mem_total_bytes: kib("MemTotal:"),
        mem_available_bytes: kib("MemAvailable:"),
        interfaces: parse::net_dev(&read("/proc/net/dev"))
            .into_iter()
            .map(|device| InterfaceStats {
                name: device.name,
                rx_bytes: device.rx_bytes,
                rx_errors: device.rx_errors,
                tx_bytes: device.tx_bytes,
                tx_errors: device.tx_errors,
                ..Default::default()
            })
            .collect(),
        processes: parse::processes(&loadavg),
        ..Default::default()
    }
}
