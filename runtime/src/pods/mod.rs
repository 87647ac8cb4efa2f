//! The life of pods and containers.
//!
//! One file a deed, each reading top to bottom as what happens: [`run`](Pods::run),
//! [`stop`](Pods::stop), [`remove`](Pods::remove) a pod; [`create`](Pods::create),
//! [`start`](Pods::start), [`stop_container`](Pods::stop_container),
//! [`remove_container`](Pods::remove_container) a container;
//! [`exec_sync`](Pods::exec_sync).
//!
//! What holds for all of them:
//!
//! - **Intent first.** What is about to be made or removed is on record before the
//!   first effect (`store`). If that can't be written, nothing is done.
//! - **Facts anyway.** What has happened (ready, running, exited) is true whether or
//!   not the disk takes it: the model has it at once, and the record is written
//!   again until that works. The reconciler would find the same fact in the world.
//! - **Whole or gone.** A create that fails at any step is undone in reverse order;
//!   if undoing fails too it is repeated in the background, and at the next start.
//! - **Nobody's patience matters.** Every deed that changes something runs as a task
//!   of its own; a client that hangs up changes nothing.
//! - **The model answers.** See [`model`] for what is locked when.

mod attach;
pub mod cgroup;
mod create;
pub mod events;
mod exec;
mod forward;
pub mod images;
pub mod inflight;
pub mod model;
mod monitor;
pub mod network;
pub mod oci;
pub mod placement;
mod pod_cidr;
pub mod ports;
mod quantity;
mod remove;
mod remove_container;
mod run;
mod session;
mod settle;
pub mod sizing;
mod start;
mod starts;
pub mod state;
mod stop;
mod stop_container;
mod update;
mod write;

use std::{
    collections::BTreeSet,
    future::Future,
    path::PathBuf,
    sync::{Arc, Mutex},
    time::Duration,
};

use bulkhead_cri_api::v1::{ContainerConfig, PodSandboxConfig};
use bulkhead_sandbox::Launcher;

pub(crate) use exec::Command;
pub use exec::{Captured, OUTPUT_MAX};
pub(crate) use session::{Event, Session, Target};
pub(crate) use settle::unknown_exit;
pub use write::Unwritten;

use crate::{
    error::{Error, Result},
    observe::metrics::Metrics,
    pods::{
        events::Events,
        images::Images,
        inflight::Inflight,
        model::Model,
        network::PodNetwork,
        placement::{Handlers, HostPods},
        sizing::Sizing,
        starts::Starts,
    },
    stats::Sampling,
    store::{ContainerKey, PodKey, Records},
};

/// What the operator decides about pods.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Most pods at once.
    pub max_pods: usize,
    /// Most pods that start at the same moment; others wait for their turn.
    pub starts_at_once: usize,
    /// Runtime handlers that pods may ask for; pods that name none have the default.
    pub handlers: Handlers,
    /// Which pods may run on the host.
    pub host_pods: HostPods,
    /// Sizes of microVMs.
    pub sizing: Sizing,
    /// First of the uids that VMMs run under, one to a pod.
    pub vmm_uid_first: u32,
    /// How many such uids there are.
    pub vmm_uid_count: u32,
    /// How long a guest may take to end by itself when its pod is stopped.
    pub stop_grace: Duration,
    /// How long killed processes may take to be reported ended.
    pub kill_grace: Duration,
    /// How pods are measured.
    pub sampling: Sampling,
    /// A path on the file system that holds pods' writable disks.
    pub writable_fs: PathBuf,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_pods: 1000,
            starts_at_once: starts_per_machine(),
            handlers: placement::standard_handlers(),
            host_pods: HostPods::default(),
            sizing: Sizing::default(),
            // Above what adduser, systemd and container tools hand out
            // (systemd's UIDS-GIDS.md: 0x7FFF0000 and up is nobody's).
            vmm_uid_first: 1_900_000_000,
            vmm_uid_count: 65_536,
            stop_grace: Duration::from_secs(2),
            kill_grace: Duration::from_secs(10),
            sampling: Sampling::default(),
            writable_fs: "/var/lib/bulkhead".into(),
        }
    }
}

