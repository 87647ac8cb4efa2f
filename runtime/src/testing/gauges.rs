//! The figures of a stand-in guest: what a test turns, and what it was told.

use std::collections::BTreeMap;

use bulkhead_sandbox::{
    ClockChange, ContainerStats, Error, ErrorKind, Result, SandboxStats,
    figures::{CpuUse, GuestStats, InterfaceStats, MemoryUse, ProcessUse, Traffic},
};
use oci_spec::runtime::LinuxResources;

use crate::clock;

/// What a guest measures and has been told.
#[derive(Debug)]
pub struct Gauges {
    /// CPU time of each container, ns.
    pub cpu_ns: u64,
    /// Memory of each container, bytes.
    pub memory_bytes: u64,
    /// How far the guest's clock is ahead of the host's, ns.
    pub clock_ahead_ns: i64,
    /// CPUs that are on.
    pub online_cpus: u32,
    /// Samples taken so far.
    pub samples: u64,
    /// What the clock was told.
    pub clock_changes: Vec<ClockChange>,
    /// The last limits that each container was given.
    pub limits: BTreeMap<String, LinuxResources>,
}

impl Default for Gauges {
    fn default() -> Self {
        Self {
            cpu_ns: 1_000_000,
            memory_bytes: 1 << 20,
            clock_ahead_ns: 0,
            online_cpus: 1,
            samples: 0,
            clock_changes: Vec::new(),
            limits: BTreeMap::new(),
        }
    }
}

impl Gauges {
    pub(super) fn figures(&mut self, containers: Vec<String>) -> SandboxStats {
        self.samples += 1;
        let now = clock::now_ns();
        let traffic = Traffic {
            bytes: 1000,
            packets: 10,
            errors: 0,
            dropped: 0,
        };
        SandboxStats {
            at_unix_ns: now,
            round_trip_ns: 1000,
            guest_unix_ns: Some(now + self.clock_ahead_ns),
            containers: containers.into_iter().map(|id| self.of(id)).collect(),
            guest: GuestStats {
                cpu_usage_ns: self.cpu_ns,
                mem_total_bytes: 512 << 20,
                mem_available_bytes: 256 << 20,
                processes: 40,
                interfaces: vec![InterfaceStats {
                    name: "eth0".to_owned(),
                    rx: traffic,
                    tx: traffic,
                }],
                ..Default::default()
            },
            host: None,
        }
    }

    fn of(&self, container_id: String) -> ContainerStats {
        ContainerStats {
            container_id,
            cpu: CpuUse {
                total_ns: self.cpu_ns,
                ..Default::default()
            },
            memory: MemoryUse {
                usage: self.memory_bytes,
                working_set: self.memory_bytes,
                ..Default::default()
            },
            processes: ProcessUse {
                processes: 1,
                threads: 1,
                ..Default::default()
            },
            upper_bytes: 4096,
            upper_inodes: 2,
            ..Default::default()
        }
    }

    /// As a guest: no limit below what is held.
    pub(super) fn update(&mut self, id: &str, resources: &LinuxResources) -> Result<()> {
        let limit = resources.memory().as_ref().and_then(|it| it.limit());
        if limit.is_some_and(|limit| limit > 0 && limit.unsigned_abs() < self.memory_bytes) {
            return Err(Error::new(
                ErrorKind::FailedPrecondition,
                "the container holds more memory than that",
            ));
        }
        self.limits.insert(id.to_owned(), resources.clone());
        Ok(())
    }
}
