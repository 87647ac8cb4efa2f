//! The keys: names, types, defaults, and the text that explains them.
//!
//! The documentation comments here are what `bulkhead config default` prints, so
//! they speak to the operator.

use std::net::SocketAddr;
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
        /// Size of a pod's writable disk in GiB. Sparse: only what is written costs anything,
        /// and what a pod deletes is given back. A pod's annotation
        /// io.bulkhead.ephemeral-storage (a quantity: "500Mi") asks for a smaller one.
        scratch_gib: u32 = 10;
        /// Appended to the guest kernel's command line as it stands.
        kernel_cmdline_extra: String = String::new();
        /// How long a guest may take to be ready, in seconds.
        boot_timeout_seconds: u32 = 30;
        /// How long a guest that is ready, or its VMM, may take to answer, in seconds.
        answer_timeout_seconds: u32 = 60;
        /// How many pods start at the same moment; others wait for their turn. 0: two for each
        /// CPU of this machine.
        starts_at_once: u32 = 0;
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
    /// Pods that may run on this machine itself, without a virtual machine, when they ask for
    /// one of its namespaces (hostNetwork, hostPID, hostIPC) or by their handler. Such a pod
    /// can do to this machine what its containers' privileges allow; others are refused.
    ["host_pods"] HostPods {
        /// Kubernetes namespaces whose pods may; "*" for all.
        allow_namespaces: Vec<String> = vec!["kube-system".to_owned()];
        /// Handlers whose pods may, whatever their namespace.
        allow_handlers: Vec<String> = Vec::new();
    }
}

section! {
    /// Registries that images are pulled from.
    ["registries"] Registries {
        /// Where mirrors, certificates and headers of registries are: hosts.toml files as
        /// containerd has them, in a directory for each registry. Empty: nowhere.
        hosts_dir: PathBuf = "/etc/bulkhead/certs.d".into();
        /// Credentials beside those that come with a request: a config.json as Docker has
        /// it, with its credential helpers. Empty: none.
        docker_config: PathBuf = PathBuf::new();
        /// Which images may be pulled, and which only with a signature: a file that says so
        /// (docs/images.md). Empty: all may.
        policy: PathBuf = PathBuf::new();
        /// No registry is asked: to pull an image succeeds when it was imported.
        offline: bool = false;
        /// Images that are pulled at the same time; others wait for their turn.
        pulls_at_once: u32 = 16;
        /// Layers of an image that are fetched at the same time.
        layers_at_once: u32 = 3;
        /// Layers that are fetched at the same time from one registry and its mirrors.
        downloads_at_once_per_registry: u32 = 6;
        /// The same of all registries.
        downloads_at_once: u32 = 12;
        /// A download that got nothing for this long, or less than 1 KiB a second, is made
        /// anew from where it broke off, in seconds.
        progress_timeout_seconds: u32 = 60;
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
    /// The streaming server: where kubelet is sent for exec, attach and port-forward.
    ["streaming"] Streaming {
        /// Where it listens; port 0 is any free one. Only kubelet connects to it, which is on
        /// this machine.
        address: SocketAddr = SocketAddr::from(([127, 0, 0, 1], 0));
        /// File with its certificate, and those that lead up to a known one, in PEM; "" for no
        /// TLS.
        tls_certificate: String = String::new();
        /// File with the certificate's key, in PEM; "" for no TLS.
        tls_key: String = String::new();
        /// How long a session may be silent in both directions before it is ended, in minutes.
        idle_minutes: u32 = 240;
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
    /// What the daemon shows to those who watch it.
    ["monitoring"] Monitoring {
        /// Address and port of an HTTP endpoint with Prometheus metrics (/metrics), health
        /// (/healthz) and state (/debug/state), such as "127.0.0.1:9464"; "" for none. It asks
        /// nobody who they are: keep it on loopback.
        listen: String = String::new();
        /// Collector that traces are sent to by OTLP over gRPC, such as
        /// "http://127.0.0.1:4317"; "" for none.
        otlp_endpoint: String = String::new();
        /// Calls that kubelet traces are traced. Of a million others, so many are, too.
        trace_per_million: u32 = 0;
    }
}

section! {
    /// How pods are measured.
    ["stats"] Stats {
        /// Time between two looks at a pod, in seconds. Statistics and metrics are answered from
        /// the last one.
        interval_seconds: u32 = 10;
        /// How long a guest may take to answer, in seconds.
        timeout_seconds: u32 = 5;
        /// How far a guest's clock may be from this machine's before it is corrected, in
        /// milliseconds.
        clock_tolerance_ms: u32 = 20;
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
        /// What all images may take on disk, in GiB; 0: whatever there is.
        images_gib: u32 = 0;
        /// What images leave free on their file system, in MiB.
        images_reserve_mib: u32 = 512;
    }
}

/// The network's own defaults are the network crate's.
fn network_default() -> bulkhead_net::NetworkConfig {
    bulkhead_net::NetworkConfig::default()
}
