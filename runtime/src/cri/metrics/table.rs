//! Every metric: name, help, labels, and where its value is from.

use bulkhead_cri_api::v1::MetricType::{self, Counter, Gauge};
use bulkhead_sandbox::{
    ContainerStats, SandboxStats,
    figures::{InterfaceStats, IoUse, Pressure, Stall},
};

use crate::store::ContainerRecord;

/// A metric.
pub(super) struct Definition {
    pub(super) name: &'static str,
    pub(super) help: &'static str,
    pub(super) kind: MetricType,
    /// Labels beside those that all have.
    pub(super) labels: &'static [&'static str],
    pub(super) source: Source,
}

/// What a value is of.
pub(super) enum Source {
    Container(fn(&ContainerView<'_>, &mut Values)),
    Pod(fn(&SandboxStats, &mut Values)),
}

/// A container and what was measured of it.
pub(super) struct ContainerView<'a> {
    pub(super) record: &'a ContainerRecord,
    pub(super) stats: &'a ContainerStats,
    pub(super) sample: &'a SandboxStats,
}

/// Values of one metric, with what its own labels say.
#[derive(Default)]
pub(super) struct Values(Vec<(Vec<String>, u64)>);

impl Values {
    fn one(&mut self, value: u64) {
        self.0.push((Vec::new(), value));
    }

