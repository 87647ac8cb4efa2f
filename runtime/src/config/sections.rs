//! The keys: names, types, defaults, and the text that explains them.
//!
//! The documentation comments here are what `bulkhead config default` prints, so
//! they speak to the operator.

use std::path::PathBuf;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::pool::Pool;
use super::section::section;

/// How log lines are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

section! {
    /// Where things are. All paths are absolute.
    ["paths"] Paths {
        /// What outlives a reboot: images, records of pods, scratch disks.
        state_dir: PathBuf = "/var/lib/bulkhead".into();
        /// What doesn't: sockets and the files of running pods. On a tmpfs, and short:
        /// paths of sockets below it must fit into 107 bytes.
        run_dir: PathBuf = "/run/bulkhead".into();
        /// The socket that kubelet, crictl and this program connect to.
        socket: PathBuf = "/run/bulkhead/bulkhead.sock".into();
        /// The guest kernel: an uncompressed vmlinux.
        kernel: PathBuf = "/usr/libexec/bulkhead/vmlinux".into();
        /// The program that runs one pod's virtual machine.
        vmm: PathBuf = "/usr/libexec/bulkhead/bulkhead-vmm".into();
        /// The program that runs inside of it: static, for the guest kernel.
        agent: PathBuf = "/usr/libexec/bulkhead/bulkhead-agent".into();
    }
}

section! {
    /// The virtual machine of a pod that doesn't ask for more.
    ["vm"] Vm {
        /// vCPUs that are on when a pod starts. More are switched on when its containers'
        /// limits ask for them.
        vcpus_boot: u32 = 1;
        /// vCPUs that a pod can have at most. 0: as many as this machine has.
        vcpus_max: u32 = 0;
        /// Memory of a pod without memory limits, in MiB. Only what its guest touches costs
        /// anything.
        memory_mib: u32 = 512;
        /// Size of a pod's writable disk in GiB. Sparse: only what is written costs anything.
        scratch_gib: u32 = 10;
        /// Appended to the guest kernel's command line as it stands.
        kernel_cmdline_extra: String = String::new();
        /// How long a guest may take to be ready, in seconds.
        boot_timeout_seconds: u32 = 30;
        /// Each pod's VMM runs under a user id of its own, from this one on. No account and no
        /// container on this machine may use the range.
        vmm_uid_first: u32 = 1_900_000_000;
        /// How many user ids there are for that.
        vmm_uid_count: u32 = 65_536;
        /// cgroup below which pods are put that name no parent of their own.
        cgroup_parent: String = "bulkhead".to_owned();
        /// Gives guests a console, so that the last words of a kernel that dies are in the
        /// error. Costs boot time.
        console: bool = false;
    }
}

section! {
    /// The embedded network: what pods get where no CNI configuration is given.
    ["network"] Network {
        /// The bridge that pods are on. Made if it is missing.
        bridge: String = network_default().bridge;
        /// Networks that pods' addresses are from; "" for none of that family. The first
        /// address is the bridge's. A pod CIDR that kubelet sends takes their place.
        ipv4_pool: Pool<Ipv4Net> = Pool(network_default().ipv4_pool);
        /// The same for IPv6.
        ipv6_pool: Pool<Ipv6Net> = Pool(network_default().ipv6_pool);
        /// Largest packet in bytes, on the bridge and in the pods. At least 1280.
        mtu: u16 = network_default().mtu;
        /// Whether what leaves the pools takes this machine's address (NAT). Switch it off where
        /// the network around routes the pools.
        masquerade: bool = network_default().masquerade;
    }
}

section! {
    /// What the daemon tells on its standard error.
    ["logging"] Logging {
        /// error, warn, info, debug or trace; or several with commas between, such as
        /// "info,bulkhead_net=debug".
        level: String = "info".to_owned();
        /// The same for the pods' VMMs.
        vmm_level: String = "info".to_owned();
        /// "text" for people or "json" for machines: an object a line.
        format: Format = Format::Text;
    }
}

section! {
    /// What this node bears. Beyond it requests are refused with RESOURCE_EXHAUSTED.
    ["limits"] Limits {
        /// Pods at once.
        pods: u32 = 1000;
        /// Size of one image archive, uncompressed, in GiB.
        image_archive_gib: u32 = 256;
        /// Size of one image layer, uncompressed, in GiB.
        image_layer_gib: u32 = 64;
    }
}

/// The network's own defaults are the network crate's.
fn network_default() -> bulkhead_net::NetworkConfig {
    bulkhead_net::NetworkConfig::default()
}
