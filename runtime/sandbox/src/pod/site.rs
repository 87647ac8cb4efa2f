//! What a pod leaves on this host, and removing every trace of it, whatever state
//! it is in and wherever it ran.
//!
//! In this order, so that being cut off anywhere leaves something that the next
//! sweep begins from: the process, the cgroup, the writable layers, and last the
//! run directory, by which the pod is found.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::time::timeout;
use tracing::{debug, warn};

use super::state::StateFile;
use crate::{
    cgroup::{Cgroup, Cgroups},
    error::{Error, ErrorKind, Result},
    log::file::read_bounded,
    paths::{PodPaths, check_id},
    process::Process,
};

/// Longest time for a killed process to be gone.
pub(crate) const DYING: Duration = Duration::from_secs(30);
/// What follows the id in the name of a pod's writable disk or directory.
const SCRATCH: &str = ".scratch";

/// Where pods' files and cgroups are.
#[derive(Clone, Debug)]
pub struct Site {
    run_dir: PathBuf,
    scratch_dir: PathBuf,
    cgroups: Option<Cgroups>,
    cgroup_parent: String,
}

/// A run directory and a cgroup for a new pod.
#[derive(Debug)]
pub(crate) struct Plot {
    pub(crate) paths: PodPaths,
    /// Name of the cgroup beneath the cgroup root; empty without one.
    pub(crate) cgroup: String,
    /// The cgroup.
    pub(crate) group: Option<Cgroup>,
}

impl Site {
    /// Run directories in `run_dir`, writable layers in `scratch_dir`, cgroups below
    /// `cgroup_root`, those of pods that name no parent in `cgroup_parent`. Both
    /// directories are made where they are missing.
    ///
    /// # Errors
    /// When they can't be made.
    pub fn new(
        run_dir: &Path,
        scratch_dir: &Path,
        cgroup_root: Option<&Path>,
        cgroup_parent: &str,
    ) -> Result<Self> {
        let absolute = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        let site = Self {
            run_dir: absolute(run_dir),
            scratch_dir: absolute(scratch_dir),
            cgroups: cgroup_root.map(Cgroups::new),
            cgroup_parent: cgroup_parent.to_owned(),
        };
        for dir in [&site.run_dir, &site.scratch_dir] {
            make_private_dir(dir).map_err(|e| {
                Error::new(
                    ErrorKind::Internal,
                    format!("cannot make {}", dir.display()),
                )
                .caused_by(e)
            })?;
        }
        Ok(site)
    }

    pub(crate) fn paths(&self, pod_id: &str) -> Result<PodPaths> {
        PodPaths::new(&self.run_dir, pod_id)
    }

    /// The cgroup of a pod, by the name that is recorded of it.
    pub(crate) fn cgroup_of(&self, name: &str) -> Option<Cgroup> {
        let cgroups = self.cgroups.as_ref().filter(|_| !name.is_empty())?;
        cgroups.get(name).ok()
    }

    pub(crate) fn scratch_path(&self, pod_id: &str) -> PathBuf {
        self.scratch_dir.join(format!("{pod_id}{SCRATCH}"))
    }

    /// Refuses a pod of which anything is there.
    pub(crate) fn check_free(&self, pod_id: &str) -> Result<()> {
        if self.paths(pod_id)?.dir().exists() {
            return Err(Error::new(
                ErrorKind::AlreadyExists,
                format!("pod {pod_id} is there already, or something is left of it"),
            ));
        }
        Ok(())
    }

    /// Makes a pod's run directory and its cgroup. Blocking.
    pub(crate) fn prepare(&self, pod_id: &str, cgroup_parent: Option<&str>) -> Result<Plot> {
        let paths = self.paths(pod_id)?;
        make_dir(paths.dir(), 0o711).map_err(at("make", paths.dir()))?;
        make_dir(&paths.logs(), 0o700).map_err(at("make", &paths.logs()))?;
        let (mut cgroup, mut group) = (String::new(), None);
        if let Some(cgroups) = &self.cgroups {
            cgroup = Cgroups::name(cgroup_parent, &self.cgroup_parent, pod_id)?;
            fs::write(paths.cgroup(), &cgroup).map_err(at("write", &paths.cgroup()))?;
            group = Some(cgroups.create(&cgroup)?);
        }
        Ok(Plot {
            paths,
            cgroup,
            group,
        })
    }

    /// Makes a further cgroup of a pod, where there are cgroups. Blocking.
    pub(crate) fn make_cgroup(&self, name: &str) -> Result<Option<Cgroup>> {
        self.cgroups
            .as_ref()
            .map(|all| all.create(name))
            .transpose()
    }

    /// Removes everything that may be left of a pod.
    pub(crate) async fn sweep(&self, pod_id: &str) -> Result<()> {
        let paths = self.paths(pod_id)?;
        self.kill_recorded(&paths).await?;
        let (site, pod_id) = (self.clone(), pod_id.to_owned());
        let task = tokio::task::spawn_blocking(move || site.remove_files(&pod_id, &paths));
        task.await.map_err(|e| {
            Error::new(ErrorKind::Internal, "removing a pod's files was cut off").caused_by(e)
        })?
    }

