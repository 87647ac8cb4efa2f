//! Finding a running VM again after a daemon restart.

use std::sync::Arc;

use tracing::{info, instrument};

use super::{MicroVm, MicroVmLauncher, monitor};
use crate::{
    error::Result,
    pod::{Parts, Pod, adopt},
    spec::SandboxRecord,
};

impl MicroVmLauncher {
    #[instrument(name = "adopt", skip_all, fields(pod = %record.pod_id))]
    pub(super) async fn adopt_microvm(&self, record: &SandboxRecord) -> Result<Arc<Pod<MicroVm>>> {
        let found = adopt::find(&self.site, record)?;
        let process = Arc::clone(&found.process);
        let exited = monitor::watch(record.pod_id.clone(), Arc::clone(&process), &found.paths);
        let started = found.state.get().started_unix_ns;
        let (agent, control) = self.connect(&found.paths, started, exited.clone());
        let facts = adopt::greet(&agent, record).await?;
        let sandbox = Arc::new(Pod::new(Parts {
            place: MicroVm {
                control,
                vmm_pid: record.pid,
            },
            record: record.clone(),
            paths: found.paths,
            process,
            agent,
            exited,
            timings: Vec::new(),
            facts,
            state: found.state,
            cgroup: self.site.cgroup_of(&record.cgroup),
        }));
        sandbox.settle().await?;
        info!(pid = record.pid, "took the pod's VM over");
        Ok(sandbox)
    }
}
