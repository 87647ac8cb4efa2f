//! What sandboxes, containers and their parts have used.
//!
//! Counters grow from the container's or sandbox's beginning, unless an item says
//! otherwise; what there is no count of is 0 or `None`.

/// One look at a sandbox.
#[derive(Clone, Debug, Default)]
pub struct SandboxStats {
    /// When the answer was under way, Unix ns by the host's clock: the middle of
    /// the call.
    pub at_unix_ns: i64,
    /// How long the call took, ns.
    pub round_trip_ns: u64,
    /// The guest's clock in that moment, Unix ns; `None` where the host's is its.
    pub guest_unix_ns: Option<i64>,
    /// Its containers, also created and exited ones.
    pub containers: Vec<ContainerStats>,
    /// The guest as a whole.
    pub guest: GuestStats,
    /// What everything of the pod, the VMM included, costs the host; `None` where it
    /// has no cgroup of its own.
    pub host: Option<HostStats>,
}

/// Resource use of one container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ContainerStats {
    /// The container.
    pub container_id: String,
    /// CPU time.
    pub cpu: CpuUse,
    /// Memory.
    pub memory: MemoryUse,
    /// Processes and what they have open.
    pub processes: ProcessUse,
    /// Disks, one entry a device.
    pub io: Vec<IoUse>,
    /// Bytes in the writable layer.
    pub upper_bytes: u64,
    /// Inodes in the writable layer.
    pub upper_inodes: u64,
    /// Waiting for CPU.
    pub cpu_pressure: Option<Pressure>,
    /// Waiting for memory.
    pub memory_pressure: Option<Pressure>,
    /// Waiting for disks.
    pub io_pressure: Option<Pressure>,
}

/// CPU time, ns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CpuUse {
    /// All of it.
    pub total_ns: u64,
    /// In programs.
    pub user_ns: u64,
    /// In the kernel.
    pub system_ns: u64,
    /// Periods of the bandwidth limit that have passed.
    pub periods: u64,
    /// Those in which the container was held back.
    pub throttled_periods: u64,
    /// For how long it was.
    pub throttled_ns: u64,
}

/// Memory, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MemoryUse {
    /// Charged.
    pub usage: u64,
    /// Charged, less inactive file cache.
    pub working_set: u64,
    /// Anonymous.
    pub rss: u64,
    /// File cache.
    pub cache: u64,
    /// Of it mapped.
    pub mapped_file: u64,
    /// The kernel's own, for the container.
    pub kernel: u64,
    /// Swapped out.
    pub swap: u64,
    /// Most that was ever charged.
    pub peak: u64,
    /// Limit; 0: none.
    pub limit: u64,
    /// Times the limit was about to be exceeded.
    pub limit_hits: u64,
    /// Processes killed for lack of memory.
    pub oom_kills: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that needed a disk.
    pub major_page_faults: u64,
}

/// Processes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProcessUse {
    /// Processes.
    pub processes: u64,
    /// Threads, those of one-threaded processes included.
    pub threads: u64,
    /// Most of them; 0: no limit.
    pub threads_max: u64,
    /// Open descriptors.
    pub descriptors: u64,
    /// Those that are sockets.
    pub sockets: u64,
    /// Soft limit of open files of the init; `u64::MAX`: unlimited.
    pub max_open_files: Option<u64>,
}

/// Use of one disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IoUse {
    /// Device number in the guest.
    pub major: u32,
    /// Likewise.
    pub minor: u32,
    /// Bytes.
    pub read_bytes: u64,
    /// Bytes.
    pub written_bytes: u64,
    /// Requests.
    pub reads: u64,
    /// Requests.
    pub writes: u64,
}

/// Pressure stall information (kernel, Documentation/accounting/psi.rst).
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Pressure {
    /// Some tasks waited.
    pub some: Stall,
    /// All of them did.
    pub full: Stall,
}

/// One line of it.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stall {
    /// Microseconds so far.
    pub total_us: u64,
    /// Percent of the last 10, 60 and 300 seconds.
    pub averages: [f64; 3],
}

/// Resource use of the guest as a whole.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GuestStats {
    /// CPU time, ns.
    pub cpu_usage_ns: u64,
    /// Memory, bytes.
    pub mem_total_bytes: u64,
    /// Of it available, bytes.
    pub mem_available_bytes: u64,
    /// Processes and threads.
    pub processes: u64,
    /// Network interfaces but the loopback.
    pub interfaces: Vec<InterfaceStats>,
    /// The file system of the writable layers.
    pub scratch: FilesystemStats,
}

/// Counters of a network interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InterfaceStats {
    /// Name in the guest.
    pub name: String,
    /// What it received.
    pub rx: Traffic,
    /// What it sent.
    pub tx: Traffic,
}

/// One direction of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets that were wrong.
    pub errors: u64,
    /// Packets for which there was no room.
    pub dropped: u64,
}

/// A file system's room.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FilesystemStats {
    /// Bytes.
    pub total_bytes: u64,
    /// Bytes.
    pub free_bytes: u64,
    /// Inodes.
    pub total_inodes: u64,
    /// Inodes.
    pub free_inodes: u64,
}

/// What a pod costs the host: its cgroup's figures.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct HostStats {
    /// CPU time, ns.
    pub cpu_usage_ns: u64,
    /// Memory charged, bytes.
    pub memory_usage_bytes: u64,
    /// Memory charged less inactive file cache, bytes.
    pub memory_working_set_bytes: u64,
    /// Anonymous memory, bytes: the guest's, mostly.
    pub memory_rss_bytes: u64,
    /// Page faults.
    pub page_faults: u64,
    /// Page faults that needed a disk.
    pub major_page_faults: u64,
}
