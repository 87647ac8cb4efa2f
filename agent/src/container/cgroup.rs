//! Cgroup v2 directories of the pod and its containers.
//!
//! ```text
//!  <pod>                    controllers enabled for its children
//!  └── <container id>       limits, device filter, the init process
//!      └── exec-<exec id>   one exec's processes, so that they can be killed alone
//! ```
//!
//! An exec's cgroup has no controllers of its own, so a container may have
//! processes beside it (the "no internal processes" rule is about controllers).

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::process::{Pid, Signal};

use crate::{
    error::{Context as _, Result},
    place::CGROUP_MOUNT,
};

/// How long the kernel may take to empty a killed cgroup.
const EMPTIES_WITHIN: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);

/// A cgroup, by its path from the root of the hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cgroup {
    path: PathBuf,
}

impl Cgroup {
    /// Names a cgroup; nothing is made.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self {
            path: Path::new("/").join(path),
        }
    }

    /// One below this one.
    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        Self {
            path: self.path.join(name),
        }
    }

    /// Path from the root of the hierarchy, beginning with "/".
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Path in the file system.
    #[must_use]
    pub fn dir(&self) -> PathBuf {
        Path::new(CGROUP_MOUNT).join(self.path.strip_prefix("/").unwrap_or(&self.path))
    }

    /// Makes the cgroup, which must not exist.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn create(&self) -> Result<()> {
        let dir = self.dir();
        fs::create_dir(&dir).context(|| format!("make cgroup {}", dir.display()))
    }

    /// Makes the cgroup and its ancestors, and gives it every controller the
    /// kernel has, for its children.
    ///
    /// # Errors
    /// When the kernel refuses. A single controller that cannot be enabled is no
    /// error: a limit that needs it fails when it is set.
    pub fn create_parent(&self) -> Result<()> {
        let dir = self.dir();
        fs::create_dir_all(&dir).context(|| format!("make cgroup {}", dir.display()))?;
        let mut level = PathBuf::from(CGROUP_MOUNT);
        enable_controllers(&level);
        for name in self.path.strip_prefix("/").unwrap_or(&self.path) {
            level.push(name);
            enable_controllers(&level);
        }
        Ok(())
    }

    /// Kills every process in it and below, at once (cgroup.kill).
    pub fn kill(&self) {
        // Absent when the cgroup is gone already.
        let _ = fs::write(self.dir().join("cgroup.kill"), "1");
    }

    /// Sends a signal to every process in it and below.
    pub fn signal_all(&self, signal: Signal) {
        for pid in self.pids() {
            // A process may have ended since.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    /// Every process in it and below.
    #[must_use]
    pub fn pids(&self) -> Vec<Pid> {
        let mut pids = Vec::new();
        let mut todo = vec![self.dir()];
        while let Some(dir) = todo.pop() {
            let list = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
            pids.extend(
                list.lines()
                    .filter_map(|line| Pid::from_raw(line.parse().ok()?)),
            );
            todo.extend(children(&dir));
        }
        pids
    }

    /// The contents of one of its files; empty when there is none.
    #[must_use]
    pub fn read(&self, file: &str) -> String {
        fs::read_to_string(self.dir().join(file)).unwrap_or_default()
    }

    /// Processes that the kernel killed in it or below for lack of memory.
    #[must_use]
    pub fn oom_kills(&self) -> u64 {
        crate::stats::parse::keyed(&self.read("memory.events"), "oom_kill").unwrap_or(0)
    }

    /// Kills what is left in it and removes it with everything below.
    ///
    /// # Errors
    /// When processes remain that cannot be killed.
    pub async fn remove(&self) -> Result<()> {
        let dir = self.dir();
        let deadline = tokio::time::Instant::now() + EMPTIES_WITHIN;
        loop {
            self.kill();
            match remove_tree(&dir) {
                Ok(()) => return Ok(()),
                Err(why) if tokio::time::Instant::now() >= deadline => {
                    return Err(why).context(|| format!("remove cgroup {}", dir.display()));
                }
                Err(_busy) => tokio::time::sleep(POLL).await,
            }
        }
    }
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Vec::new();
    };
    entries
        .filter_map(io::Result::ok)
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    // The container may have made cgroups of its own: any depth, no recursion.
    let mut order = vec![dir.to_owned()];
    let mut next = 0;
    while let Some(dir) = order.get(next) {
        let below = children(dir);
        order.extend(below);
        next += 1;
    }
    for dir in order.iter().rev() {
        match fs::remove_dir(dir) {
            Err(why) if why.kind() != io::ErrorKind::NotFound => return Err(why),
            _ => {}
        }
    }
    Ok(())
}

fn enable_controllers(dir: &Path) {
    let available = fs::read_to_string(dir.join("cgroup.controllers")).unwrap_or_default();
    let control = dir.join("cgroup.subtree_control");
    let all: Vec<String> = available
        .split_ascii_whitespace()
        .map(|name| format!("+{name}"))
        .collect();
    if fs::write(&control, all.join(" ")).is_err() {
        for one in &all {
            if let Err(why) = fs::write(&control, one) {
                tracing::debug!("enable {one} in {}: {why}", dir.display());
            }
        }
    }
}
