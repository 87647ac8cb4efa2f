//! From a specification to a host pod whose agent is configured, and back to a
//! running one after a daemon restart.

use std::{ffi::OsString, fs::File, path::Path, sync::Arc, time::Duration};

use bulkhead_agent_api::sockets;
use tokio::sync::watch;
use tracing::{info, instrument, warn};

use super::{Host, HostLauncher, monitor};
use crate::{
    agent::{Agent, Dialer, ready::ReadyListener},
    cgroup::Cgroup,
    clock,
    error::{Error, ErrorKind, Result},
    paths::PodPaths,
    pod::{
        AgentFacts, Parts, Pod, adopt, process_log, requests,
        site::{at, kind_of, make_dir, open_log},
        start::{self, NotReady},
        state::{State, StateFile},
    },
    process::Process,
    spawn::{self, Spawn},
    spec::{HostSpec, PlaceKind, SandboxExit, SandboxRecord, SandboxSpec, Timing},
};

/// The agent's own cgroup below the pod's: one with processes can't give
/// controllers to its children (cgroup v2, "no internal processes").
const AGENT_CGROUP: &str = "bulkhead-agent";

/// Everything that is made before the agent is started.
struct Prepared {
    paths: PodPaths,
    cgroup: String,
    group: Cgroup,
    procs: File,
    ready: ReadyListener,
    log: File,
}

impl HostLauncher {
    #[instrument(name = "launch", skip_all, fields(pod = %spec.pod_id))]
    pub(super) async fn launch_on_host(&self, spec: SandboxSpec) -> Result<Arc<Pod<Host>>> {
        crate::paths::check_id("pod id", &spec.pod_id)?;
        let pod_id = spec.pod_id.clone();
        self.site.check_free(&pod_id)?;
        match self.try_launch(spec).await {
            Ok(sandbox) => Ok(sandbox),
            Err(e) => {
                if let Err(sweep) = self.site.sweep(&pod_id).await {
                    warn!("cannot clean up after a failed start: {sweep}");
                }
                Err(e)
            }
        }
    }

    async fn try_launch(&self, mut spec: SandboxSpec) -> Result<Arc<Pod<Host>>> {
        let begun = clock::monotonic_ns();
        let started_unix_ns = clock::unix_ns();
        let configure = requests::configure(&spec);
        let prepared = {
            let (launcher, pod_id) = (self.clone(), spec.pod_id.clone());
            let parent = spec.cgroup_parent.clone();
            // The listener registers with the runtime, which a blocking thread has too.
            let task =
                tokio::task::spawn_blocking(move || launcher.prepare(&pod_id, parent.as_deref()));
            task.await.map_err(|e| {
                Error::new(ErrorKind::Internal, "preparing the pod was cut off").caused_by(e)
            })??
        };
        let (paths, cgroup, ready) = (prepared.paths, prepared.cgroup, prepared.ready);
        let spawned = clock::monotonic_ns();
        let host = spec.host.take().unwrap_or_default();
        let process = Arc::new(self.spawn_agent(
            &spec.pod_id,
            &paths,
            &cgroup,
            host,
            prepared.procs,
            prepared.log,
        )?);
        let group = prepared.group;
        let (id, watched) = (spec.pod_id.clone(), Arc::clone(&process));
        let exited = monitor::watch(id, watched, &paths, group.clone());
        let state = State::new(process.pid(), process.start_ticks(), started_unix_ns);
        let state = StateFile::create(paths.state(), state)?;

        let limit = self.config.ready_timeout;
        let notice = start::notice(&ready, &exited, limit)
            .await
            .map_err(|why| not_ready(why, limit, &paths))?;
        let ready_at = clock::monotonic_ns();
        drop(ready);
        let _ = std::fs::remove_file(paths.agent().join(sockets::READY));

        let agent = self.connect(&paths, started_unix_ns, exited.clone());
        agent.configure(&configure).await?;
        let configured = clock::monotonic_ns();
        let phase = |phase: &str, from: u64, to: u64| Timing {
            phase: phase.to_owned(),
            took: Duration::from_nanos(to.saturating_sub(from)),
        };
        let timings = vec![
            phase("prepare", begun, spawned),
            phase("agent", spawned, ready_at),
            phase("configure", ready_at, configured),
        ];
        info!(
            pid = process.pid(),
            took_ms = (configured - begun) / 1_000_000,
            "the host pod's agent is ready"
        );
        Ok(Arc::new(Pod::new(Parts {
            place: Host {
                blobs: blobs(&paths),
                agent_pid: process.pid(),
            },
            record: SandboxRecord {
                pod_id: spec.pod_id,
                place: PlaceKind::Host,
                pid: process.pid(),
                pid_start_ticks: process.start_ticks(),
                cgroup,
            },
            paths,
            process,
            agent,
            exited,
            timings,
            facts: AgentFacts {
                version: notice.agent_version,
                kernel_release: notice.kernel_release,
            },
            state,
            cgroup: Some(group),
        })))
    }

