//! Finding a running VM again after a daemon restart.

use std::{collections::BTreeSet, io, sync::Arc, time::Duration};

use tracing::{info, instrument, warn};

use super::{GuestFacts, MicroVm, MicroVmLauncher, monitor, state::StateFile};
use crate::{
    error::{Error, ErrorKind, Result},
    process::Process,
    spec::SandboxRecord,
};

/// Longest time an adopted guest's agent may take to answer.
const ANSWER: Duration = Duration::from_secs(15);

impl MicroVmLauncher {
    #[instrument(name = "adopt", skip_all, fields(pod = %record.pod_id))]
    pub(super) async fn adopt_microvm(&self, record: &SandboxRecord) -> Result<Arc<MicroVm>> {
        let gone = |what: String| {
            Error::new(
                ErrorKind::NotFound,
                format!("pod {} cannot be taken over: {what}", record.pod_id),
            )
        };
        let paths = self.paths(&record.pod_id)?;
        let process = Process::find(record.pid, record.pid_start_ticks)
            .map_err(|e| gone(format!("VMM process {}: {e}", record.pid)))?;
        let state = StateFile::load(&paths.state()).map_err(|e| match e.kind() {
            io::ErrorKind::NotFound => gone("its run directory is gone".to_owned()),
            _ => gone(e.to_string()),
        })?;
        let process = Arc::new(process);
        let exited = monitor::watch(record.pod_id.clone(), Arc::clone(&process), &paths);
        let (agent, control) = self.connect(&paths, state.get().started_unix_ns, exited.clone());
        let answered = agent.info(ANSWER).await;
        let guest = answered.map_err(|e| gone(format!("its agent does not answer: {e}")))?;
        if !guest.configured {
            return Err(gone("its start was cut off".to_owned()));
        }
        let sandbox = Arc::new(MicroVm {
            record: record.clone(),
            paths,
            process,
            control,
            agent,
            exited,
            timings: Vec::new(),
            guest: GuestFacts {
                agent_version: guest.agent_version,
                kernel_release: guest.kernel_release,
            },
            state: tokio::sync::Mutex::new(state),
            cgroup: self.cgroup_of(&record.cgroup),
            containers: Default::default(),
            execs: Default::default(),
        });
        sandbox.settle().await?;
        info!(pid = record.pid, "took the pod's VM over");
        Ok(sandbox)
    }
}

impl MicroVm {
    /// Brings what the state file says and what the guest has into agreement:
    /// containers whose making was cut off go, execs that lost their clients
    /// run on unheard.
    async fn settle(&self) -> Result<()> {
        let processes = self.agent.processes().await?;
        let known: BTreeSet<&str> = processes
            .iter()
            .filter(|process| process.id.exec_id.is_empty())
            .map(|process| process.id.container_id.as_str())
            .collect();
        let unmade: Vec<String> = {
            let state = self.state.lock().await;
            let recorded = state.get().containers.keys();
            recorded
                .filter(|id| !known.contains(id.as_str()))
                .cloned()
                .collect()
        };
        for id in unmade {
            info!(container = %id, "removing a container whose creation was cut off");
            if let Err(e) = self.unmake_container(&id).await {
                warn!(container = %id, "cannot remove it: {e}");
            }
        }
        for process in processes {
            if !process.id.exec_id.is_empty() {
                self.run_unheard(process.id);
            }
        }
        Ok(())
    }
}
