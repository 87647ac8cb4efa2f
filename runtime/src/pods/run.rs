//! Making a pod.
//!
//! ```text
//!   addresses decided ─► intent on record ─► tap ─► launch  ─┬─► ready on record
//!                                                └─ plumb   ─┘
//! ```
//!
//! The sandbox boots while the network is plumbed: a guest that is ready before
//! its tap is on the bridge just isn't heard yet.

use std::{os::fd::OwnedFd, sync::Arc, sync::PoisonError, time::Duration};

use bulkhead_cri_api::v1::PodSandboxConfig;
use bulkhead_net::Lease;
use bulkhead_sandbox::{Dns, HostSpec, Interface, PlaceKind, Sandbox, SandboxSpec};
use tracing::Instrument;

use super::{
    Inner, Pods, Settings, cgroup,
    model::Pod,
    placement::{self, Shared},
    ports,
    sizing::VmSize,
};
use crate::{
    clock,
    error::{Error, Kind, Result},
    ids,
    observe::traces,
    store::{Change, PhaseTiming, PodPhase, PodRecord},
};

/// Name of the pod's interface inside.
const INTERFACE: &str = "eth0";

/// Pauses between attempts to undo what could not be undone.
pub(super) const UNDO_AGAIN: Duration = Duration::from_secs(5);

impl Pods {
    /// Makes a pod, joins the making of it, or finds it made: returns its id.
    ///
    /// # Errors
    /// Whatever failed, and then nothing is left of it; or
    /// [`Kind::AlreadyExists`] where a pod with the same key but another
    /// configuration is there, or one that has ended.
    pub async fn run(&self, config: PodSandboxConfig, handler: String) -> Result<String> {
        let settings = &self.inner.settings;
        let place = placement::place(&settings.handlers, &settings.host_pods, &config, &handler)?;
        let size = match place {
            PlaceKind::MicroVm => Some(settings.sizing_of(&handler).of(&config)?),
            PlaceKind::Host => None,
        };
        let record = PodRecord {
            id: String::new(),
            phase: PodPhase::Creating,
            config: config.clone(),
            handler: handler.clone(),
            place,
            created_at: 0,
            vmm_uid: 0,
            lease: None,
            sandbox: None,
            exit: None,
            timings: Vec::new(),
            size,
            resources: None,
            overhead: None,
        };
        let key = record.key();
        let from = (config, handler);
        let finished = || self.finished_pod(&record);
        let inner = Arc::clone(&self.inner);
        let span = tracing::Span::current();
        let mut to_make = record.clone();
        let start = move || {
            async move {
                to_make.id = ids::new_id()?;
                inner.make_pod(to_make).await
            }
            .instrument(span)
        };
        let attempted = format!("run pod {key}");
        self.inner
            .creating_pods
            .join_or_start(key, &from, finished, start)
            .await
            .map_err(|error| error.while_(attempted))
    }

    /// What a create of a pod that exists already is answered.
    fn finished_pod(&self, wanted: &PodRecord) -> Option<Result<String>> {
        let pod = self.inner.model.pod_by_key(&wanted.key())?;
        let record = pod.record();
        let same = record.config == wanted.config && record.handler == wanted.handler;
        Some(match record.phase {
            PodPhase::Ready if same => Ok(pod.id.clone()),
            PodPhase::Ready => Err(Error::new(
                Kind::AlreadyExists,
                format!(
                    "it exists as {}, made from another configuration; remove that one, or use \
                     another attempt number",
                    pod.id
                ),
            )),
            _ => Err(Error::new(
                Kind::AlreadyExists,
                format!(
                    "it exists as {} and has ended; remove that one, or use another attempt number",
                    pod.id
                ),
            )),
        })
    }
}