    /// Kills the pod's process by the pid in its state, where that is still it.
    async fn kill_recorded(&self, paths: &PodPaths) -> Result<()> {
        let Ok(state) = StateFile::load(&paths.state()) else {
            return Ok(()); // not started, or found by its cgroup alone
        };
        let (pid, ticks) = (state.get().pid, state.get().pid_start_ticks);
        match Process::find(pid, ticks) {
            Ok(process) => kill(&process).await,
            Err(e) => {
                debug!(pid, "the recorded process is gone: {e}");
                Ok(())
            }
        }
    }

    fn remove_files(&self, pod_id: &str, paths: &PodPaths) -> Result<()> {
        if let Some(cgroups) = &self.cgroups {
            let mut names = vec![Cgroups::name(None, &self.cgroup_parent, pod_id)?];
            if let Ok(recorded) = read_bounded(&paths.cgroup(), 4096) {
                names.insert(0, String::from_utf8_lossy(&recorded).into_owned());
            }
            for name in names {
                match cgroups.get(&name) {
                    Ok(cgroup) => cgroup.destroy()?,
                    // Cut off while it was written: nothing was made by it then.
                    Err(e) => warn!(pod = %pod_id, "ignoring a recorded cgroup: {e}"),
                }
            }
            cgroups.remove_if_empty(&self.cgroup_parent);
        }
        let gone = |result: io::Result<()>, what: &Path| match result {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::new(
                ErrorKind::Internal,
                format!("cannot remove {}", what.display()),
            )
            .caused_by(e)),
            _ => Ok(()),
        };
        // A disk's file where the pod is a virtual machine, a directory on the host.
        let scratch = self.scratch_path(pod_id);
        let is_dir = fs::symlink_metadata(&scratch).is_ok_and(|meta| meta.is_dir());
        let removed = match is_dir {
            true => fs::remove_dir_all(&scratch),
            false => fs::remove_file(&scratch),
        };
        gone(removed, &scratch)?;
        gone(fs::remove_dir_all(paths.dir()), paths.dir())
    }

    /// Ids of all pods that have left a run directory, a cgroup or a disk.
    pub(crate) async fn find_leftovers(&self) -> Result<Vec<String>> {
        let site = self.clone();
        let task = tokio::task::spawn_blocking(move || site.scan());
        task.await.map_err(|e| {
            Error::new(ErrorKind::Internal, "looking for leftovers was cut off").caused_by(e)
        })?
    }

    fn scan(&self) -> Result<Vec<String>> {
        let mut ids = BTreeSet::new();
        let mut add = |id: &str| {
            if check_id("pod id", id).is_ok() {
                ids.insert(id.to_owned());
            }
        };
        for (dir, suffix) in [(&self.run_dir, ""), (&self.scratch_dir, SCRATCH)] {
            let entries = fs::read_dir(dir).map_err(|e| {
                Error::new(
                    ErrorKind::Internal,
                    format!("cannot list {}", dir.display()),
                )
                .caused_by(e)
            })?;
            for entry in entries.flatten() {
                let name = entry.file_name();
                if let Some(id) = name.to_str().and_then(|name| name.strip_suffix(suffix)) {
                    add(id);
                }
            }
        }
        if let Some(cgroups) = &self.cgroups {
            for id in cgroups.children(&self.cgroup_parent) {
                add(&id);
            }
        }
        Ok(ids.into_iter().collect())
    }
}

/// Kills a process and waits until it is gone.
pub(crate) async fn kill(process: &Process) -> Result<()> {
    let failed = |what: &str| {
        Error::new(
            ErrorKind::Internal,
            format!("cannot {what} the pod's process {}", process.pid()),
        )
    };
    process.kill().map_err(|e| failed("kill").caused_by(e))?;
    if timeout(DYING, process.gone()).await.is_err() {
        return Err(failed("see the end of"));
    }
    Ok(())
}

/// The error of an effect on a path.
pub(crate) fn at(what: &str, path: &Path) -> impl Fn(io::Error) -> Error + use<> {
    let text = format!("cannot {what} {}", path.display());
    move |e| Error::new(kind_of(&e), text.clone()).caused_by(e)
}

/// What kind of failure the system reports.
pub(crate) fn kind_of(e: &io::Error) -> ErrorKind {
    match e.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::OutOfMemory => {
            ErrorKind::ResourceExhausted
        }
        io::ErrorKind::AlreadyExists => ErrorKind::AlreadyExists,
        _ => ErrorKind::Internal,
    }
}

/// A directory of just this mode, which must not exist yet.
pub(crate) fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new().mode(mode).create(path)?;
    // Whatever the umask is.
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// A directory that others may pass through (to the parts that are theirs) and
/// not list.
fn make_private_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(dir)
}

/// A process's log, open for appending.
pub(crate) fn open_log(path: &Path) -> Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    fs::OpenOptions::new()
        .create(true)
        .append(true)
        .mode(0o600)
        .open(path)
        .map_err(at("open", path))
}