    /// Makes files, sockets, cgroup and directories. Blocking.
    fn prepare(&self, pod_id: &str, cgroup_parent: Option<&str>) -> Result<Prepared> {
        let plot = self.site.prepare(pod_id, cgroup_parent)?;
        let (paths, cgroup) = (plot.paths, plot.cgroup);
        let missing = || Error::new(ErrorKind::Internal, "a host pod needs a cgroup");
        let group = plot.group.ok_or_else(missing)?;
        let procs = self
            .site
            .make_cgroup(&format!("{cgroup}/{AGENT_CGROUP}"))?
            .ok_or_else(missing)?
            .procs()?;
        let scratch = self.site.scratch_path(pod_id);
        for dir in [&paths.agent(), &blobs(&paths), &scratch] {
            make_dir(dir, 0o700).map_err(at("make", dir))?;
        }
        let ready = paths.agent().join(sockets::READY);
        let ready = ReadyListener::bind(&ready).map_err(at("listen at", &ready))?;
        let log = open_log(&paths.agent_log())?;
        Ok(Prepared {
            paths,
            cgroup,
            group,
            procs,
            ready,
            log,
        })
    }

    fn spawn_agent(
        &self,
        pod_id: &str,
        paths: &PodPaths,
        cgroup: &str,
        host: HostSpec,
        procs: File,
        log: File,
    ) -> Result<Process> {
        let program = &self.config.agent;
        let scratch = self.site.scratch_path(pod_id);
        let args = arguments(&paths.agent(), cgroup, &scratch, &host);
        spawn::spawn_process(Spawn {
            program,
            title: format!("bulkhead-agent {pod_id}"),
            args,
            inherited: Vec::new(),
            netns: host.netns,
            cgroup_procs: Some(procs),
            log,
            log_filter: ("BULKHEAD_LOG", &self.config.agent_log),
        })
        .map_err(|e| {
            let text = format!("cannot start the agent {}", program.display());
            Error::new(kind_of(&e), text).caused_by(e)
        })
    }

    fn connect(
        &self,
        paths: &PodPaths,
        started_unix_ns: i64,
        exited: watch::Receiver<Option<SandboxExit>>,
    ) -> Arc<Agent> {
        let dialer = Dialer::unix(paths.agent());
        let limit = self.config.call_timeout;
        Arc::new(Agent::new(dialer, limit, started_unix_ns, exited))
    }

    #[instrument(name = "adopt", skip_all, fields(pod = %record.pod_id))]
    pub(super) async fn adopt_on_host(&self, record: &SandboxRecord) -> Result<Arc<Pod<Host>>> {
        let found = adopt::find(&self.site, record)?;
        let cgroup = self.site.cgroup_of(&record.cgroup).ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("pod {} has no cgroup on record", record.pod_id),
            )
        })?;
        let (id, process) = (record.pod_id.clone(), Arc::clone(&found.process));
        let exited = monitor::watch(id, process, &found.paths, cgroup.clone());
        let started = found.state.get().started_unix_ns;
        let agent = self.connect(&found.paths, started, exited.clone());
        let facts = adopt::greet(&agent, record).await?;
        let sandbox = Arc::new(Pod::new(Parts {
            place: Host {
                blobs: blobs(&found.paths),
                agent_pid: record.pid,
            },
            record: record.clone(),
            paths: found.paths,
            process: found.process,
            agent,
            exited,
            timings: Vec::new(),
            facts,
            state: found.state,
            cgroup: Some(cgroup),
        }));
        sandbox.settle().await?;
        info!(pid = record.pid, "took the host pod over");
        Ok(sandbox)
    }
}

fn blobs(paths: &PodPaths) -> std::path::PathBuf {
    paths.agent().join("blobs")
}

/// The agent's command line. Pure.
fn arguments(dir: &Path, cgroup: &str, scratch: &Path, host: &HostSpec) -> Vec<OsString> {
    let mut own = vec!["mnt"];
    if host.netns.is_some() {
        // The host's name is its network's: pods that share one share the other.
        own.extend(["net", "uts"]);
    }
    if !host.share_ipc {
        own.push("ipc");
    }
    vec![
        "--listen-dir".into(),
        dir.into(),
        "--cgroup".into(),
        cgroup.into(),
        "--scratch".into(),
        scratch.into(),
        "--own".into(),
        own.join(",").into(),
    ]
}

fn not_ready(why: NotReady, limit: Duration, paths: &PodPaths) -> Error {
    match why {
        NotReady::Broken(e) => {
            Error::new(ErrorKind::Internal, "cannot hear from the agent").caused_by(e)
        }
        NotReady::Ended(message) => Error::new(
            ErrorKind::Internal,
            format!("the host pod's agent ended before it was ready: {message}"),
        ),
        NotReady::Late => {
            let words = process_log::log_tail(&paths.agent_log());
            Error::new(
                ErrorKind::DeadlineExceeded,
                format!(
                    "the host pod's agent was not ready within {limit:?}; its log ends: {words}"
                ),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_agent_is_told_which_namespaces_are_the_pods() {
        let own = |host: HostSpec| {
            let args = arguments(Path::new("/r"), "a/b", Path::new("/s"), &host);
            assert_eq!(
                args[..6],
                ["--listen-dir", "/r", "--cgroup", "a/b", "--scratch", "/s"]
            );
            args[7].to_str().unwrap().to_owned()
        };
        let netns = || Some(File::open("/proc/self/ns/net").unwrap().into());
        assert_eq!(
            own(HostSpec {
                netns: netns(),
                share_ipc: false
            }),
            "mnt,net,uts,ipc"
        );
        assert_eq!(
            own(HostSpec {
                netns: None,
                share_ipc: true
            }),
            "mnt"
        );
        assert_eq!(
            own(HostSpec {
                netns: netns(),
                share_ipc: true
            }),
            "mnt,net,uts"
        );
    }
}
