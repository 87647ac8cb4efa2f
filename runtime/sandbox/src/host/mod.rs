//! A pod on the host itself: the agent as an ordinary process beside others, in
//! namespaces of the pod or of the host, over unix sockets.
//!
//! * `launch`: from a specification to an agent that is configured, and finding one
//!   again after a daemon restart.
//! * `monitor`: noticing its end.
//!
//! What the agent mounts, it mounts in its own namespace: with its last process,
//! mounts, loop devices and interfaces are gone, whatever ended it.

mod launch;
mod monitor;

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
};

use async_trait::async_trait;
use serde_json::{Map, Value};

use crate::{
    Launcher, Sandbox,
    config::HostConfig,
    error::{Error, ErrorKind, Result},
    pod::{
        Place,
        disks::open_blob,
        site::{Site, at},
    },
    spec::{SandboxRecord, SandboxSpec},
};

/// Starts host pods.
#[derive(Clone, Debug)]
pub struct HostLauncher {
    config: Arc<HostConfig>,
    site: Site,
}

impl HostLauncher {
    /// A launcher with these settings. Blocking.
    ///
    /// # Errors
    /// When the agent is missing, or a directory cannot be made.
    pub fn new(mut config: HostConfig) -> Result<Self> {
        if let Ok(absolute) = std::path::absolute(&config.agent) {
            config.agent = absolute;
        }
        if !config.agent.is_file() {
            return Err(Error::new(
                ErrorKind::FailedPrecondition,
                format!(
                    "the agent is missing: {} is no file",
                    config.agent.display()
                ),
            ));
        }
        let site = Site::new(
            &config.run_dir,
            &config.scratch_dir,
            Some(&config.cgroup_root),
            &config.cgroup_parent,
        )?;
        Ok(Self {
            config: Arc::new(config),
            site,
        })
    }
}

#[async_trait]
impl Launcher for HostLauncher {
    async fn launch(&self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>> {
        let sandbox = self.launch_on_host(spec).await?;
        Ok(sandbox)
    }

    async fn adopt(&self, record: &SandboxRecord) -> Result<Arc<dyn Sandbox>> {
        let sandbox = self.adopt_on_host(record).await?;
        Ok(sandbox)
    }

    async fn destroy(&self, pod_id: &str) -> Result<()> {
        self.site.sweep(pod_id).await
    }

    async fn leftovers(&self) -> Result<Vec<String>> {
        self.site.find_leftovers().await
    }
}

/// The host as the place of a pod.
#[derive(Debug)]
pub struct Host {
    /// Where the agent finds layers.
    blobs: PathBuf,
    agent_pid: u32,
}

#[async_trait]
impl Place for Host {
    const OWN_MACHINE: bool = false;

    async fn add_disk(&self, serial: &str, blob: &Path) -> Result<()> {
        open_blob(blob)?;
        let link = self.blobs.join(serial);
        remove(&link).map_err(at("replace", &link))?;
        symlink(blob, &link).map_err(at("make the link", &link))
    }

    async fn remove_disk(&self, serial: &str) -> Result<()> {
        let link = self.blobs.join(serial);
        remove(&link).map_err(at("remove", &link))
    }

    async fn stop(&self) -> Result<()> {
        Err(Error::new(
            ErrorKind::Unsupported,
            "the agent has been asked; there is nobody else to ask",
        ))
    }

    async fn facts(&self) -> Map<String, Value> {
        [("agentPid".to_owned(), self.agent_pid.into())]
            .into_iter()
            .collect()
    }
}

fn remove(link: &Path) -> io::Result<()> {
    match fs::remove_file(link) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => Err(e),
        _ => Ok(()),
    }
}
