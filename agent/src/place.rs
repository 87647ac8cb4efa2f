//! Where the agent runs: in a guest of its own, or beside others on a host.

use std::path::{Path, PathBuf};

/// Which namespaces are the pod's: the agent lives in them, and so do containers
/// that have none of their own. The others are the host's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Own {
    /// Mounts. Without them the agent mounts nothing itself.
    pub mounts: bool,
    /// Interfaces, routes, ports, sysctls below `net`.
    pub network: bool,
    /// System V and POSIX message queues, semaphores, shared memory.
    pub ipc: bool,
    /// Host name.
    pub uts: bool,
}

impl Own {
    /// All of them.
    pub const ALL: Self = Self {
        mounts: true,
        network: true,
        ipc: true,
        uts: true,
    };

    /// Parses names with commas between, as namespaces(7) has them: "mnt,net,ipc,uts".
    #[must_use]
    pub fn parse(names: &str) -> Option<Self> {
        let mut own = Self::default();
        for name in names.split(',') {
            match name {
                "mnt" => own.mounts = true,
                "net" => own.network = true,
                "ipc" => own.ipc = true,
                "uts" => own.uts = true,
                _ => return None,
            }
        }
        Some(own)
    }
}

/// A place has its own directories, and a set of things the agent may touch.
#[derive(Clone, Debug)]
pub struct Place {
    guest: bool,
    own: Own,
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
            own: Own::ALL,
            run: "/run/bulkhead".into(),
            layers: "/run/layers".into(),
            scratch: "/run/scratch".into(),
            cgroup: "/pod".into(),
        }
    }

    /// An ordinary process that keeps to `dir`, `scratch` and one cgroup.
    ///
    /// Layers are the directories `dir/layers/<serial>`; writable layers are kept
    /// in `scratch`. `cgroup` is relative to the cgroup v2 mount.
    #[must_use]
    pub fn host(dir: &Path, scratch: PathBuf, cgroup: &Path, own: Own) -> Self {
        Self {
            guest: false,
            own,
            run: dir.join("run"),
            layers: dir.join("layers"),
            scratch,
            cgroup: Path::new("/").join(cgroup.strip_prefix("/").unwrap_or(cgroup)),
        }
    }

    /// Whether the whole machine is the agent's.
    #[must_use]
    pub fn is_guest(&self) -> bool {
        self.guest
    }

    /// Which namespaces are the pod's.
    #[must_use]
    pub fn own(&self) -> Own {
        self.own
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

    /// The pod's /dev/shm: the host's where IPC is.
    #[must_use]
    pub fn shm(&self) -> PathBuf {
        if self.own.mounts && !self.own.ipc {
            return "/dev/shm".into();
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_are_named_as_the_kernel_names_them() {
        assert_eq!(Own::parse("mnt,net,ipc,uts"), Some(Own::ALL));
        let own = Own::parse("mnt").unwrap();
        assert!(own.mounts && !own.network && !own.ipc && !own.uts);
        assert_eq!(Own::parse("mnt,user"), None);
        assert_eq!(Own::parse(""), None);
    }

    #[test]
    fn shared_memory_goes_with_ipc() {
        let shm = |own| Place::host(Path::new("/p"), "/s".into(), Path::new("c"), own).shm();
        assert_eq!(shm(Own::default()), Path::new("/p/run/shm"));
        assert_eq!(shm(Own::ALL), Path::new("/p/run/shm"));
        let host_ipc = Own {
            ipc: false,
            ..Own::ALL
        };
        assert_eq!(shm(host_ipc), Path::new("/dev/shm"));
    }
}
