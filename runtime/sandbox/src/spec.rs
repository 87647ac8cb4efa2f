//! What sandboxes and containers are made from, and what is known of them.

use std::{collections::BTreeMap, net::IpAddr, os::fd::OwnedFd, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

/// Everything a sandbox is started from.
#[derive(Debug)]
pub struct SandboxSpec {
    /// The CRI pod sandbox id: 64 hex digits.
    pub pod_id: String,
    /// What is to be known of a pod that runs on the host; `None`: a microVM.
    pub host: Option<HostSpec>,
    /// The guest kernel, if not the launcher's.
    pub kernel: Option<PathBuf>,
    /// Appended to the guest kernel's command line in place of the launcher's.
    pub kernel_cmdline: Option<String>,
    /// vCPUs online at boot.
    pub boot_vcpus: u32,
    /// vCPUs described, which may be onlined later.
    pub max_vcpus: u32,
    /// Guest memory, bytes.
    pub memory_bytes: u64,
    /// Size of the pod's writable disk, bytes (sparse).
    pub scratch_bytes: u64,
    /// Host name inside.
    pub hostname: String,
    /// DNS configuration inside.
    pub dns: Dns,
    /// Network interfaces, with their taps.
    pub interfaces: Vec<Interface>,
    /// Sysctls set inside before any container starts.
    pub sysctls: BTreeMap<String, String>,
    /// cgroup v2 path beneath the cgroup root that everything of the pod lives
    /// in, e.g. "kubepods/pod…"; `None`: the runtime's own default.
    pub cgroup_parent: Option<String>,
    /// The uid and gid that the pod's VMM runs under.
    pub vmm_uid: u32,
}

/// Which namespaces of the host a host pod shares.
#[derive(Debug, Default)]
pub struct HostSpec {
    /// Its own network namespace, with the pod's interfaces in it; `None`: the
    /// host's, and the host's name with it.
    pub netns: Option<OwnedFd>,
    /// The host's IPC namespace and /dev/shm.
    pub share_ipc: bool,
}

/// resolv.conf inside the pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dns {
    /// Name servers, in order.
    pub servers: Vec<String>,
    /// Search domains.
    pub searches: Vec<String>,
    /// Resolver options.
    pub options: Vec<String>,
}

/// One network interface of the pod.
#[derive(Debug)]
pub struct Interface {
    /// The open tap (IFF_TAP | IFF_NO_PI | IFF_VNET_HDR) of a microVM.
    pub tap: Option<OwnedFd>,
    /// The MAC address inside.
    pub mac: [u8; 6],
    /// Name inside: "eth0".
    pub name: String,
    /// MTU, bytes.
    pub mtu: u32,
    /// Addresses with prefix length.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Routes inside: destination, prefix length, gateway (`None`: on-link).
    pub routes: Vec<(IpAddr, u8, Option<IpAddr>)>,
}

/// Where a pod runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PlaceKind {
    /// In a virtual machine of its own.
    #[default]
    MicroVm,
    /// On the host itself, as ordinary processes.
    Host,
}

/// What is persisted of a running sandbox, to find it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxRecord {
    /// The pod's id.
    pub pod_id: String,
    /// Where it runs. Records of earlier versions, which knew one place, don't say.
    #[serde(default)]
    pub place: PlaceKind,
    /// Process id of the VMM, or of the agent on the host.
    pub pid: u32,
    /// Start time of that process in clock ticks since boot (/proc/PID/stat field
    /// 22), so that a reused pid is not mistaken for it.
    pub pid_start_ticks: u64,
    /// cgroup of the pod beneath the cgroup root.
    pub cgroup: String,
}

/// Where a container's output goes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogTarget {
    /// The pod's log directory, absolute; the file is opened beneath it without
    /// following links. Empty: output is discarded after the followers had it.
    pub directory: PathBuf,
    /// Path beneath it: `<container>/<attempt>.log`.
    pub path: PathBuf,
}

