//! How large a pod's virtual machine is, and its writable disk.

use bulkhead_cri_api::v1::{LinuxContainerResources, PodSandboxConfig};
use serde::{Deserialize, Serialize};

use super::quantity;
use crate::error::{Error, Result};

/// The annotation by which a pod asks for a smaller disk: a Kubernetes quantity of bytes.
/// The CRI has no field for a pod's limit of ephemeral storage.
pub const EPHEMERAL_STORAGE: &str = "io.bulkhead.ephemeral-storage";

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
    /// A pod's writable disk, bytes (sparse): of those that don't ask for a smaller one.
    pub scratch_bytes: u64,
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
            scratch_bytes: 10 << 30,
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
    /// Its writable disk, bytes; 0 in records of versions that didn't keep it.
    #[serde(default)]
    pub scratch_bytes: u64,
}

/// Guest memory comes in huge pages of this many bytes.
pub const GRANULE: u64 = 2 << 20;

/// Smallest writable disk, bytes: below it a file system has no room to speak of.
const SCRATCH_MIN: u64 = 64 << 20;

impl Sizing {
    /// The size for a pod: what [`Self::machine`] says, with the disk that it asks for.
    ///
    /// # Errors
    /// [`Kind::InvalidArgument`](crate::Kind::InvalidArgument) for an annotation
    /// [`EPHEMERAL_STORAGE`] that is no quantity, or more than there is.
    pub fn of(&self, config: &PodSandboxConfig) -> Result<VmSize> {
        let size = self.machine(config);
        let Some(asked) = config.annotations.get(EPHEMERAL_STORAGE) else {
            return Ok(size);
        };
        let refused = |why: String| {
            Error::invalid(format!("annotation {EPHEMERAL_STORAGE}={asked:?}: {why}"))
        };
        let bytes = quantity::bytes(asked).map_err(refused)?;
        if bytes > self.scratch_bytes {
            return Err(refused(format!(
                "more than the {} bytes that pods of this handler have (scratch_gib)",
                self.scratch_bytes
            )));
        }
        Ok(VmSize {
            scratch_bytes: size_class(bytes).min(self.scratch_bytes),
            ..size
        })
    }

    /// The size for a pod: from the sum of its containers' limits, where the client
    /// gave it, else the defaults.
    #[must_use]
    pub fn machine(&self, config: &PodSandboxConfig) -> VmSize {
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
            scratch_bytes: self.scratch_bytes,
        }
    }
}

/// The next size of which there are disks: eight to each doubling. Each needs a template
/// of its own, and tenants choose sizes.
fn size_class(bytes: u64) -> u64 {
    let bytes = bytes.max(SCRATCH_MIN);
    let step = (1 << bytes.ilog2()) / 8;
    bytes.checked_next_multiple_of(step).unwrap_or(u64::MAX)
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
            scratch_bytes: 10 << 30,
        }
    }

    fn disk(asked: &str) -> Result<u64> {
        let annotations = [(EPHEMERAL_STORAGE.to_owned(), asked.to_owned())].into();
        let config = PodSandboxConfig {
            annotations,
            ..Default::default()
        };
        sizing().of(&config).map(|size| size.scratch_bytes)
    }

    #[test]
    fn pods_may_ask_for_smaller_disks() {
        for (asked, bytes) in [
            ("5Gi", 5 << 30),
            ("10Gi", 10 << 30),
            ("1", 64 << 20),
            ("64Mi", 64 << 20),
            ("65Mi", 72 << 20),
            ("1G", 960 << 20),
            // The next size would be more than anybody may have.
            ("10400Mi", 0),
        ] {
            match disk(asked) {
                Ok(got) => assert_eq!(got, bytes, "{asked}"),
                Err(error) => {
                    assert_eq!(bytes, 0, "{asked}: {error}");
                    assert!(error.to_string().contains("scratch_gib"), "{error}");
                }
            }
        }
        let odd = Sizing {
            scratch_bytes: 17 << 30,
            ..sizing()
        };
        let annotations = [(EPHEMERAL_STORAGE.to_owned(), "16896Mi".to_owned())].into();
        let config = PodSandboxConfig {
            annotations,
            ..Default::default()
        };
        assert_eq!(
            odd.of(&config).unwrap().scratch_bytes,
            17 << 30,
            "no more than all"
        );
        for asked in ["", "five", "-1", "1.5Gi", "11Gi", "16Ei"] {
            let error = disk(asked).unwrap_err().to_string();
            assert!(error.contains(EPHEMERAL_STORAGE), "{error}");
        }
    }

    #[test]
    fn there_are_few_sizes_of_disks() {
        let mut sizes = std::collections::BTreeSet::new();
        let mut bytes: u64 = 1;
        while bytes < 16 << 40 {
            let class = size_class(bytes);
            assert!(class >= bytes && (class <= SCRATCH_MIN || class <= bytes + bytes / 8 + 1));
            assert_eq!(class % 4096, 0);
            sizes.insert(class);
            bytes += bytes / 97 + 1;
        }
        assert!(sizes.len() <= 18 * 8 + 1, "{}", sizes.len());
        assert_eq!(size_class(u64::MAX), u64::MAX);
    }

    fn size(memory: i64, quota: i64, period: i64) -> VmSize {
        let resources = LinuxContainerResources {
            memory_limit_in_bytes: memory,
            cpu_quota: quota,
            cpu_period: period,
            ..Default::default()
        };
        sizing().machine(&PodSandboxConfig {
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
            scratch_bytes: 10 << 30,
        };
        assert_eq!(sizing().of(&PodSandboxConfig::default()).unwrap(), default);
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
