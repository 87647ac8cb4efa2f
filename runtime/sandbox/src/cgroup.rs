//! The pods' cgroups on the host: cgroup v2 only.
//!
//! Each pod has one, with the VMM as its only process, or on the host with its agent
//! and its containers below it: beneath the parent that
//! kubelet names, so that kubelet's limits hold for everything the pod costs, or
//! beneath the runtime's own.

use std::{
    fs::{self, File, OpenOptions},
    io,
    os::unix::fs::OpenOptionsExt as _,
    path::{Component, Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use crate::{
    error::{Error, ErrorKind, Result},
    figures::HostStats,
};

/// Controllers that pods are accounted and limited by, where the host has them.
const CONTROLLERS: [&str; 5] = ["cpu", "memory", "pids", "io", "cpuset"];
/// Longest time to wait for killed processes to be gone from a cgroup.
const EMPTYING: Duration = Duration::from_secs(30);
/// Deepest nesting that is removed.
const MAX_DEPTH: usize = 32;

/// The cgroup hierarchy of the host, or a part of it.
#[derive(Clone, Debug)]
pub struct Cgroups {
    root: PathBuf,
}

impl Cgroups {
    /// The hierarchy mounted at `root`.
    #[must_use]
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    /// Names the cgroup of a pod: `<parent>/bulkhead-<id>`, or in the runtime's
    /// own `<default>/<id>`. Relative to the root, without slashes at its ends.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a parent that leads elsewhere.
    pub fn name(parent: Option<&str>, default: &str, pod_id: &str) -> Result<String> {
        let Some(parent) = parent
            .map(|p| p.trim_matches('/'))
            .filter(|p| !p.is_empty())
        else {
            return Ok(format!("{}/{pod_id}", default.trim_matches('/')));
        };
        check(parent)?;
        Ok(format!("{parent}/bulkhead-{pod_id}"))
    }

    /// Makes a cgroup, and its parents with the controllers enabled for it.
    ///
    /// # Errors
    /// When the kernel refuses; parents that were made stay.
    pub fn create(&self, name: &str) -> Result<Cgroup> {
        check(name)?;
        let mut result = self.try_create(name);
        // The last pod's removal may take the runtime's own parent away meanwhile.
        for _ in 0..8 {
            match result {
                Err((_, e)) if e.kind() == io::ErrorKind::NotFound => {
                    result = self.try_create(name);
                }
                _ => break,
            }
        }
        result.map_err(|(dir, e)| {
            Error::new(
                ErrorKind::Internal,
                format!("cannot make cgroup {}", dir.display()),
            )
            .caused_by(e)
        })
    }

    fn try_create(&self, name: &str) -> std::result::Result<Cgroup, (PathBuf, io::Error)> {
        let mut dir = self.root.clone();
        for part in Path::new(name) {
            enable_controllers(&dir);
            dir.push(part);
            match fs::create_dir(&dir) {
                Ok(()) => {}
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err((dir, e)),
            }
        }
        Ok(Cgroup { dir })
    }

    /// A cgroup by its name, which may not exist.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for a name that leads elsewhere.
    pub fn get(&self, name: &str) -> Result<Cgroup> {
        check(name)?;
        Ok(Cgroup {
            dir: self.root.join(name),
        })
    }

    /// Removes a cgroup if it has neither processes nor children; otherwise it
    /// stays. For the runtime's own parent, once the last pod is gone.
    pub fn remove_if_empty(&self, name: &str) {
        if check(name).is_ok() {
            let _ = fs::remove_dir(self.root.join(name));
        }
    }

    /// Names of the cgroups directly beneath `parent`.
    #[must_use]
    pub fn children(&self, parent: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.root.join(parent)) else {
            return Vec::new();
        };
        entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|t| t.is_dir()))
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect()
    }
}

