//! What may be believed of an agent's figures.
//!
//! Numbers can be any: they harm nobody who computes with saturation. Names and
//! counts of things are bounded; see [`super::reply`].

use std::collections::BTreeSet;

use bulkhead_agent_api::agent;

use super::reply::broken;
use crate::{
    error::Result,
    figures::{
        ContainerStats, CpuUse, FilesystemStats, GuestStats, InterfaceStats, IoUse, MemoryUse,
        Pressure, ProcessUse, Stall, Traffic,
    },
    paths::check_id,
};

/// Most containers taken from one answer.
pub const MAX_CONTAINERS: usize = 1024;
/// Most disks of a container: a pod has at most 248.
pub const MAX_DISKS: usize = 256;
/// Most network interfaces of a guest.
pub const MAX_INTERFACES: usize = 64;
/// Longest name of an interface, bytes: the kernel's IFNAMSIZ with its NUL is 16.
pub const MAX_INTERFACE_NAME: usize = 15;

/// Resource use of the containers, of the guest, and its clock.
///
/// # Errors
/// For too many containers, ids that are none, or one id twice.
pub fn stats(
    response: &agent::StatsResponse,
) -> Result<(Vec<ContainerStats>, GuestStats, Option<i64>)> {
    if response.containers.len() > MAX_CONTAINERS {
        return Err(broken("more than 1024 containers"));
    }
    let mut seen = BTreeSet::new();
    let containers = response
        .containers
        .iter()
        .map(|stats| {
            check_id("container id", &stats.container_id).map_err(|_| broken("an id"))?;
            if !seen.insert(&stats.container_id) {
                return Err(broken("one container twice"));
            }
            Ok(container(stats))
        })
        .collect::<Result<_>>()?;
    let clock = Some(response.unix_ns).filter(|at| *at > 0);
    Ok((containers, guest(&response.guest), clock))
}

fn container(stats: &agent::ContainerStats) -> ContainerStats {
    let memory = &stats.memory;
    let process = &stats.process;
    ContainerStats {
        container_id: stats.container_id.clone(),
        cpu: CpuUse {
            total_ns: stats.cpu_usage_ns,
            user_ns: stats.cpu.user_ns,
            system_ns: stats.cpu.system_ns,
            periods: stats.cpu.periods,
            throttled_periods: stats.cpu.throttled_periods,
            throttled_ns: stats.cpu.throttled_ns,
        },
        memory: MemoryUse {
            usage: stats.memory_usage_bytes,
            working_set: stats.memory_working_set_bytes,
            rss: stats.memory_rss_bytes,
            cache: memory.cache_bytes,
            mapped_file: memory.mapped_file_bytes,
            kernel: memory.kernel_bytes,
            swap: memory.swap_bytes,
            peak: memory.peak_bytes,
            limit: stats.memory_limit_bytes,
            limit_hits: memory.limit_hits,
            oom_kills: stats.oom_kills,
            page_faults: stats.page_faults,
            major_page_faults: stats.major_page_faults,
        },
        processes: ProcessUse {
            processes: process.processes,
            threads: stats.pids,
            threads_max: process.threads_max,
            descriptors: process.file_descriptors,
            sockets: process.sockets,
            max_open_files: process.max_open_files,
        },
        io: stats.io.iter().take(MAX_DISKS).map(disk).collect(),
        upper_bytes: stats.upper_bytes,
        upper_inodes: stats.upper_inodes,
        cpu_pressure: stats.cpu_pressure.as_ref().map(pressure),
        memory_pressure: stats.memory_pressure.as_ref().map(pressure),
        io_pressure: stats.io_pressure.as_ref().map(pressure),
    }
}

fn disk(io: &agent::IoStats) -> IoUse {
    IoUse {
        major: io.major,
        minor: io.minor,
        read_bytes: io.read_bytes,
        written_bytes: io.written_bytes,
        reads: io.reads,
        writes: io.writes,
    }
}

