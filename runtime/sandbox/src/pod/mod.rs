//! What is the same for every pod, wherever it runs: [`Pod`] is the one
//! implementation of [`Sandbox`].
//!
//! ```text
//!   Sandbox ◄── Pod<P> ── agent (calls, streams) ──► containers
//!                 │
//!                 └── P: Place ── MicroVm: disks are handed to a VMM
//!                              └─ Host: disks are files the agent mounts itself
//! ```
//!
//! * `containers`: creating, logging and removing containers.
//! * `processes`: execs, signals, streams, waiting.
//! * `requests`: what the agent is asked, from what the CRI layer says; pure.
//! * [`disks`]: which layers are attached, and for whom; pure.
//! * `state`: what an adopting daemon must know, on disk.
//! * `start`: hearing that a new one's agent is ready.
//! * `adopt`: finding a running one again after a daemon restart.
//! * [`site`]: what a pod leaves on this host, and removing every trace of it.
//! * `stop`: ending it.
//! * `process_log`: what the pod's process says of itself.

pub(crate) mod adopt;
mod containers;
pub mod disks;
pub(crate) mod process_log;
mod processes;
pub(crate) mod requests;
pub mod site;
pub(crate) mod start;
pub(crate) mod state;
mod stop;

use std::{
    collections::HashMap,
    fmt::Debug,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use serde_json::{Map, Value};
use tokio::sync::{mpsc, watch};

use crate::{
    Sandbox,
    agent::Agent,
    cgroup::Cgroup,
    error::{Error, ErrorKind, Result},
    figures::{HostStats, SandboxStats},
    paths::PodPaths,
    process::Process,
    spec::{
        ClockChange, ContainerSpec, Created, ExecSpec, Exit, LogTarget, ProcessId, SandboxExit,
        SandboxRecord, Started, Stream, Timing, WindowSize,
    },
};
use containers::Container;
use processes::Exec;
use state::StateFile;

/// What places differ in.
#[async_trait]
pub trait Place: Debug + Send + Sync + 'static {
    /// Whether the agent has a machine of its own, with CPUs and a clock that are
    /// the daemon's to set.
    const OWN_MACHINE: bool;

    /// Offers a layer's blob to the agent, read-only, as the disk `serial`.
    ///
    /// # Errors
    /// Whatever failed; the disk may be there all the same.
    async fn add_disk(&self, serial: &str, blob: &Path) -> Result<()>;

    /// Takes a disk away that the agent has let go of. Unknown serials succeed.
    ///
    /// # Errors
    /// Whatever failed; can be repeated.
    async fn remove_disk(&self, serial: &str) -> Result<()>;

    /// Asks the pod's process to end, when asking its agent was not enough.
    ///
    /// # Errors
    /// It can't be asked: it has to be killed.
    async fn stop(&self) -> Result<()>;

    /// Free-form facts for verbose status, beside those that every pod has.
    async fn facts(&self) -> Map<String, Value>;
}

/// A pod in a place.
#[derive(Debug)]
pub struct Pod<P> {
    place: P,
    record: SandboxRecord,
    paths: PodPaths,
    /// The VMM, or the agent where that is a process of the host.
    process: Arc<Process>,
    agent: Arc<Agent>,
    exited: watch::Receiver<Option<SandboxExit>>,
    timings: Vec<Timing>,
    facts: AgentFacts,
    /// What an adopting daemon must know; also the lock under which disks come
    /// and go.
    state: tokio::sync::Mutex<StateFile>,
    containers: Mutex<HashMap<String, Arc<Container>>>,
    /// The pod's cgroup on the host, where it has one.
    cgroup: Option<Cgroup>,
    execs: Mutex<HashMap<ProcessId, Arc<Exec>>>,
}

/// What the agent said of itself, for operators.
#[derive(Clone, Debug, Default)]
pub(crate) struct AgentFacts {
    pub(crate) version: String,
    pub(crate) kernel_release: String,
}

/// What a pod is put together from.
#[derive(Debug)]
pub(crate) struct Parts<P> {
    pub(crate) place: P,
    pub(crate) record: SandboxRecord,
    pub(crate) paths: PodPaths,
    pub(crate) process: Arc<Process>,
    pub(crate) agent: Arc<Agent>,
    pub(crate) exited: watch::Receiver<Option<SandboxExit>>,
    pub(crate) timings: Vec<Timing>,
    pub(crate) facts: AgentFacts,
    pub(crate) state: StateFile,
    pub(crate) cgroup: Option<Cgroup>,
}

impl<P: Place> Pod<P> {
    pub(crate) fn new(parts: Parts<P>) -> Self {
        Self {
            place: parts.place,
            record: parts.record,
            paths: parts.paths,
            process: parts.process,
            agent: parts.agent,
            exited: parts.exited,
            timings: parts.timings,
            facts: parts.facts,
            state: tokio::sync::Mutex::new(parts.state),
            containers: Mutex::default(),
            cgroup: parts.cgroup,
            execs: Mutex::default(),
        }
    }

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
impl<P: Place> Sandbox for Pod<P> {
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
        if !P::OWN_MACHINE {
            stats.guest_unix_ns = None;
        }
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
        if P::OWN_MACHINE {
            return self.agent.online_cpus(count).await;
        }
        let here = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(u32::try_from(here).unwrap_or(u32::MAX))
    }

    async fn change_clock(&self, change: ClockChange) -> Result<()> {
        if P::OWN_MACHINE {
            return self.agent.change_clock(change).await;
        }
        Err(Error::new(
            ErrorKind::FailedPrecondition,
            "the clock of a host pod is the host's",
        ))
    }

    async fn stop(&self, grace: Duration) -> Result<()> {
        self.end(grace).await
    }

    async fn info(&self) -> Value {
        self.describe().await
    }
}