/// Turns on what the children need; what the host lacks or forbids is left off,
/// and shows as missing accounting rather than as a pod that does not start.
fn enable_controllers(dir: &Path) {
    let read = |file: &str| fs::read_to_string(dir.join(file)).unwrap_or_default();
    let (available, enabled) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
    for controller in CONTROLLERS {
        let has = |list: &str| list.split_ascii_whitespace().any(|c| c == controller);
        if has(&available) && !has(&enabled) {
            let wanted = format!("+{controller}");
            if let Err(e) = fs::write(dir.join("cgroup.subtree_control"), wanted) {
                tracing::debug!(cgroup = %dir.display(), controller, "cannot enable: {e}");
            }
        }
    }
}

fn check(name: &str) -> Result<()> {
    let plain = |part| matches!(part, Component::Normal(_));
    if name.is_empty() || name.len() > 2048 || !Path::new(name).components().all(plain) {
        return Err(Error::new(
            ErrorKind::InvalidArgument,
            format!("cgroup {name:?} is not a path beneath the cgroup root"),
        ));
    }
    Ok(())
}

/// The number behind a key, in a file of "key number" lines; 0 without it.
fn keyed(text: &str, key: &str) -> u64 {
    let line = |line: &str| {
        let (found, number) = line.split_once(' ')?;
        (found == key).then(|| number.trim().parse().ok())?
    };
    text.lines().find_map(line).unwrap_or(0)
}

/// One cgroup.
#[derive(Clone, Debug)]
pub struct Cgroup {
    dir: PathBuf,
}

