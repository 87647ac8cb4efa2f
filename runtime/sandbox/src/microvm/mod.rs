//! A pod in a virtual machine of its own.
//!
//! * `launch`: from a specification to a guest whose agent is configured.
//! * `adopt`: finding a running one again after a daemon restart.
//! * `destroy`: removing every trace of one, whatever state it is in.
//! * `monitor`: noticing its end.
//! * [`disks`]: which layers are attached, and for whom; pure.
//! * `state`: what an adopting daemon must know, on disk.
//! * `containers`: creating, logging and removing containers.
//! * `processes`: execs, signals, streams, waiting.
//! * `requests`: what the agent is asked, from what the CRI layer says; pure.

mod adopt;
mod containers;
mod destroy;
pub mod disks;
mod launch;
mod monitor;
mod processes;
mod requests;
mod state;
mod timings;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};

use crate::{
    Launcher, Sandbox,
    agent::Agent,
    cgroup::{Cgroup, Cgroups},
    config::{MicroVmConfig, ScratchDisks},
    error::{Error, ErrorKind, Result},
    figures::{HostStats, SandboxStats},
    paths::PodPaths,
    process::Process,
    spec::{
        ClockChange, ContainerSpec, Created, ExecSpec, Exit, LogTarget, ProcessId, SandboxExit,
        SandboxRecord, SandboxSpec, Started, Stream, Timing, WindowSize,
    },
    vmm::control::VmmControl,
};
use containers::Container;
use processes::Exec;
use state::StateFile;

/// Starts microVMs.
#[derive(Clone)]
pub struct MicroVmLauncher {
    config: Arc<MicroVmConfig>,
    scratch: Arc<dyn ScratchDisks>,
    initramfs: PathBuf,
    cgroups: Option<Cgroups>,
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
            &mut config.run_dir,
            &mut config.cache_dir,
            &mut config.scratch_dir,
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
        for dir in [&config.run_dir, &config.scratch_dir] {
            make_private_dir(dir).map_err(|e| {
                Error::new(
                    ErrorKind::Internal,
                    format!("cannot make {}", dir.display()),
                )
                .caused_by(e)
            })?;
        }
        let cgroups = config.cgroup_root.as_deref().map(Cgroups::new);
        Ok(Self {
            config: Arc::new(config),
            scratch,
            initramfs,
            cgroups,
        })
    }

    fn paths(&self, pod_id: &str) -> Result<PodPaths> {
        PodPaths::new(&self.config.run_dir, pod_id)
    }

    /// The cgroup of a pod, by the name that is recorded of it.
    fn cgroup_of(&self, name: &str) -> Option<Cgroup> {
        let cgroups = self.cgroups.as_ref().filter(|_| !name.is_empty())?;
        cgroups.get(name).ok()
    }

    fn scratch_path(&self, pod_id: &str) -> PathBuf {
        self.config.scratch_dir.join(format!("{pod_id}.scratch"))
    }
}

/// A directory that others may pass through (to the parts that are theirs) and
/// not list.
fn make_private_dir(dir: &std::path::Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(dir)
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
        self.sweep(pod_id).await
    }

    async fn leftovers(&self) -> Result<Vec<String>> {
        self.find_leftovers().await
    }
}

/// A pod's virtual machine.
#[derive(Debug)]
pub struct MicroVm {
    record: SandboxRecord,
    paths: PodPaths,
    process: Arc<Process>,
    control: VmmControl,
    agent: Arc<Agent>,
    exited: watch::Receiver<Option<SandboxExit>>,
    timings: Vec<Timing>,
    guest: GuestFacts,
    /// What an adopting daemon must know; also the lock under which disks come
    /// and go.
    state: tokio::sync::Mutex<StateFile>,
    containers: Mutex<HashMap<String, Arc<Container>>>,
    /// The pod's cgroup on the host, where it has one.
    cgroup: Option<Cgroup>,
    execs: Mutex<HashMap<ProcessId, Arc<Exec>>>,
}

/// What the guest said of itself, for operators.
#[derive(Clone, Debug, Default)]
struct GuestFacts {
    agent_version: String,
    kernel_release: String,
}

impl MicroVm {
    /// What everything of the pod costs the host.
    async fn host_stats(&self) -> Option<HostStats> {
        let cgroup = self.cgroup.clone()?;
        tokio::task::spawn_blocking(move || cgroup.stats())
            .await
            .ok()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl Sandbox for MicroVm {
    fn record(&self) -> SandboxRecord {
        self.record.clone()
    }

    fn exited(&self) -> watch::Receiver<Option<SandboxExit>> {
        self.exited.clone()
    }

    fn timings(&self) -> Vec<Timing> {
        self.timings.clone()
    }

    async fn create_container(&self, spec: ContainerSpec) -> Result<Created> {
        self.make_container(spec).await
    }

    async fn start_container(&self, container_id: &str) -> Result<Started> {
        self.container(container_id)?;
        let at_unix_ns = self.agent.start_container(container_id).await?;
        Ok(Started { at_unix_ns })
    }

    async fn resume_container(&self, container_id: &str, log: LogTarget) -> Result<()> {
        self.resume_logging(container_id, log).await
    }

    async fn reopen_log(&self, container_id: &str) -> Result<()> {
        self.rotate_log(container_id).await
    }

    async fn remove_container(&self, container_id: &str) -> Result<()> {
        self.unmake_container(container_id).await
    }

    async fn exec(&self, spec: ExecSpec) -> Result<()> {
        self.start_exec(spec).await
    }

    async fn forget_exec(&self, process: &ProcessId) -> Result<()> {
        self.end_exec(process).await
    }

    async fn signal(&self, process: &ProcessId, signal: u32, all: bool) -> Result<()> {
        self.agent.signal(process, signal, all).await
    }

    async fn wait(&self, process: &ProcessId) -> Result<Exit> {
        self.wait_for(process).await
    }

    async fn resize(&self, process: &ProcessId, window: WindowSize) -> Result<()> {
        self.agent
            .resize(process, window.rows, window.columns)
            .await
    }

    async fn open_output(
        &self,
        process: &ProcessId,
        stream: Stream,
    ) -> Result<mpsc::Receiver<Vec<u8>>> {
        self.follow_output(process, stream)
    }

    async fn open_input(&self, process: &ProcessId) -> Result<mpsc::Sender<Vec<u8>>> {
        self.feed_input(process).await
    }

    async fn dial(&self, port: u16) -> Result<tokio::net::UnixStream> {
        self.agent.dial_server(port).await
    }

    async fn processes(&self) -> Result<Vec<crate::spec::Process>> {
        self.agent.processes().await
    }

    async fn stats(&self) -> Result<SandboxStats> {
        let mut stats = self.agent.stats().await?;
        stats.host = self.host_stats().await;
        Ok(stats)
    }

    async fn update_container(
        &self,
        container_id: &str,
        resources: &oci_spec::runtime::LinuxResources,
    ) -> Result<()> {
        self.container(container_id)?;
        self.agent.update_container(container_id, resources).await
    }

    async fn online_cpus(&self, count: u32) -> Result<u32> {
        self.agent.online_cpus(count).await
    }

    async fn change_clock(&self, change: ClockChange) -> Result<()> {
        self.agent.change_clock(change).await
    }

    async fn stop(&self, grace: Duration) -> Result<()> {
        self.end(grace).await
    }

    async fn info(&self) -> serde_json::Value {
        self.facts().await
    }
}
