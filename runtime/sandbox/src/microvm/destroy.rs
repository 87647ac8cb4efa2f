//! Removing every trace of a pod's VM, whatever state it is in.
//!
//! In this order, so that being cut off anywhere leaves something that the next
//! sweep begins from: the processes, the cgroup, the disk, and last the run
//! directory, by which the pod is found.

use std::{collections::BTreeSet, fs, io, time::Duration};

use tokio::time::timeout;
use tracing::{debug, warn};

use super::{MicroVm, MicroVmLauncher, state::StateFile};
use crate::{
    cgroup::Cgroups,
    error::{Error, ErrorKind, Result},
    log::file::read_bounded,
    paths::{PodPaths, check_id},
    process::Process,
};

/// Longest time for a killed process to be gone.
const DYING: Duration = Duration::from_secs(30);
/// What a guest is given beyond the pod's grace to power off.
const POWER_OFF: Duration = Duration::from_secs(3);

impl MicroVmLauncher {
    /// Removes everything that may be left of a pod.
    pub(super) async fn sweep(&self, pod_id: &str) -> Result<()> {
        let paths = self.paths(pod_id)?;
        self.kill_recorded(&paths).await?;
        let (launcher, pod_id) = (self.clone(), pod_id.to_owned());
        let task = tokio::task::spawn_blocking(move || launcher.remove_files(&pod_id, &paths));
        task.await.map_err(|e| {
            Error::new(ErrorKind::Internal, "removing a pod's files was cut off").caused_by(e)
        })?
    }

    /// Kills the VMM by the pid in the pod's state, where that is still it.
    async fn kill_recorded(&self, paths: &PodPaths) -> Result<()> {
        let Ok(state) = StateFile::load(&paths.state()) else {
            return Ok(()); // not started, or found by its cgroup alone
        };
        let (pid, ticks) = (state.get().pid, state.get().pid_start_ticks);
        match Process::find(pid, ticks) {
            Ok(process) => kill(&process).await,
            Err(e) => {
                debug!(pid, "the recorded VMM is gone: {e}");
                Ok(())
            }
        }
    }

    fn remove_files(&self, pod_id: &str, paths: &PodPaths) -> Result<()> {
        if let Some(cgroups) = &self.cgroups {
            let mut names = vec![Cgroups::name(None, &self.config.cgroup_parent, pod_id)?];
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
            cgroups.remove_if_empty(&self.config.cgroup_parent);
        }
        let gone = |result: io::Result<()>, what: &std::path::Path| match result {
            Err(e) if e.kind() != io::ErrorKind::NotFound => Err(Error::new(
                ErrorKind::Internal,
                format!("cannot remove {}", what.display()),
            )
            .caused_by(e)),
            _ => Ok(()),
        };
        let scratch = self.scratch_path(pod_id);
        gone(fs::remove_file(&scratch), &scratch)?;
        gone(fs::remove_dir_all(paths.dir()), paths.dir())
    }

    /// Ids of all pods that have left a run directory, a cgroup or a disk.
    pub(super) async fn find_leftovers(&self) -> Result<Vec<String>> {
        let launcher = self.clone();
        let task = tokio::task::spawn_blocking(move || launcher.scan());
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
        for (dir, suffix) in [
            (&self.config.run_dir, ""),
            (&self.config.scratch_dir, ".scratch"),
        ] {
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
            for id in cgroups.children(&self.config.cgroup_parent) {
                add(&id);
            }
        }
        Ok(ids.into_iter().collect())
    }
}

/// Kills a process and waits until it is gone.
async fn kill(process: &Process) -> Result<()> {
    let failed = |what: &str| {
        Error::new(
            ErrorKind::Internal,
            format!("cannot {what} VMM process {}", process.pid()),
        )
    };
    process.kill().map_err(|e| failed("kill").caused_by(e))?;
    if timeout(DYING, process.gone()).await.is_err() {
        return Err(failed("see the end of"));
    }
    Ok(())
}

impl MicroVm {
    /// Ends the VM: by asking the guest, then the VMM, then the kernel.
    pub(super) async fn end(&self, grace: Duration) -> Result<()> {
        let asked = !grace.is_zero() && self.agent.shutdown(grace).await.is_ok();
        let patience = if asked {
            grace + POWER_OFF
        } else {
            Duration::ZERO
        };
        if !self.has_ended_within(patience).await
            && (self.control.stop().await.is_err()
                || !self.has_ended_within(Duration::from_secs(1)).await)
        {
            kill(&self.process).await?;
        }
        if self.has_ended_within(DYING).await {
            Ok(())
        } else {
            Err(Error::new(
                ErrorKind::Internal,
                format!("VMM process {} does not end", self.process.pid()),
            ))
        }
    }

    async fn has_ended_within(&self, patience: Duration) -> bool {
        let mut exited = self.exited.clone();
        let ended = exited.wait_for(Option::is_some);
        matches!(timeout(patience, ended).await, Ok(Ok(_)))
    }
}