impl Cgroup {
    /// `cgroup.procs`, for a process to enter by writing `0`.
    ///
    /// # Errors
    /// When the cgroup is gone.
    pub fn procs(&self) -> Result<File> {
        let path = self.dir.join("cgroup.procs");
        OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_CLOEXEC)
            .open(&path)
            .map_err(|e| {
                Error::new(
                    ErrorKind::Internal,
                    format!("cannot open {}", path.display()),
                )
                .caused_by(e)
            })
    }

    /// What everything in it has used; zero where a file is missing. Blocking, though
    /// the kernel answers from memory.
    #[must_use]
    pub fn stats(&self) -> HostStats {
        let read = |file: &str| fs::read_to_string(self.dir.join(file)).unwrap_or_default();
        let (cpu, memory) = (read("cpu.stat"), read("memory.stat"));
        let usage = read("memory.current").trim().parse().unwrap_or(0);
        HostStats {
            cpu_usage_ns: keyed(&cpu, "usage_usec").saturating_mul(1000),
            memory_usage_bytes: usage,
            memory_working_set_bytes: usage.saturating_sub(keyed(&memory, "inactive_file")),
            memory_rss_bytes: keyed(&memory, "anon"),
            page_faults: keyed(&memory, "pgfault"),
            major_page_faults: keyed(&memory, "pgmajfault"),
        }
    }

    fn kill(&self) -> io::Result<()> {
        // cgroup.kill (Linux 5.14) is the one way that no fork escapes.
        match fs::write(self.dir.join("cgroup.kill"), "1") {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }

    /// Kills everything in it and its descendants, and waits until they are gone.
    /// Blocking. A missing one is no error.
    ///
    /// # Errors
    /// When the kernel refuses, or processes do not die.
    pub fn empty(&self) -> io::Result<()> {
        self.kill()?;
        let deadline = Instant::now() + EMPTYING;
        while fs::read_to_string(self.dir.join("cgroup.events"))
            .is_ok_and(|events| keyed(&events, "populated") != 0)
        {
            if Instant::now() >= deadline {
                return Err(io::Error::from(io::ErrorKind::TimedOut));
            }
            thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    /// Kills everything in it and its descendants, waits until they are gone,
    /// and removes it with its descendants. Blocking. A missing one is no error.
    ///
    /// # Errors
    /// When processes do not die, or the kernel refuses.
    pub fn destroy(&self) -> Result<()> {
        if !self.dir.exists() {
            return Ok(());
        }
        let failed = |what: &str, e: io::Error| {
            Error::new(
                ErrorKind::Internal,
                format!("cannot {what} cgroup {}", self.dir.display()),
            )
            .caused_by(e)
        };
        self.kill()
            .map_err(|e| failed("kill the processes in", e))?;
        let deadline = Instant::now() + EMPTYING;
        let mut pause = Duration::from_millis(1);
        loop {
            match remove_tree(&self.dir, 0) {
                Ok(()) => return Ok(()),
                // Killed processes leave a moment later.
                Err(e) if Instant::now() >= deadline => return Err(failed("remove", e)),
                Err(_) => thread::sleep(pause),
            }
            pause = (pause * 2).min(Duration::from_millis(50));
        }
    }
}

fn remove_tree(dir: &Path, depth: usize) -> io::Result<()> {
    if depth >= MAX_DEPTH {
        return Err(io::Error::other("cgroups are nested too deeply"));
    }
    match fs::read_dir(dir) {
        Ok(entries) => {
            for entry in entries.flatten() {
                if entry.file_type().is_ok_and(|t| t.is_dir()) {
                    remove_tree(&entry.path(), depth + 1)?;
                }
            }
        }
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(e) => return Err(e),
    }
    match fs::remove_dir(dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_live_beneath_their_parent_or_our_own() {
        let name = |parent| Cgroups::name(parent, "bulkhead", "p1");
        assert_eq!(name(None).unwrap(), "bulkhead/p1");
        assert_eq!(name(Some("/")).unwrap(), "bulkhead/p1");
        assert_eq!(
            name(Some("/kubepods/burstable/pod9/")).unwrap(),
            "kubepods/burstable/pod9/bulkhead-p1"
        );
        assert!(name(Some("../x")).is_err());
        assert!(name(Some("a/../../x")).is_err());
    }

    #[test]
    fn controllers_that_exist_are_enabled_on_the_way_down() {
        // A plain directory stands for the kernel's: what is written shows.
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("cgroup.controllers"), "cpu io rdma\n").unwrap();
        fs::write(dir.path().join("cgroup.subtree_control"), "cpu\n").unwrap();
        let cgroups = Cgroups::new(dir.path());
        cgroups.create("bulkhead/p1").unwrap();
        let control = fs::read_to_string(dir.path().join("cgroup.subtree_control")).unwrap();
        assert_eq!(control, "+io");
        assert_eq!(cgroups.children("bulkhead"), ["p1"]);
        cgroups.remove_if_empty("bulkhead");
        assert_eq!(cgroups.children("bulkhead"), ["p1"]);
        assert!(cgroups.children("none").is_empty());
        cgroups.create("bulkhead/p1").unwrap();
        fs::remove_dir(dir.path().join("bulkhead/p1")).unwrap();
        cgroups.remove_if_empty("bulkhead");
        assert!(!dir.path().join("bulkhead").exists());
    }

    #[test]
    fn a_missing_cgroup_is_destroyed_already() {
        let dir = tempfile::tempdir().unwrap();
        Cgroups::new(dir.path())
            .get("bulkhead/p1")
            .unwrap()
            .destroy()
            .unwrap();
    }

    #[test]
    fn figures_of_a_cgroup() {
        let dir = tempfile::tempdir().unwrap();
        let pod = dir.path().join("pod");
        fs::create_dir(&pod).unwrap();
        let cgroup = Cgroups::new(dir.path()).get("pod").unwrap();
        assert_eq!(cgroup.stats(), HostStats::default());
        fs::write(pod.join("cpu.stat"), "usage_usec 12\nuser_usec 4\n").unwrap();
        fs::write(pod.join("memory.current"), "9000\n").unwrap();
        fs::write(
            pod.join("memory.stat"),
            "anon 7000\ninactive_file 1000\npgfault 3\n",
        )
        .unwrap();
        let stats = cgroup.stats();
        assert_eq!(
            (stats.cpu_usage_ns, stats.memory_usage_bytes),
            (12_000, 9000)
        );
        assert_eq!(
            (stats.memory_working_set_bytes, stats.memory_rss_bytes),
            (8000, 7000)
        );
        assert_eq!((stats.page_faults, stats.major_page_faults), (3, 0));
    }

    #[test]
    fn removal_goes_from_the_leaves_up() {
        let dir = tempfile::tempdir().unwrap();
        let top = dir.path().join("p1");
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::create_dir_all(top.join("c")).unwrap();
        remove_tree(&top, 0).unwrap();
        assert!(!top.exists());
    }
}
