//! How large a pod's virtual machine is.

use bulkhead_cri_api::v1::{LinuxContainerResources, PodSandboxConfig};
use serde::{Deserialize, Serialize};

/// What the operator decided about sizes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sizing {
    /// vCPUs online from the start, for pods that say nothing about CPU.
    pub vcpus: u32,
    /// Most vCPUs of any pod.
    pub max_vcpus: u32,
    /// Memory of pods that say nothing about memory, bytes.
    pub memory_bytes: u64,
    /// Added to what a pod's containers may use: the guest's kernel, the agent, and
    /// the page cache that makes a container's limit usable to its last page.
    pub overhead_bytes: u64,
    /// Most memory of any pod, bytes.
    pub max_memory_bytes: u64,
}

impl Default for Sizing {
    fn default() -> Self {
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let cpus = u32::try_from(cpus).unwrap_or(u32::MAX);
        Self {
            vcpus: 1,
            max_vcpus: cpus.max(1),
            // Only touched pages cost the host, but the guest's own page tables
            // and `struct page`s (1.6 %) are touched from the start.
            memory_bytes: 512 << 20,
            overhead_bytes: 128 << 20,
            max_memory_bytes: 1 << 40,
        }
    }
}

/// The size of one virtual machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VmSize {
    /// vCPUs online from the start.
    pub boot_vcpus: u32,
    /// vCPUs that may be onlined later.
    pub max_vcpus: u32,
    /// Guest memory, bytes: a multiple of [`GRANULE`].
    pub memory_bytes: u64,
}

/// Guest memory comes in huge pages of this many bytes.
pub const GRANULE: u64 = 2 << 20;

impl Sizing {
    /// The size for a pod: from the sum of its containers' limits, where the client
    /// gave it, else the defaults.
    #[must_use]
    pub fn of(&self, config: &PodSandboxConfig) -> VmSize {
        let limits = config
            .linux
            .as_ref()
            .and_then(|linux| linux.resources.as_ref());
        let max_vcpus = self.max_vcpus.max(1);
        let vcpus = limits.and_then(whole_cpus).unwrap_or(self.vcpus);
        let memory = limits
            .and_then(|limits| u64::try_from(limits.memory_limit_in_bytes).ok())
            .filter(|limit| *limit > 0)
            .map_or(self.memory_bytes, |limit| {
                limit.saturating_add(self.overhead_bytes)
            });
        let memory = memory.min(self.max_memory_bytes).max(GRANULE);
        VmSize {
            boot_vcpus: vcpus.clamp(1, max_vcpus),
            max_vcpus,
            memory_bytes: memory.div_ceil(GRANULE) * GRANULE,
        }
    }
}

/// A CPU limit in whole CPUs, rounded up.
fn whole_cpus(limits: &LinuxContainerResources) -> Option<u32> {
    let milli = milli_cpus(limits)?;
    Some(u32::try_from(milli.div_ceil(1000)).unwrap_or(u32::MAX))
}

/// A CPU limit in thousandths of a CPU, rounded up; `None` without one.
#[must_use]
pub fn milli_cpus(limits: &LinuxContainerResources) -> Option<u64> {
    let positive = |value: i64| u64::try_from(value).ok().filter(|value| *value > 0);
    let quota = positive(limits.cpu_quota)?;
    let period = positive(limits.cpu_period)?;
    Some(quota.saturating_mul(1000).div_ceil(period))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_cri_api::v1::LinuxPodSandboxConfig;

    fn sizing() -> Sizing {
        Sizing {
            vcpus: 1,
            max_vcpus: 4,
            memory_bytes: 512 << 20,
            overhead_bytes: 128 << 20,
            max_memory_bytes: 8 << 30,
        }
    }

    fn size(memory: i64, quota: i64, period: i64) -> VmSize {
        let resources = LinuxContainerResources {
            memory_limit_in_bytes: memory,
            cpu_quota: quota,
            cpu_period: period,
            ..Default::default()
        };
        sizing().of(&PodSandboxConfig {
            linux: Some(LinuxPodSandboxConfig {
                resources: Some(resources),
                ..Default::default()
            }),
            ..Default::default()
        })
    }

    #[test]
    fn pods_without_limits_get_the_defaults() {
        let default = VmSize {
            boot_vcpus: 1,
            max_vcpus: 4,
            memory_bytes: 512 << 20,
        };
        assert_eq!(sizing().of(&PodSandboxConfig::default()), default);
        assert_eq!(size(0, 0, 0), default);
        // "No limit" in cgroup terms.
        assert_eq!(size(-1, -1, 100_000), default);
    }

    #[test]
    fn limits_are_rounded_up_and_bounded() {
        let it = size((1 << 30) + 1, 150_000, 100_000);
        assert_eq!(it.boot_vcpus, 2);
        assert_eq!(it.memory_bytes, (1 << 30) + (128 << 20) + GRANULE);
        let huge = size(i64::MAX, i64::MAX, 1);
        assert_eq!((huge.boot_vcpus, huge.memory_bytes), (4, 8 << 30));
    }
}
