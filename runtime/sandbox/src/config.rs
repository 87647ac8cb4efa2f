//! What the operator decides about pods' places.

use std::{fs::File, io, path::Path, path::PathBuf, time::Duration};

/// Settings of the microVM launcher. The defaults are those of an installed
/// package; every field can be set in the daemon's configuration.
#[derive(Clone, Debug)]
pub struct MicroVmConfig {
    /// Parent of the pods' run directories, on a file system that a reboot
    /// empties: "/run/bulkhead/pods".
    pub run_dir: PathBuf,
    /// Where built files are kept that can be built again: the initramfs.
    pub cache_dir: PathBuf,
    /// Where scratch disks are made. They are unlinked before the guest runs, so
    /// the directory looks empty; their space shows in `df`.
    pub scratch_dir: PathBuf,
    /// The `bulkhead-vmm` binary.
    pub vmm: PathBuf,
    /// The `bulkhead-agent` binary, static.
    pub agent: PathBuf,
    /// The guest kernel: an uncompressed vmlinux.
    pub kernel: PathBuf,
    /// Mount point of cgroup v2; `None` runs pods in the daemon's own cgroup,
    /// for development only: the pod's resources are then not accounted.
    pub cgroup_root: Option<PathBuf>,
    /// cgroup beneath the root for pods that name no parent of their own.
    pub cgroup_parent: String,
    /// Whether VMMs are confined (own uid, namespaces, chroot, seccomp).
    /// `false` for development only.
    pub confine: bool,
    /// Gives guests a console, for their kernel's last words.
    pub console: bool,
    /// Appended to the guest kernel's command line as it stands.
    pub extra_cmdline: String,
    /// Longest time from the VMM's start until the guest's agent is ready.
    pub ready_timeout: Duration,
    /// Longest time an agent or VMM call may take that waits for nothing.
    pub call_timeout: Duration,
    /// `RUST_LOG` of the VMM.
    pub vmm_log: String,
}

impl Default for MicroVmConfig {
    fn default() -> Self {
        Self {
            run_dir: "/run/bulkhead/pods".into(),
            cache_dir: "/var/lib/bulkhead/cache".into(),
            scratch_dir: "/var/lib/bulkhead/scratch".into(),
            vmm: "/usr/libexec/bulkhead/bulkhead-vmm".into(),
            agent: "/usr/libexec/bulkhead/bulkhead-agent".into(),
            kernel: "/usr/libexec/bulkhead/vmlinux".into(),
            cgroup_root: Some("/sys/fs/cgroup".into()),
            cgroup_parent: "bulkhead".into(),
            confine: true,
            console: false,
            extra_cmdline: String::new(),
            ready_timeout: Duration::from_secs(30),
            call_timeout: Duration::from_secs(60),
            vmm_log: "info".into(),
        }
    }
}

/// Settings of the launcher of host pods.
#[derive(Clone, Debug)]
pub struct HostConfig {
    /// Parent of the pods' run directories; the same as microVMs'.
    pub run_dir: PathBuf,
    /// Where writable layers are kept: on a file system that overlayfs takes as
    /// upper (not an overlay itself). The same as microVMs'.
    pub scratch_dir: PathBuf,
    /// The `bulkhead-agent` binary.
    pub agent: PathBuf,
    /// Mount point of cgroup v2.
    pub cgroup_root: PathBuf,
    /// cgroup beneath the root for pods that name no parent of their own.
    pub cgroup_parent: String,
    /// Longest time from the agent's start until it is ready.
    pub ready_timeout: Duration,
    /// Longest time an agent's call may take that waits for nothing.
    pub call_timeout: Duration,
    /// `BULKHEAD_LOG` of the agents.
    pub agent_log: String,
}

impl Default for HostConfig {
    fn default() -> Self {
        let microvm = MicroVmConfig::default();
        Self {
            run_dir: microvm.run_dir,
            scratch_dir: microvm.scratch_dir,
            agent: microvm.agent,
            cgroup_root: "/sys/fs/cgroup".into(),
            cgroup_parent: microvm.cgroup_parent,
            ready_timeout: microvm.ready_timeout,
            call_timeout: microvm.call_timeout,
            agent_log: "info".into(),
        }
    }
}

/// Makes the ext4 disks that containers write to.
///
/// Implemented for any `Fn(&Path, u64) -> io::Result<File>`.
pub trait ScratchDisks: Send + Sync {
    /// Makes a sparse ext4 disk of `bytes` at `path`, which does not exist yet,
    /// and opens it for reading and writing. The caller unlinks it. Blocking.
    ///
    /// # Errors
    /// Whatever failed; the caller removes what may be at `path`.
    fn make(&self, path: &Path, bytes: u64) -> io::Result<File>;
}

impl<F> ScratchDisks for F
where
    F: Fn(&Path, u64) -> io::Result<File> + Send + Sync,
{
    fn make(&self, path: &Path, bytes: u64) -> io::Result<File> {
        self(path, bytes)
    }
}