impl Inner {
    async fn make_pod(self: &Arc<Self>, mut record: PodRecord) -> Result<String> {
        record.created_at = clock::now_ns();
        // In the host's network a pod's ports are the host's already.
        if !is_on_hosts_network(&record) {
            let host_ports = ports::host_ports(&record.config.port_mappings)?;
            record.lease = Some(self.network.allocate(&record.id, &host_ports)?);
        }
        let pod = match self.with_uid(record.clone()) {
            Ok(pod) => pod,
            Err(error) => {
                self.undo_lease(&record).await;
                return Err(error);
            }
        };
        let span = tracing::info_span!("run", pod = %pod.id);
        async {
            match self.build_pod(&pod).await {
                Ok(()) => {
                    tracing::info!(key = %pod.key, "pod is ready");
                    Ok(pod.id.clone())
                }
                Err(error) => {
                    tracing::warn!(key = %pod.key, %error, "pod could not be made");
                    self.unwind_pod(&pod).await;
                    Err(error)
                }
            }
        }
        .instrument(span)
        .await
    }

    /// Gives the record a uid that no other pod has, and takes it into the model.
    fn with_uid(&self, mut record: PodRecord) -> Result<Arc<Pod>> {
        let _choosing = self.uids.lock().unwrap_or_else(PoisonError::into_inner);
        let taken: std::collections::BTreeSet<u32> = self
            .model
            .pods()
            .iter()
            .map(|pod| pod.record().vmm_uid)
            .collect();
        if self.model.pods().len() >= self.settings.max_pods {
            return Err(Error::new(
                Kind::ResourceExhausted,
                format!(
                    "this node has {} pods, as many as limits.pods allows; remove pods, or raise it",
                    self.settings.max_pods
                ),
            ));
        }
        let first = self.settings.vmm_uid_first;
        let last = first.saturating_add(self.settings.vmm_uid_count);
        record.vmm_uid = (first..last)
            .find(|uid| !taken.contains(uid))
            .ok_or_else(|| {
                Error::new(
                    Kind::ResourceExhausted,
                    format!("all {} uids for pods are taken; remove pods", last - first),
                )
            })?;
        Ok(self.model.insert_pod(record))
    }