impl Settings {
    /// Sizes of a handler's microVMs.
    #[must_use]
    pub fn sizing_of(&self, handler: &str) -> &Sizing {
        placement::handler(&self.handlers, handler)
            .ok()
            .and_then(|(_, handler)| handler.sizing.as_ref())
            .unwrap_or(&self.sizing)
    }
}

/// Two a CPU: while one loads a kernel from the disk, another computes.
#[must_use]
pub fn starts_per_machine() -> usize {
    2 * std::thread::available_parallelism().map_or(1, usize::from)
}

/// What the lifecycle works with.
pub struct Parts {
    /// Records on disk.
    pub records: Arc<dyn Records>,
    /// Makes sandboxes.
    pub launcher: Arc<dyn Launcher>,
    /// Gives them a network.
    pub network: Arc<dyn PodNetwork>,
    /// Where images are.
    pub images: Arc<dyn Images>,
    /// What the operator decided.
    pub settings: Settings,
    /// Where starts are counted.
    pub metrics: Metrics,
}

/// All pods of this node. Clones share one.
#[derive(Clone)]
pub struct Pods {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) model: Model,
    pub(crate) events: Events,
    pub(crate) records: Arc<dyn Records>,
    pub(crate) launcher: Arc<dyn Launcher>,
    pub(crate) network: Arc<dyn PodNetwork>,
    pub(crate) images: Arc<dyn Images>,
    pub(crate) settings: Settings,
    metrics: Metrics,
    creating_pods: Inflight<PodKey, (PodSandboxConfig, String)>,
    creating_containers: Inflight<ContainerKey, ContainerConfig>,
    unwritten: Mutex<BTreeSet<Unwritten>>,
    /// Why the pod CIDR that was sent last is not used.
    refused_cidr: Mutex<Option<String>>,
    /// Guards the choice of a uid until the record that holds it is in the model.
    uids: Mutex<()>,
    starts: Starts,
}

impl Pods {
    /// Where what happens to them is counted.
    #[must_use]
    pub fn metrics(&self) -> &Metrics {
        &self.inner.metrics
    }

    /// An empty node. The reconciler fills it from the records.
    #[must_use]
    pub fn new(parts: Parts) -> Self {
        let starts = Starts::new(parts.settings.starts_at_once);
        Self {
            inner: Arc::new(Inner {
                model: Model::default(),
                events: Events::default(),
                records: parts.records,
                launcher: parts.launcher,
                network: parts.network,
                images: parts.images,
                settings: parts.settings,
                metrics: parts.metrics,
                creating_pods: Inflight::default(),
                creating_containers: Inflight::default(),
                unwritten: Mutex::default(),
                refused_cidr: Mutex::default(),
                uids: Mutex::default(),
                starts,
            }),
        }
    }

    /// What is known, for lists and status.
    #[must_use]
    pub fn model(&self) -> &Model {
        &self.inner.model
    }

    /// What happens, as it happens.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.inner.events
    }

    /// The image store.
    #[must_use]
    pub fn images(&self) -> &Arc<dyn Images> {
        &self.inner.images
    }

    /// The pod network.
    #[must_use]
    pub fn network(&self) -> &Arc<dyn PodNetwork> {
        &self.inner.network
    }

    /// What the operator decided.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.inner.settings
    }

    /// Closes and opens a container's log anew, after its file was renamed.
    ///
    /// # Errors
    /// It isn't running, or the new file can't be made: then none is.
    pub async fn reopen_log(&self, id: &str) -> Result<()> {
        let container = self.inner.model.container(id)?;
        let attempted = format!("reopen the log of container {}", container.id);
        let reopen = async {
            if container.record().phase != crate::store::ContainerPhase::Running {
                return Err(Error::precondition("the container is not running"));
            }
            let sandbox = self
                .inner
                .model
                .pod(&container.key.pod_id)?
                .ready_sandbox()?;
            Ok(sandbox.reopen_log(&container.id).await?)
        };
        reopen.await.map_err(|error| error.while_(attempted))
    }
}

/// Runs a deed to its end whether or not its client still waits.
pub(crate) async fn detached<T, F>(deed: F) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = Result<T>> + Send + 'static,
{
    use tracing::Instrument;
    tokio::spawn(deed.in_current_span())
        .await
        .unwrap_or_else(|error| Err(Error::internal(format!("the call was cut off: {error}"))))
}

#[cfg(test)]
mod tests;
