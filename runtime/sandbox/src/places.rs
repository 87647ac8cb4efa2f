//! Both places behind one launcher.

use std::sync::Arc;

use async_trait::async_trait;

use crate::{
    HostLauncher, Launcher, MicroVmLauncher, Sandbox,
    error::Result,
    spec::{PlaceKind, SandboxRecord, SandboxSpec},
};

/// Starts pods where their specification wants them. Both launchers share one site,
/// so what a pod leaves is found and removed without asking where it ran.
#[derive(Clone, Debug)]
pub struct Places {
    microvm: MicroVmLauncher,
    host: HostLauncher,
}

impl Places {
    /// Both places. Their run directories, scratch directories and cgroups must be
    /// the same.
    #[must_use]
    pub fn new(microvm: MicroVmLauncher, host: HostLauncher) -> Self {
        Self { microvm, host }
    }
}

#[async_trait]
impl Launcher for Places {
    async fn launch(&self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>> {
        match spec.host {
            None => self.microvm.launch(spec).await,
            Some(_) => self.host.launch(spec).await,
        }
    }

    async fn adopt(&self, record: &SandboxRecord) -> Result<Arc<dyn Sandbox>> {
        match record.place {
            PlaceKind::MicroVm => self.microvm.adopt(record).await,
            PlaceKind::Host => self.host.adopt(record).await,
        }
    }

    async fn destroy(&self, pod_id: &str) -> Result<()> {
        self.host.destroy(pod_id).await
    }

    async fn leftovers(&self) -> Result<Vec<String>> {
        self.host.leftovers().await
    }
}
