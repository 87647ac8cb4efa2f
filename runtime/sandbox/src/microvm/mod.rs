//! A pod in a virtual machine of its own.
//!
//! * `launch`: from a specification to a guest whose agent is configured.
//! * `adopt`: finding a running one again after a daemon restart.
//! * `monitor`: noticing its end.
//! * `timings`: where a start's time went; pure.

mod adopt;
mod launch;
mod monitor;
mod timings;

use std::{
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use serde_json::{Map, Value, json};

use crate::{
    Launcher, Sandbox,
    config::{MicroVmConfig, ScratchDisks},
    error::{Error, ErrorKind, Result},
    pod::{Place, disks::open_blob, site::Site},
    spec::{SandboxRecord, SandboxSpec},
    vmm::control::VmmControl,
};

/// Starts microVMs.
#[derive(Clone)]
pub struct MicroVmLauncher {
    config: Arc<MicroVmConfig>,
    scratch: Arc<dyn ScratchDisks>,
    initramfs: PathBuf,
    site: Site,
}

impl std::fmt::Debug for MicroVmLauncher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MicroVmLauncher")
            .field("config", &self.config)
            .field("initramfs", &self.initramfs)
            .finish_non_exhaustive()
    }
}

impl MicroVmLauncher {
    /// A launcher with these settings; builds the guest's initramfs where it is
    /// not there yet. Blocking.
    ///
    /// # Errors
    /// When the VMM, the agent or the kernel is missing, or a directory cannot
    /// be made.
    pub fn new(mut config: MicroVmConfig, scratch: Arc<dyn ScratchDisks>) -> Result<Self> {
        // The VMM is started in another directory than the daemon's.
        for path in [
            &mut config.cache_dir,
            &mut config.vmm,
            &mut config.agent,
            &mut config.kernel,
        ] {
            if let Ok(absolute) = std::path::absolute(&*path) {
                *path = absolute;
            }
        }
        for (what, path) in [("VMM", &config.vmm), ("guest kernel", &config.kernel)] {
            if !path.is_file() {
                return Err(Error::new(
                    ErrorKind::FailedPrecondition,
                    format!("the {what} is missing: {} is no file", path.display()),
                ));
            }
        }
        let initramfs = crate::initramfs::cached(&config.agent, &config.cache_dir)
            .map_err(|e| Error::new(ErrorKind::FailedPrecondition, e.to_string()))?;
        let site = Site::new(
            &config.run_dir,
            &config.scratch_dir,
            config.cgroup_root.as_deref(),
            &config.cgroup_parent,
        )?;
        Ok(Self {
            config: Arc::new(config),
            scratch,
            initramfs,
            site,
        })
    }
}

#[async_trait]
impl Launcher for MicroVmLauncher {
    async fn launch(&self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>> {
        let sandbox = self.launch_microvm(spec).await?;
        Ok(sandbox)
    }

    async fn adopt(&self, record: &SandboxRecord) -> Result<Arc<dyn Sandbox>> {
        let sandbox = self.adopt_microvm(record).await?;
        Ok(sandbox)
    }

    async fn destroy(&self, pod_id: &str) -> Result<()> {
        self.site.sweep(pod_id).await
    }

    async fn leftovers(&self) -> Result<Vec<String>> {
        self.site.find_leftovers().await
    }
}

/// A virtual machine as the place of a pod.
#[derive(Debug)]
pub struct MicroVm {
    control: VmmControl,
    vmm_pid: u32,
}

#[async_trait]
impl Place for MicroVm {
    const OWN_MACHINE: bool = true;

    async fn add_disk(&self, serial: &str, blob: &Path) -> Result<()> {
        let layer = open_blob(blob)?;
        self.control.add_disk(serial, true, layer.as_fd()).await
    }

    async fn remove_disk(&self, serial: &str) -> Result<()> {
        self.control.remove_disk(serial).await
    }

    async fn stop(&self) -> Result<()> {
        self.control.stop().await
    }

    async fn facts(&self) -> Map<String, Value> {
        let mut facts = Map::new();
        facts.insert("vmmPid".to_owned(), self.vmm_pid.into());
        let (Ok(status), Ok(exits)) = tokio::join!(self.control.status(), self.control.exits())
        else {
            return facts;
        };
        let devices: Vec<Value> = status
            .devices
            .iter()
            .map(|device| {
                json!({
                    "name": device.name, "pci": device.pci, "activated": device.activated,
                    "failure": device.failure,
                })
            })
            .collect();
        let exits: Map<_, _> = exits
            .into_iter()
            .map(|(reason, n)| (reason, n.into()))
            .collect();
        facts.insert("vmmVersion".to_owned(), status.version.into());
        facts.insert("devices".to_owned(), devices.into());
        facts.insert("exits".to_owned(), exits.into());
        facts
    }
}