fn pressure(pressure: &agent::Pressure) -> Pressure {
    let stall = |line: &agent::PressureLine| Stall {
        total_us: line.total_us,
        // Percentages; anything else is no number to pass on.
        averages: [line.avg10, line.avg60, line.avg300].map(|share| {
            if share.is_finite() {
                share.clamp(0.0, 100.0)
            } else {
                0.0
            }
        }),
    };
    Pressure {
        some: stall(&pressure.some),
        full: stall(&pressure.full),
    }
}

fn guest(stats: &agent::GuestStats) -> GuestStats {
    GuestStats {
        cpu_usage_ns: stats.cpu_usage_ns,
        mem_total_bytes: stats.mem_total_bytes,
        mem_available_bytes: stats.mem_available_bytes,
        processes: stats.processes,
        interfaces: stats
            .interfaces
            .iter()
            .filter(|it| is_interface_name(&it.name))
            .take(MAX_INTERFACES)
            .map(interface)
            .collect(),
        scratch: FilesystemStats {
            total_bytes: stats.scratch.total_bytes,
            free_bytes: stats.scratch.free_bytes,
            total_inodes: stats.scratch.total_inodes,
            free_inodes: stats.scratch.free_inodes,
        },
    }
}

/// The kernel allows more, but a name goes into labels and tables.
fn is_interface_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'/';
    !name.is_empty() && name.len() <= MAX_INTERFACE_NAME && name.bytes().all(plain)
}

fn interface(stats: &agent::InterfaceStats) -> InterfaceStats {
    InterfaceStats {
        name: stats.name.clone(),
        rx: Traffic {
            bytes: stats.rx_bytes,
            packets: stats.rx_packets,
            errors: stats.rx_errors,
            dropped: stats.rx_dropped,
        },
        tx: Traffic {
            bytes: stats.tx_bytes,
            packets: stats.tx_packets,
            errors: stats.tx_errors,
            dropped: stats.tx_dropped,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(id: &str) -> agent::ContainerStats {
        agent::ContainerStats {
            container_id: id.to_owned(),
            cpu_usage_ns: 7,
            ..Default::default()
        }
    }

    #[test]
    fn ids_and_counts_are_bounded() {
        let of = |containers| {
            stats(&agent::StatsResponse {
                containers,
                ..Default::default()
            })
        };
        let (containers, _, clock) = of(vec![named("a"), named("b")]).unwrap();
        assert_eq!((containers.len(), containers[0].cpu.total_ns), (2, 7));
        assert_eq!(clock, None);
        assert!(of(vec![named("../a")]).is_err());
        assert!(of(vec![named("a"), named("a")]).is_err());
        let many = (0..=MAX_CONTAINERS).map(|n| named(&format!("c{n}")));
        assert!(of(many.collect()).is_err());
    }

    #[test]
    fn names_and_shares_are_what_they_can_be() {
        let mut response = agent::StatsResponse::new();
        let named = |name: &str| agent::InterfaceStats {
            name: name.to_owned(),
            ..Default::default()
        };
        response.guest.mut_or_insert_default().interfaces =
            ["eth0", "", "a b", "sixteen-letters-", "\u{1b}x"]
                .map(named)
                .into();
        let mut container = agent::ContainerStats {
            container_id: "c".into(),
            ..Default::default()
        };
        let some = container
            .cpu_pressure
            .mut_or_insert_default()
            .some
            .mut_or_insert_default();
        (some.avg10, some.avg60, some.avg300) = (f64::NAN, 1e300, 12.5);
        response.containers.push(container);
        let (containers, guest, _) = stats(&response).unwrap();
        let names: Vec<_> = guest.interfaces.iter().map(|it| it.name.as_str()).collect();
        assert_eq!(names, ["eth0"]);
        let shares = containers[0].cpu_pressure.unwrap().some.averages;
        assert_eq!(shares, [0.0, 100.0, 12.5]);
    }
}