    /// The create itself. Whatever it returns, [`Inner::unwind_pod`] undoes it.
    async fn build_pod(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<()> {
        let record = pod.record();
        self.records
            .commit(vec![Change::PutPod(Arc::clone(&record))])
            .await?;

        let turn = self.starts.turn().await;
        let link = match (&record.lease, record.place) {
            (None, _) => None,
            (Some(lease), PlaceKind::MicroVm) => Some(self.network.tap(lease).await?),
            (Some(lease), PlaceKind::Host) => Some(self.network.netns(lease).await?),
        };
        let spec = sandbox_spec(&record, link, &self.settings)?;
        let launch = async { self.launcher.launch(spec).await.map_err(Error::from) };
        let plumb = async {
            match &record.lease {
                Some(lease) => self.network.plumb(lease).await,
                None => Ok(()),
            }
        };
        let (sandbox, ()) = futures::future::try_join(launch, plumb).await?;

        let mut ready = PodRecord::clone(&record);
        ready.phase = PodPhase::Ready;
        ready.sandbox = Some(sandbox.record());
        ready.timings = timings(sandbox.as_ref());
        ready.timings.insert(0, turn.phase());
        self.metrics.pod_started(&ready.timings);
        traces::phases(&ready.timings);
        let ready = Arc::new(ready);
        self.records
            .commit(vec![Change::PutPod(Arc::clone(&ready))])
            .await?;
        pod.set_sandbox(Some(Arc::clone(&sandbox)));
        self.show_pod(pod, ready);
        self.watch_sandbox(pod, sandbox);
        Ok(())
    }

    /// Undoes a create, in the background for as long as that takes if need be.
    pub(crate) async fn unwind_pod(self: &Arc<Self>, pod: &Arc<Pod>) {
        // A retry of the create must not find this one.
        self.model.free_pod_key(pod);
        if let Err(error) = self.undo_pod(pod).await {
            tracing::error!(%error, "half a pod is left and will be undone later");
            let (inner, pod) = (Arc::clone(self), Arc::clone(pod));
            tokio::spawn(
                async move {
                    loop {
                        tokio::time::sleep(UNDO_AGAIN).await;
                        match inner.undo_pod(&pod).await {
                            Ok(()) => break,
                            Err(error) => tracing::error!(%error, "half a pod is still left"),
                        }
                    }
                    tracing::info!("half a pod that was left is undone");
                }
                .in_current_span(),
            );
        }
    }

    /// Undoes, in reverse order, whatever of a create has happened. Repeatable.
    async fn undo_pod(self: &Arc<Self>, pod: &Pod) -> Result<()> {
        self.launcher.destroy(&pod.id).await?;
        if let Some(lease) = &pod.record().lease {
            self.network.release(lease).await?;
        }
        self.records
            .commit(vec![Change::DropPod(pod.id.clone())])
            .await?;
        self.model.remove_pod(&pod.id);
        Ok(())
    }

    async fn undo_lease(&self, record: &PodRecord) {
        if let Some(lease) = &record.lease
            && let Err(error) = self.network.release(lease).await
        {
            tracing::error!(%error, "addresses stay taken until the next start");
        }
    }
}

/// How long each phase of the start took, for the record.
pub(crate) fn timings(sandbox: &dyn Sandbox) -> Vec<PhaseTiming> {
    sandbox
        .timings()
        .into_iter()
        .map(|timing| PhaseTiming {
            phase: timing.phase,
            took_ns: u64::try_from(timing.took.as_nanos()).unwrap_or(u64::MAX),
        })
        .collect()
}

/// Whether a pod has no interfaces of its own.
fn is_on_hosts_network(record: &PodRecord) -> bool {
    record.place == PlaceKind::Host && Shared::of(&record.config).network
}

/// What the sandbox is started from: `link` is a microVM's tap, a host pod's network
/// namespace, or nothing in the host's network. Pure but for the descriptors.
fn sandbox_spec(
    record: &PodRecord,
    link: Option<OwnedFd>,
    settings: &Settings,
) -> Result<SandboxSpec> {
    let config = &record.config;
    let linux = config.linux.clone().unwrap_or_default();
    let dns = config.dns_config.clone().unwrap_or_default();
    let (_, handler) = placement::handler(&settings.handlers, &record.handler)?;
    let (tap, host) = match record.place {
        PlaceKind::MicroVm => (link, None),
        PlaceKind::Host => {
            let host = HostSpec {
                netns: link,
                share_ipc: Shared::of(config).ipc,
            };
            (None, Some(host))
        }
    };
    // Sizes mean nothing on the host.
    let size = record.size.unwrap_or(VmSize {
        boot_vcpus: 0,
        max_vcpus: 0,
        memory_bytes: 0,
        scratch_bytes: 0,
    });
    Ok(SandboxSpec {
        pod_id: record.id.clone(),
        host,
        kernel: handler.kernel.clone(),
        kernel_cmdline: handler.kernel_cmdline.clone(),
        boot_vcpus: size.boot_vcpus,
        max_vcpus: size.max_vcpus,
        memory_bytes: size.memory_bytes,
        scratch_bytes: size.scratch_bytes,
        hostname: match is_on_hosts_network(record) {
            true => String::new(), // the host's
            false => hostname(config, &record.id),
        },
        dns: Dns {
            servers: dns.servers,
            searches: dns.searches,
            options: dns.options,
        },
        interfaces: record
            .lease
            .iter()
            .zip([tap])
            .map(|(lease, tap)| interface(lease, tap))
            .collect(),
        sysctls: linux.sysctls,
        cgroup_parent: cgroup::parent_path(&linux.cgroup_parent)?,
        vmm_uid: record.vmm_uid,
    })
}

fn interface(lease: &Lease, tap: Option<OwnedFd>) -> Interface {
    Interface {
        tap,
        mac: lease.mac.0,
        name: INTERFACE.to_owned(),
        mtu: u32::from(lease.mtu),
        addresses: lease
            .addresses
            .iter()
            .map(|net| (net.addr(), net.prefix_len()))
            .collect(),
        routes: lease
            .routes
            .iter()
            .map(|route| {
                let to = route.destination;
                (to.addr(), to.prefix_len(), Some(route.gateway))
            })
            .collect(),
    }
}

/// The host name asked for, else the beginning of the id, as other runtimes do.
fn hostname(config: &PodSandboxConfig, id: &str) -> String {
    if config.hostname.is_empty() {
        id.chars().take(12).collect()
    } else {
        config.hostname.clone()
    }
}