/// Everything a container is created from.
#[derive(Clone, Debug)]
pub struct ContainerSpec {
    /// The CRI container id: 64 hex digits.
    pub container_id: String,
    /// EROFS blobs of the image's layers on the host, lowest first.
    pub layers: Vec<PathBuf>,
    /// OCI runtime specification; root path and cgroup path are the agent's.
    pub oci: oci_spec::runtime::Spec,
    /// "name", "uid", "uid:gid", …: resolved in the image, inside the guest.
    pub user: String,
    /// Overrides the group of `user`.
    pub gid: Option<u32>,
    /// Supplemental groups from the security context.
    pub supplemental_groups: Vec<u32>,
    /// Only those groups, none from the image.
    pub strict_groups: bool,
    /// Whether there is a stdin.
    pub stdin: bool,
    /// Whether stdin closes with its first writer.
    pub stdin_once: bool,
    /// PID namespace shared by the pod.
    pub share_pid_with_pod: bool,
    /// PID namespace of another container of the pod.
    pub share_pid_with: Option<String>,
    /// PID namespace of the host: host pods only.
    pub share_pid_with_host: bool,
    /// Read-only root file system.
    pub readonly_rootfs: bool,
    /// Environment variables that are not UTF-8, beside those in `oci`: "NAME=value".
    pub raw_env: Vec<Vec<u8>>,
    /// Where the output goes.
    pub log: LogTarget,
    /// Initial terminal size.
    pub window: Option<WindowSize>,
}

/// A further process in a container.
#[derive(Clone, Debug)]
pub struct ExecSpec {
    /// Container and exec id (not empty, chosen by the caller).
    pub process: ProcessId,
    /// The program and its arguments.
    pub args: Vec<String>,
    /// `None`: the container's own.
    pub env: Option<Vec<String>>,
    /// `None`: the container's own.
    pub cwd: Option<String>,
    /// Whether it has a terminal.
    pub terminal: bool,
    /// Whether it has a stdin.
    pub stdin: bool,
    /// Initial terminal size.
    pub window: Option<WindowSize>,
}

/// Names a process.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ProcessId {
    /// The container.
    pub container_id: String,
    /// Empty for the container's init.
    pub exec_id: String,
}

impl ProcessId {
    /// A container's init process.
    pub fn init(container_id: impl Into<String>) -> Self {
        Self {
            container_id: container_id.into(),
            exec_id: String::new(),
        }
    }
}

/// Output streams of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stream {
    /// Standard output; with a terminal, all output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Terminal size in characters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WindowSize {
    /// Rows.
    pub rows: u32,
    /// Columns.
    pub columns: u32,
}

/// A container has been made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Created {
    /// Who its program will run as.
    pub user: User,
}

/// A user as the guest resolved it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// Further groups.
    pub supplemental_groups: Vec<u32>,
}

/// How a guest's clock is to be moved, ns: forward when positive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClockChange {
    /// At once.
    Step(i64),
    /// Bit by bit, without a jump; at most half a second.
    Slew(i64),
}

/// A container's program has begun.
#[derive(Clone, Copy, Debug)]
pub struct Started {
    /// Unix time, ns, by the host's clock.
    pub at_unix_ns: i64,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Exit status, or 128 + signal.
    pub code: i32,
    /// Killed by the guest's out-of-memory killer.
    pub oom_killed: bool,
    /// Unix time, ns, by the host's clock.
    pub finished_unix_ns: i64,
    /// How much it had written. Of no use to a later daemon.
    #[serde(skip)]
    pub written: Written,
}

/// Lengths of a process's output streams at its end, bytes, as the guest tells
/// them; `None` where it does not know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Standard output.
    pub stdout: Option<u64>,
    /// Standard error.
    pub stderr: Option<u64>,
}

impl Written {
    /// Length of one stream.
    #[must_use]
    pub fn of(&self, stream: Stream) -> Option<u64> {
        match stream {
            Stream::Stdout => self.stdout,
            Stream::Stderr => self.stderr,
        }
    }
}

/// State of a process in the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProcessState {
    /// Created, its program not yet running.
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited(Exit),
}

/// A process as the guest reports it.
#[derive(Clone, Debug)]
pub struct Process {
    /// Which.
    pub id: ProcessId,
    /// In what state.
    pub state: ProcessState,
    /// When its program began, Unix ns; 0 if it has not.
    pub started_unix_ns: i64,
}

/// How a sandbox ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxExit {
    /// One of the VMM's exit reasons ("stopped", "guest-panic", …) or "killed".
    pub reason: String,
    /// For an operator: includes the console's last words after a panic.
    pub message: String,
    /// Unix time, ns.
    pub at_unix_ns: i64,
}

/// One phase of a start.
#[derive(Clone, Debug, Serialize)]
pub struct Timing {
    /// E.g. "vmm exec", "kvm setup", "guest boot", "configure".
    pub phase: String,
    /// How long it took.
    pub took: Duration,
}
