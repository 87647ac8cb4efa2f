//! Figures of containers and of the guest, read when asked.

mod open;
pub mod parse;
pub mod upper;

use std::{
    fs,
    path::Path,
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use bulkhead_agent_api::agent::{
    ContainerStats, CpuStats, FilesystemStats, GuestStats, InterfaceStats, IoStats, MemoryStats,
    Pressure, PressureLine, ProcessStats,
};
use protobuf::MessageField;

use crate::{
    container::{Container, cgroup::Cgroup},
    place::Place,
};
use upper::UpperUsage;

const NS_PER_US: u64 = 1000;

/// The clock, Unix ns.
#[must_use]
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
    })
}

/// A container's figures. Files of the kernel that are missing count as zero.
/// Blocking: it looks at every process's descriptors.
#[must_use]
pub fn of_container(container: &Arc<Container>, upper: UpperUsage) -> ContainerStats {
    let cgroup = container.cgroup();
    let memory = cgroup.read("memory.stat");
    let usage = parse::number(&cgroup.read("memory.current"));
    let of = |key| parse::keyed(&memory, key).unwrap_or(0);
    let cpu = cgroup.read("cpu.stat");
    let us = |key| {
        let us = parse::keyed(&cpu, key).unwrap_or(0);
        us.saturating_mul(NS_PER_US)
    };
    ContainerStats {
        container_id: container.id().to_owned(),
        cpu_usage_ns: us("usage_usec"),
        cpu: some(CpuStats {
            user_ns: us("user_usec"),
            system_ns: us("system_usec"),
            periods: parse::keyed(&cpu, "nr_periods").unwrap_or(0),
            throttled_periods: parse::keyed(&cpu, "nr_throttled").unwrap_or(0),
            throttled_ns: us("throttled_usec"),
            ..Default::default()
        }),
        memory_usage_bytes: usage,
        // What the kubelet evicts by: usage less the cache that can go at once.
        memory_working_set_bytes: usage.saturating_sub(of("inactive_file")),
        memory_rss_bytes: of("anon"),
        page_faults: of("pgfault"),
        major_page_faults: of("pgmajfault"),
        memory_limit_bytes: parse::number(&cgroup.read("memory.max")),
        memory: some(MemoryStats {
            cache_bytes: of("file"),
            mapped_file_bytes: of("file_mapped"),
            kernel_bytes: of("kernel"),
            swap_bytes: parse::number(&cgroup.read("memory.swap.current")),
            peak_bytes: parse::number(&cgroup.read("memory.peak")),
            limit_hits: parse::keyed(&cgroup.read("memory.events"), "max").unwrap_or(0),
            ..Default::default()
        }),
        oom_kills: cgroup.oom_kills(),
        pids: parse::number(&cgroup.read("pids.current")),
        process: some(processes(container)),
        upper_bytes: upper.bytes,
        upper_inodes: upper.inodes,
        io: io(cgroup),
        cpu_pressure: pressure(cgroup, "cpu.pressure"),
        memory_pressure: pressure(cgroup, "memory.pressure"),
        io_pressure: pressure(cgroup, "io.pressure"),
        ..Default::default()
    }
}

fn some<T>(message: T) -> MessageField<T> {
    MessageField::some(message)
}

fn processes(container: &Container) -> ProcessStats {
    let pids = container.cgroup().pids();
    let open = open::of(&pids);
    let limits = match container.init().exit() {
        None => {
            let pid = container.init().pid().as_raw_nonzero();
            fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default()
        }
        Some(_) => String::new(),
    };
    ProcessStats {
        processes: pids.len() as u64,
        threads_max: parse::number(&container.cgroup().read("pids.max")),
        file_descriptors: open.descriptors,
        sockets: open.sockets,
        max_open_files: parse::max_open_files(&limits),
        ..Default::default()
    }
}

fn io(cgroup: &Cgroup) -> Vec<IoStats> {
    let message = |disk: parse::Disk| IoStats {
        major: disk.device.0,
        minor: disk.device.1,
        read_bytes: disk.bytes[0],
        written_bytes: disk.bytes[1],
        reads: disk.requests[0],
        writes: disk.requests[1],
        ..Default::default()
    };
    let disks = parse::io_stat(&cgroup.read("io.stat"));
    disks.into_iter().map(message).collect()
}

/// Absent where the kernel doesn't account for pressure.
fn pressure(cgroup: &Cgroup, file: &str) -> MessageField<Pressure> {
    let text = cgroup.read(file);
    let line = |kind| {
        let stall = parse::pressure(&text, kind)?;
        let [avg10, avg60, avg300] = stall.averages;
        Some(PressureLine {
            total_us: stall.total_us,
            avg10,
            avg60,
            avg300,
            ..Default::default()
        })
    };
    match line("some") {
        None => MessageField::none(),
        stalled => some(Pressure {
            some: stalled.into(),
            full: line("full").into(),
            ..Default::default()
        }),
    }
}

/// The figures of the guest; of a host pod, those that are its own and the host's
/// memory.
#[must_use]
pub fn of_place(place: &Place) -> GuestStats {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let memory = read("/proc/meminfo");
    let kib = |key| parse::keyed(&memory, key).unwrap_or(0).saturating_mul(1024);
    let pod = Cgroup::at(place.pod_cgroup());
    let (cpu_usage_ns, processes) = if place.is_guest() {
        let processes = parse::processes(&read("/proc/loadavg"));
        (parse::cpu_busy_ns(&read("/proc/stat")), processes)
    } else {
        let cpu = parse::keyed(&pod.read("cpu.stat"), "usage_usec").unwrap_or(0);
        let processes = parse::number(&pod.read("pids.current"));
        (cpu.saturating_mul(NS_PER_US), processes)
    };
    // The host's interfaces are no pod's.
    let devices = match place.own().network {
        true => parse::net_dev(&read("/proc/self/net/dev")),
        false => Vec::new(),
    };
    GuestStats {
        cpu_usage_ns,
        mem_total_bytes: kib("MemTotal:"),
        mem_available_bytes: kib("MemAvailable:"),
        interfaces: devices.into_iter().map(interface).collect(),
        processes,
        scratch: filesystem(place.scratch()).into(),
        ..Default::default()
    }
}

fn interface(device: parse::Device) -> InterfaceStats {
    InterfaceStats {
        name: device.name,
        rx_bytes: device.rx.bytes,
        rx_packets: device.rx.packets,
        rx_errors: device.rx.errors,
        rx_dropped: device.rx.dropped,
        tx_bytes: device.tx.bytes,
        tx_packets: device.tx.packets,
        tx_errors: device.tx.errors,
        tx_dropped: device.tx.dropped,
        ..Default::default()
    }
}

fn filesystem(at: &Path) -> Option<FilesystemStats> {
    let stat = rustix::fs::statvfs(at).ok()?;
    Some(FilesystemStats {
        total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
        total_inodes: stat.f_files,
        free_inodes: stat.f_favail,
        ..Default::default()
    })
}