    fn labelled<const N: usize>(&mut self, labels: [String; N], value: u64) {
        self.0.push((labels.into(), value));
    }
}

impl IntoIterator for Values {
    type Item = (Vec<String>, u64);
    type IntoIter = std::vec::IntoIter<Self::Item>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

const NS_PER_S: u64 = 1_000_000_000;
const US_PER_S: u64 = 1_000_000;
/// What a cgroup has without a limit: kernel, cgroup-v2.rst, cpu.max.
const PERIOD_DEFAULT: i64 = 100_000;
/// What a container has that names none: the default of `cpu.shares`.
const SHARES_DEFAULT: i64 = 1024;

const fn container(
    kind: MetricType,
    name: &'static str,
    help: &'static str,
    of: fn(&ContainerView<'_>, &mut Values),
) -> Definition {
    labelled(kind, name, &[], help, of)
}

const fn labelled(
    kind: MetricType,
    name: &'static str,
    labels: &'static [&'static str],
    help: &'static str,
    of: fn(&ContainerView<'_>, &mut Values),
) -> Definition {
    Definition {
        name,
        help,
        kind,
        labels,
        source: Source::Container(of),
    }
}

const fn network(
    name: &'static str,
    help: &'static str,
    of: fn(&SandboxStats, &mut Values),
) -> Definition {
    Definition {
        name,
        help,
        kind: Counter,
        labels: &["interface"],
        source: Source::Pod(of),
    }
}

/// All of them, by name.
pub(super) const ALL: &[Definition] = &[
    labelled(
        Counter,
        "container_blkio_device_usage_total",
        &["device", "major", "minor", "operation"],
        "Cumulative bytes read from and written to block devices.",
        |it, out| {
            for io in &it.stats.io {
                for (operation, bytes) in [("Read", io.read_bytes), ("Write", io.written_bytes)] {
                    let numbers = [io.major.to_string(), io.minor.to_string()];
                    let [major, minor] = numbers;
                    out.labelled([device(io), major, minor, operation.to_owned()], bytes);
                }
            }
        },
    ),
    container(
        Counter,
        "container_cpu_cfs_periods_total",
        "Number of elapsed enforcement periods of the CPU limit.",
        |it, out| out.one(it.stats.cpu.periods),
    ),
    container(
        Counter,
        "container_cpu_cfs_throttled_periods_total",
        "Number of enforcement periods in which the container was throttled.",
        |it, out| out.one(it.stats.cpu.throttled_periods),
    ),
    container(
        Counter,
        "container_cpu_cfs_throttled_seconds_total",
        "Total time the container has been throttled.",
        |it, out| out.one(it.stats.cpu.throttled_ns / NS_PER_S),
    ),
    container(
        Counter,
        "container_cpu_system_seconds_total",
        "Cumulative CPU time in the kernel, seconds.",
        |it, out| out.one(it.stats.cpu.system_ns / NS_PER_S),
    ),
    labelled(
        Counter,
        "container_cpu_usage_seconds_total",
        &["cpu"],
        "Cumulative CPU time, seconds.",
        |it, out| out.labelled(["total".to_owned()], it.stats.cpu.total_ns / NS_PER_S),
    ),
    container(
        Counter,
        "container_cpu_user_seconds_total",
        "Cumulative CPU time in programs, seconds.",
        |it, out| out.one(it.stats.cpu.user_ns / NS_PER_S),
    ),
    container(
        Gauge,
        "container_file_descriptors",
        "Number of open file descriptors of the container.",
        |it, out| out.one(it.stats.processes.descriptors),
    ),
    labelled(
        Gauge,
        "container_fs_inodes_free",
        &["device"],
        "Number of free inodes of the file system of the writable layer.",
        |it, out| out.labelled([scratch()], it.sample.guest.scratch.free_inodes),
    ),
    labelled(
        Gauge,
        "container_fs_inodes_total",
        &["device"],
        "Number of inodes of the file system of the writable layer.",
        |it, out| out.labelled([scratch()], it.sample.guest.scratch.total_inodes),
    ),
    labelled(
        Gauge,
        "container_fs_limit_bytes",
        &["device"],
        "Bytes that the file system of the writable layer can hold.",
        |it, out| out.labelled([scratch()], it.sample.guest.scratch.total_bytes),
    ),
    labelled(
        Counter,
        "container_fs_reads_bytes_total",
        &["device"],
        "Cumulative bytes read.",
        |it, out| io(it, out, |io| io.read_bytes),
    ),
    labelled(
        Counter,
        "container_fs_reads_total",
        &["device"],
        "Cumulative reads completed.",
        |it, out| io(it, out, |io| io.reads),
    ),
    labelled(
        Gauge,
        "container_fs_usage_bytes",
        &["device"],
        "Bytes that the container's writable layer takes.",
        |it, out| out.labelled([scratch()], it.stats.upper_bytes),
    ),
    labelled(
        Counter,
        "container_fs_writes_bytes_total",
        &["device"],
        "Cumulative bytes written.",
        |it, out| io(it, out, |io| io.written_bytes),
    ),
    labelled(
        Counter,
        "container_fs_writes_total",
        &["device"],
        "Cumulative writes completed.",
        |it, out| io(it, out, |io| io.writes),
    ),
    // Containers get no huge pages, so there is nothing to count yet.
    labelled(
        Gauge,
        "container_hugetlb_max_usage_bytes",
        &["pagesize"],
        "Most huge pages that were ever used, bytes.",
        |_, _| {},
    ),
    labelled(
        Gauge,
        "container_hugetlb_usage_bytes",
        &["pagesize"],
        "Huge pages in use, bytes.",
        |_, _| {},
    ),
    container(
        Gauge,
        "container_last_seen",
        "Last time the container was measured, Unix time.",
        |it, out| out.one(seconds(it.sample.at_unix_ns)),
    ),
    container(
        Gauge,
        "container_memory_cache",
        "Page cache, bytes.",
        |it, out| out.one(it.stats.memory.cache),
    ),
    container(
        Counter,
        "container_memory_failcnt",
        "Number of times the memory limit was hit.",
        |it, out| out.one(it.stats.memory.limit_hits),
    ),
    labelled(
        Counter,
        "container_memory_failures_total",
        &["failure_type", "scope"],
        "Cumulative count of page faults.",
        |it, out| {
            let memory = &it.stats.memory;
            for (kind, count) in [
                ("pgfault", memory.page_faults),
                ("pgmajfault", memory.major_page_faults),
            ] {
                out.labelled([kind.to_owned(), "container".to_owned()], count);
            }
        },
    ),
    container(
        Gauge,
        "container_memory_kernel_usage",
        "Kernel memory for the container, bytes.",
        |it, out| out.one(it.stats.memory.kernel),
    ),
    container(
        Gauge,
        "container_memory_mapped_file",
        "Size of mapped files, bytes.",
        |it, out| out.one(it.stats.memory.mapped_file),
    ),
    container(
        Gauge,
        "container_memory_max_usage_bytes",
        "Most memory that was ever used, bytes.",
        |it, out| out.one(it.stats.memory.peak),
    ),
    container(
        Gauge,
        "container_memory_rss",
        "Anonymous memory, bytes.",
        |it, out| out.one(it.stats.memory.rss),
    ),
    container(
        Gauge,
        "container_memory_swap",
        "Swapped memory, bytes.",
        |it, out| out.one(it.stats.memory.swap),
    ),
    container(
        Gauge,
        "container_memory_usage_bytes",
        "Memory in use, caches included, bytes.",
        |it, out| out.one(it.stats.memory.usage),
    ),
    container(
        Gauge,
        "container_memory_working_set_bytes",
        "Memory in use less inactive file cache, bytes.",
        |it, out| out.one(it.stats.memory.working_set),
    ),
    network(
        "container_network_receive_bytes_total",
        "Cumulative bytes received.",
        |it, out| interfaces(it, out, |it| it.rx.bytes),
    ),
    network(
        "container_network_receive_errors_total",
        "Cumulative errors while receiving.",
        |it, out| interfaces(it, out, |it| it.rx.errors),
    ),
    network(
        "container_network_receive_packets_dropped_total",
        "Cumulative packets dropped while receiving.",
        |it, out| interfaces(it, out, |it| it.rx.dropped),
    ),
    network(
        "container_network_receive_packets_total",
        "Cumulative packets received.",
        |it, out| interfaces(it, out, |it| it.rx.packets),
    ),
    network(
        "container_network_transmit_bytes_total",
        "Cumulative bytes transmitted.",
        |it, out| interfaces(it, out, |it| it.tx.bytes),
    ),
    network(
        "container_network_transmit_errors_total",
        "Cumulative errors while transmitting.",
        |it, out| interfaces(it, out, |it| it.tx.errors),
    ),
    network(
        "container_network_transmit_packets_dropped_total",
        "Cumulative packets dropped while transmitting.",
        |it, out| interfaces(it, out, |it| it.tx.dropped),
    ),
    network(
        "container_network_transmit_packets_total",
        "Cumulative packets transmitted.",
        |it, out| interfaces(it, out, |it| it.tx.packets),
    ),
    container(
        Counter,
        "container_oom_events_total",
        "Number of processes killed for lack of memory.",
        |it, out| out.one(it.stats.memory.oom_kills),
    ),
    container(
        Counter,
        "container_pressure_cpu_stalled_seconds_total",
        "Time in which all tasks waited for a CPU, seconds.",
        |it, out| pressure(it.stats.cpu_pressure, out, |it| it.full),
    ),
    container(
        Counter,
        "container_pressure_cpu_waiting_seconds_total",
        "Time in which some task waited for a CPU, seconds.",
        |it, out| pressure(it.stats.cpu_pressure, out, |it| it.some),
    ),
    container(
        Counter,
        "container_pressure_io_stalled_seconds_total",
        "Time in which all tasks waited for a disk, seconds.",
        |it, out| pressure(it.stats.io_pressure, out, |it| it.full),
    ),
    container(
        Counter,
        "container_pressure_io_waiting_seconds_total",
        "Time in which some task waited for a disk, seconds.",
        |it, out| pressure(it.stats.io_pressure, out, |it| it.some),
    ),
    container(
        Counter,
        "container_pressure_memory_stalled_seconds_total",
        "Time in which all tasks waited for memory, seconds.",
        |it, out| pressure(it.stats.memory_pressure, out, |it| it.full),
    ),
    container(
        Counter,
        "container_pressure_memory_waiting_seconds_total",
        "Time in which some task waited for memory, seconds.",
        |it, out| pressure(it.stats.memory_pressure, out, |it| it.some),
    ),
    container(
        Gauge,
        "container_processes",
        "Number of processes.",
        |it, out| out.one(it.stats.processes.processes),
    ),
    container(
        Gauge,
        "container_sockets",
        "Number of open sockets.",
        |it, out| out.one(it.stats.processes.sockets),
    ),
    container(
        Gauge,
        "container_spec_cpu_period",
        "Period of the CPU limit, microseconds.",
        |it, out| {
            let period = it.record.limits().map_or(0, |it| it.cpu_period);
            out.one(given(period).unwrap_or(PERIOD_DEFAULT.unsigned_abs()));
        },
    ),
    container(
        Gauge,
        "container_spec_cpu_quota",
        "CPU time in each period, microseconds; absent without a limit.",
        |it, out| {
            let quota = it.record.limits().map_or(0, |it| it.cpu_quota);
            given(quota).into_iter().for_each(|quota| out.one(quota));
        },
    ),
    container(
        Gauge,
        "container_spec_cpu_shares",
        "CPU shares.",
        |it, out| {
            let shares = it.record.limits().map_or(0, |it| it.cpu_shares);
            out.one(given(shares).unwrap_or(SHARES_DEFAULT.unsigned_abs()));
        },
    ),
    container(
        Gauge,
        "container_spec_memory_limit_bytes",
        "Memory limit, bytes; 0 without one.",
        |it, out| out.one(it.stats.memory.limit),
    ),
    container(
        Gauge,
        "container_spec_memory_reservation_limit_bytes",
        "Memory that is protected, bytes; absent without a reservation.",
        |it, out| {
            let low = it
                .record
                .limits()
                .and_then(|it| it.unified.get("memory.low"));
            let low = low.and_then(|low| low.parse().ok());
            low.into_iter().for_each(|low| out.one(low));
        },
    ),
    // A guest has no swap: the limit is what was asked for.
    container(
        Gauge,
        "container_spec_memory_swap_limit_bytes",
        "Memory and swap limit, bytes; 0 without one.",
        |it, out| {
            let limit = it
                .record
                .limits()
                .map_or(0, |it| it.memory_swap_limit_in_bytes);
            out.one(given(limit).unwrap_or(0));
        },
    ),
    container(
        Gauge,
        "container_start_time_seconds",
        "Start time of the container, Unix time.",
        |it, out| out.one(seconds(it.record.started_at.max(it.record.created_at))),
    ),
    container(
        Gauge,
        "container_threads",
        "Number of threads.",
        |it, out| {
            out.one(it.stats.processes.threads);
        },
    ),
    container(
        Gauge,
        "container_threads_max",
        "Most threads allowed; 0 without a limit.",
        |it, out| out.one(it.stats.processes.threads_max),
    ),
    labelled(
        Gauge,
        "container_ulimits_soft",
        &["ulimit"],
        "Soft limits of the container's first process; absent once it has ended.",
        |it, out| {
            let files = it.stats.processes.max_open_files;
            files
                .into_iter()
                .for_each(|files| out.labelled(["max_open_files".to_owned()], files));
        },
    ),
];

fn given(value: i64) -> Option<u64> {
    u64::try_from(value).ok().filter(|value| *value > 0)
}

fn seconds(unix_ns: i64) -> u64 {
    u64::try_from(unix_ns).unwrap_or(0) / NS_PER_S
}

/// What the writable layers' disk is called.
fn scratch() -> String {
    "scratch".to_owned()
}

fn device(io: &IoUse) -> String {
    format!("{}:{}", io.major, io.minor)
}

fn io(it: &ContainerView<'_>, out: &mut Values, of: fn(&IoUse) -> u64) {
    for io in &it.stats.io {
        out.labelled([device(io)], of(io));
    }
}

fn interfaces(it: &SandboxStats, out: &mut Values, of: fn(&InterfaceStats) -> u64) {
    for interface in &it.guest.interfaces {
        out.labelled([interface.name.clone()], of(interface));
    }
}

fn pressure(of: Option<Pressure>, out: &mut Values, line: fn(&Pressure) -> Stall) {
    if let Some(pressure) = of {
        out.one(line(&pressure).total_us / US_PER_S);
    }
}
