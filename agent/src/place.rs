//! Where the agent runs: in a guest of its own, or beside others on a host.

use std::path::{Path, PathBuf};

/// A place has its own directories, and a set of things the agent may touch.
#[derive(Clone, Debug)]
pub struct Place {
    guest: bool,
    run: PathBuf,
    layers: PathBuf,
    scratch: PathBuf,
    cgroup: PathBuf,
}

/// Where cgroup v2 is mounted, in either place.
pub const CGROUP_MOUNT: &str = "/sys/fs/cgroup";

impl Place {
    /// PID 1 of a microVM: the machine belongs to the agent.
    #[must_use]
    pub fn guest() -> Self {
        Self {
            guest: true,
            run: "/run/bulkhead".into(),
            layers: "/run/layers".into(),
            scratch: "/run/scratch".into(),
            cgroup: "/pod".into(),
        }
    }

    /// An ordinary process that keeps to `dir` and to one cgroup.
    ///
    /// Layers are the directories `dir/layers/<serial>`; writable layers are kept
    /// in `dir/scratch`. `cgroup` is relative to the cgroup v2 mount.
    #[must_use]
    pub fn host(dir: &Path, cgroup: PathBuf) -> Self {
        Self {
            guest: false,
            run: dir.join("run"),
            layers: dir.join("layers"),
            scratch: dir.join("scratch"),
            cgroup: Path::new("/").join(cgroup.strip_prefix("/").unwrap_or(&cgroup)),
        }
    }

    /// Whether the whole machine is the agent's.
    #[must_use]
    pub fn is_guest(&self) -> bool {
        self.guest
    }

    /// One directory a layer, by serial.
    #[must_use]
    pub fn layers(&self) -> &Path {
        &self.layers
    }

    /// Where writable layers live.
    #[must_use]
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }

    /// Files that every container of the pod sees: hosts, resolv.conf, hostname.
    #[must_use]
    pub fn etc(&self) -> PathBuf {
        self.run.join("etc")
    }

    /// The pod's /dev/shm.
    #[must_use]
    pub fn shm(&self) -> PathBuf {
        self.run.join("shm")
    }

    /// A container's own directory: root mount point, bundle, sockets.
    #[must_use]
    pub fn container(&self, id: &str) -> PathBuf {
        self.run.join("containers").join(id)
    }

    /// A container's upper and work directories.
    #[must_use]
    pub fn upper(&self, id: &str) -> PathBuf {
        self.scratch.join(id)
    }

    /// The pod's cgroup, absolute from the root of the hierarchy.
    #[must_use]
    pub fn pod_cgroup(&self) -> &Path {
        &self.cgroup
    }
}
