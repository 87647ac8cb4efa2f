//! Makes guests in the world.

use std::sync::Arc;

use async_trait::async_trait;
use bulkhead_sandbox::{
    Error, ErrorKind, Launcher, PlaceKind, Result, Sandbox, SandboxRecord, SandboxSpec,
};

use super::{
    guest::{FakeSandbox, Vm},
    world::{Hand, World},
};

/// A [`Launcher`] of stand-in guests.
pub struct FakeLauncher {
    world: Hand,
}

impl FakeLauncher {
    /// A launcher in `world`.
    #[must_use]
    pub fn new(world: Arc<World>) -> Self {
        Self {
            world: Hand::new(world),
        }
    }

    async fn point(&self, name: &str, may_fail: bool) -> Result<()> {
        let failed = |message| Error::new(ErrorKind::Internal, message);
        self.world.point(name, may_fail).await.map_err(failed)
    }
}

#[async_trait]
impl Launcher for FakeLauncher {
    async fn launch(&self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>> {
        self.point("launch", true).await?;
        let place = match spec.host {
            Some(_) => PlaceKind::Host,
            None => PlaceKind::MicroVm,
        };
        let vm = Vm::new(&spec.pod_id, place);
        {
            let mut state = self.world.lock();
            let on_hosts_network = spec.host.as_ref().is_some_and(|host| host.netns.is_none());
            if !on_hosts_network && !state.taps.contains(&spec.pod_id) {
                return Err(Error::new(ErrorKind::Internal, "launched without a tap"));
            }
            state.files.insert(spec.pod_id.clone());
            state.vms.insert(spec.pod_id.clone(), Arc::clone(&vm));
            state.events.push(format!("launch {}", spec.pod_id));
        }
        // Booting takes a while.
        tokio::task::yield_now().await;
        self.point("launch done", false).await?;
        Ok(Arc::new(FakeSandbox {
            world: self.world.clone(),
            vm,
        }))
    }

    async fn adopt(&self, record: &SandboxRecord) -> Result<Arc<dyn Sandbox>> {
        self.point("adopt", false).await?;
        let vm = self.world.lock().vms.get(&record.pod_id).cloned();
        match vm {
            Some(vm) => Ok(Arc::new(FakeSandbox {
                world: self.world.clone(),
                vm,
            })),
            None => Err(Error::new(ErrorKind::NotFound, "its process is gone")),
        }
    }

    async fn destroy(&self, pod_id: &str) -> Result<()> {
        self.point("destroy", true).await?;
        let vm = {
            let mut state = self.world.lock();
            state.files.remove(pod_id);
            state.taps.remove(pod_id);
            state.vms.remove(pod_id)
        };
        if let Some(vm) = vm {
            vm.end("killed", "");
        }
        self.point("destroy done", false).await
    }

    async fn leftovers(&self) -> Result<Vec<String>> {
        self.point("leftovers", false).await?;
        Ok(self.world.lock().files.iter().cloned().collect())
    }
}
