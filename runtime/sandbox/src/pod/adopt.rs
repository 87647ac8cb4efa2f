//! Finding a running pod again after a daemon restart: what is the same for every
//! place.

use std::{collections::BTreeSet, io, sync::Arc, time::Duration};

use tracing::{info, warn};

use super::{AgentFacts, Place, Pod, site::Site, state::StateFile};
use crate::{
    agent::Agent,
    error::{Error, ErrorKind, Result},
    paths::PodPaths,
    process::Process,
    spec::SandboxRecord,
};

/// Longest time an adopted pod's agent may take to answer.
const ANSWER: Duration = Duration::from_secs(15);

/// What was found of a recorded pod.
pub(crate) struct Found {
    pub(crate) paths: PodPaths,
    pub(crate) process: Arc<Process>,
    pub(crate) state: StateFile,
}

/// Finds a recorded pod's process and files.
pub(crate) fn find(site: &Site, record: &SandboxRecord) -> Result<Found> {
    let paths = site.paths(&record.pod_id)?;
    let process = Process::find(record.pid, record.pid_start_ticks)
        .map_err(|e| gone(record, format!("process {}: {e}", record.pid)))?;
    let state = StateFile::load(&paths.state()).map_err(|e| match e.kind() {
        io::ErrorKind::NotFound => gone(record, "its run directory is gone".to_owned()),
        _ => gone(record, e.to_string()),
    })?;
    Ok(Found {
        paths,
        process: Arc::new(process),
        state,
    })
}

/// Asks its agent who it is; one whose start was cut off is none.
pub(crate) async fn greet(agent: &Agent, record: &SandboxRecord) -> Result<AgentFacts> {
    let answered = agent.info(ANSWER).await;
    let info = answered.map_err(|e| gone(record, format!("its agent does not answer: {e}")))?;
    if !info.configured {
        return Err(gone(record, "its start was cut off".to_owned()));
    }
    Ok(AgentFacts {
        version: info.agent_version,
        kernel_release: info.kernel_release,
    })
}

fn gone(record: &SandboxRecord, what: String) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("pod {} cannot be taken over: {what}", record.pod_id),
    )
}

impl<P: Place> Pod<P> {
    /// Brings what the state file says and what the agent has into agreement:
    /// containers whose making was cut off go, execs that lost their clients
    /// run on unheard.
    pub(crate) async fn settle(&self) -> Result<()> {
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
