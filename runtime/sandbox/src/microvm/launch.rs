//! From a specification to a guest whose agent is configured.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::fs::PermissionsExt as _,
    },
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bulkhead_agent_api::{READY_PORT, agent::Ready};
use bulkhead_vmm_api::CONFIG_FD_FLAG;
use tokio::{sync::watch, time::timeout};
use tracing::{info, instrument, warn};

use super::{
    MicroVm, MicroVmLauncher, monitor,
    timings::{self, Moments},
};
use crate::{
    agent::{Agent, Dialer, ready::ReadyListener},
    clock,
    cmdline::{self, CmdlineOptions},
    error::{Error, ErrorKind, Result},
    paths::{PodPaths, VSOCK_PREFIX},
    pod::{
        AgentFacts, Parts, Pod, process_log, requests,
        site::{at, kind_of, make_dir, open_log},
        start::{self, NotReady},
        state::{State, StateFile},
    },
    process::Process,
    sockets,
    spawn::{self, Spawn},
    spec::{PlaceKind, SandboxExit, SandboxRecord, SandboxSpec},
    vmm::{
        config::{self, VmmInputs},
        control::VmmControl,
        handover::random_token,
    },
};

/// Smallest guest memory that the kernel and the agent live in, bytes.
const MIN_MEMORY: u64 = 48 << 20;
/// Most vCPUs.
const MAX_VCPUS: u32 = 254;

/// Everything that is made before the VMM is started.
struct Prepared {
    paths: PodPaths,
    cgroup: String,
    procs: Option<File>,
    scratch: OwnedFd,
    kernel: OwnedFd,
    initramfs: OwnedFd,
    control: OwnedFd,
    handover: OwnedFd,
    vsock: OwnedFd,
    ready: ReadyListener,
    log: File,
}

impl MicroVmLauncher {
    #[instrument(name = "launch", skip_all, fields(pod = %spec.pod_id))]
    pub(super) async fn launch_microvm(&self, spec: SandboxSpec) -> Result<Arc<Pod<MicroVm>>> {
        check(&spec)?;
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

    async fn try_launch(&self, mut spec: SandboxSpec) -> Result<Arc<Pod<MicroVm>>> {
        let mut moments = Moments {
            begun: clock::monotonic_ns(),
            ..Default::default()
        };
        let started_unix_ns = clock::unix_ns();
        let mut configure = requests::configure(&spec);
        let prepared = {
            let (launcher, pod_id) = (self.clone(), spec.pod_id.clone());
            let (parent, bytes, uid) =
                (spec.cgroup_parent.clone(), spec.scratch_bytes, spec.vmm_uid);
            let kernel = spec.kernel.clone();
            // The listener registers with the runtime, which a blocking thread has too.
            let task = tokio::task::spawn_blocking(move || {
                launcher.prepare(&pod_id, parent.as_deref(), bytes, uid, kernel)
            });
            task.await.map_err(|e| {
                Error::new(ErrorKind::Internal, "preparing the VM was cut off").caused_by(e)
            })??
        };
        let (paths, ready) = (prepared.paths.clone(), prepared.ready);
        let cgroup = prepared.cgroup;
        let procs = prepared.procs;
        moments.spawned = clock::monotonic_ns();
        let interfaces = std::mem::take(&mut spec.interfaces);
        let inputs = VmmInputs {
            pod_id: spec.pod_id.clone(),
            boot_vcpus: spec.boot_vcpus,
            max_vcpus: spec.max_vcpus,
            memory_bytes: spec.memory_bytes,
            kernel: prepared.kernel,
            initramfs: prepared.initramfs,
            cmdline: cmdline::build(&CmdlineOptions {
                boot_vcpus: spec.boot_vcpus,
                console: self.config.console,
                extra: spec
                    .kernel_cmdline
                    .as_deref()
                    .unwrap_or(&self.config.extra_cmdline),
            }),
            scratch: (requests::SCRATCH.to_owned(), prepared.scratch),
            taps: interfaces
                .into_iter()
                .filter_map(|i| i.tap.map(|tap| (tap, i.mac, i.mtu)))
                .collect(),
            console: self.config.console,
            control: prepared.control,
            handover: prepared.handover,
            vsock: prepared.vsock,
            run_dir: paths.vm(),
            confine: self.config.confine.then_some(spec.vmm_uid),
            spawn_monotonic_ns: moments.spawned,
        };
        let process = self.spawn_vmm(inputs, procs, prepared.log)?;
        let process = Arc::new(process);
        let exited = monitor::watch(spec.pod_id.clone(), Arc::clone(&process), &paths);
        let state = State::new(process.pid(), process.start_ticks(), started_unix_ns);
        let state = StateFile::create(paths.state(), state)?;

        let notice = self.await_ready(&ready, &exited, &paths).await?;
        moments.ready = clock::monotonic_ns();
        drop(ready);
        let _ = fs::remove_file(ready_path(&paths));

        let (agent, control) = self.connect(&paths, started_unix_ns, exited.clone());
        // Now, not when the start began: a guest's clock behind the host's would put
        // a container's end before its creation.
        configure.clock_unix_ns = clock::unix_ns();
        agent.configure(&configure).await?;
        let seed = seed()?;
        agent.reseed(&seed).await?;
        moments.configured = clock::monotonic_ns();

        let vmm = control.status().await.ok();
        let vmm_timings = vmm.as_ref().and_then(|status| status.timings.as_ref());
        let timings = timings::phases(moments, vmm_timings, Some(&notice));
        info!(
            pid = process.pid(), kernel = %notice.kernel_release,
            took_ms = (moments.configured - moments.begun) / 1_000_000, "the pod's VM is ready"
        );
        Ok(Arc::new(Pod::new(Parts {
            place: MicroVm {
                control,
                vmm_pid: process.pid(),
            },
            cgroup: self.site.cgroup_of(&cgroup),
            record: SandboxRecord {
                pod_id: spec.pod_id,
                place: PlaceKind::MicroVm,
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
        })))
    }

    /// Makes files, sockets, cgroup and disk. Blocking.
    fn prepare(
        &self,
        pod_id: &str,
        cgroup_parent: Option<&str>,
        scratch_bytes: u64,
        uid: u32,
        kernel: Option<PathBuf>,
    ) -> Result<Prepared> {
        let plot = self.site.prepare(pod_id, cgroup_parent)?;
        let (paths, cgroup) = (plot.paths, plot.cgroup);
        let procs = plot.group.map(|group| group.procs()).transpose()?;
        let vm = paths.vm();
        make_dir(&vm, 0o700).map_err(at("make", &vm))?;

        let scratch = self.make_scratch(pod_id, scratch_bytes)?;
        let listen = |path: &Path| -> Result<OwnedFd> {
            let listener = sockets::listen(path).map_err(at("listen at", path))?;
            let private = fs::Permissions::from_mode(0o600);
            fs::set_permissions(path, private).map_err(at("protect", path))?;
            Ok(listener.into())
        };
        let (control, handover) = (
            listen(&control_path(&paths))?,
            listen(&handover_path(&paths))?,
        );
        let vsock = listen(&vsock_path(&paths))?;
        let ready_path = ready_path(&paths);
        let ready = ReadyListener::bind(&ready_path).map_err(at("listen at", &ready_path))?;
        if self.config.confine {
            for path in [&ready_path, &vm] {
                std::os::unix::fs::chown(path, Some(uid), Some(uid))
                    .map_err(at("give to the VMM", path))?;
            }
        }
        let open = |path: &Path| -> Result<OwnedFd> {
            Ok(File::open(path).map_err(at("open", path))?.into())
        };
        let log = open_log(&paths.vmm_log())?;
        Ok(Prepared {
            kernel: open(kernel.as_deref().unwrap_or(&self.config.kernel))?,
            initramfs: open(&self.initramfs)?,
            cgroup,
            procs,
            scratch,
            control,
            handover,
            vsock,
            ready,
            log,
            paths,
        })
    }

    /// Makes the pod's disk and takes its name away at once: from here on it is
    /// gone when the VMM is, whatever happens to the daemon.
    fn make_scratch(&self, pod_id: &str, bytes: u64) -> Result<OwnedFd> {
        let path = self.site.scratch_path(pod_id);
        let made = self.scratch.make(&path, bytes);
        let unlinked = match fs::remove_file(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound && made.is_err() => Ok(()),
            unlinked => unlinked,
        };
        let failed = |what: &str, e: io::Error| {
            Error::new(
                kind_of(&e),
                format!("cannot {what} the pod's disk {}", path.display()),
            )
            .caused_by(e)
        };
        let file = made.map_err(|e| failed("make", e))?;
        unlinked.map_err(|e| failed("unlink", e))?;
        Ok(file.into())
    }

    fn spawn_vmm(
        &self,
        inputs: VmmInputs,
        cgroup_procs: Option<File>,
        log: File,
    ) -> Result<Process> {
        let title = format!("bulkhead-vmm {}", inputs.pod_id);
        let failed = |e: io::Error| {
            Error::new(
                kind_of(&e),
                format!("cannot start the VMM {}", self.config.vmm.display()),
            )
            .caused_by(e)
        };
        let (message, mut inherited) = config::build(inputs).map_err(failed)?;
        let config = config::into_memfd(&message).map_err(failed)?;
        let args = vec![CONFIG_FD_FLAG.into(), config.as_raw_fd().to_string().into()];
        inherited.push(config);
        spawn::spawn_process(Spawn {
            program: &self.config.vmm,
            title,
            args,
            inherited,
            netns: None,
            cgroup_procs,
            log,
            log_filter: ("RUST_LOG", &self.config.vmm_log),
        })
        .map_err(failed)
    }

    /// Waits for the guest's notice, for the VMM's end, or for too long.
    async fn await_ready(
        &self,
        ready: &ReadyListener,
        exited: &watch::Receiver<Option<SandboxExit>>,
        paths: &PodPaths,
    ) -> Result<Ready> {
        let limit = self.config.ready_timeout;
        match start::notice(ready, exited, limit).await {
            Ok(notice) => Ok(notice),
            Err(NotReady::Broken(e)) => {
                Err(Error::new(ErrorKind::Internal, "cannot hear from the guest").caused_by(e))
            }
            Err(NotReady::Ended(message)) => Err(with_tail(
                format!("the VM ended before its agent was ready: {message}"),
                paths,
            )),
            Err(NotReady::Late) => Err(self.never_ready(paths, limit).await),
        }
    }

    async fn never_ready(&self, paths: &PodPaths, limit: Duration) -> Error {
        let control = VmmControl::new(
            control_path(paths),
            handover_path(paths),
            Duration::from_secs(2),
        );
        let console = timeout(Duration::from_secs(2), control.console()).await;
        let console = console.ok().and_then(Result::ok).unwrap_or_default();
        let words = crate::vmm::exit::last_words(&console);
        let said = if words.is_empty() {
            "its console is off or silent".to_owned()
        } else {
            format!("its console's last words:\n{words}")
        };
        let text = format!(
            "the guest's agent was not ready within {limit:?} (vm.boot_timeout_seconds); {said}"
        );
        Error::new(
            ErrorKind::DeadlineExceeded,
            with_tail(text, paths).to_string(),
        )
    }

    /// The clients of a VM.
    pub(super) fn connect(
        &self,
        paths: &PodPaths,
        started_unix_ns: i64,
        exited: watch::Receiver<Option<SandboxExit>>,
    ) -> (Arc<Agent>, VmmControl) {
        let dialer = Dialer::vsock(vsock_path(paths));
        let limit = self.config.call_timeout;
        let agent = Agent::new(dialer, limit, started_unix_ns, exited);
        let control = VmmControl::new(control_path(paths), handover_path(paths), limit);
        (Arc::new(agent), control)
    }
}

fn control_path(paths: &PodPaths) -> std::path::PathBuf {
    paths.dir().join("control.sock")
}

fn handover_path(paths: &PodPaths) -> std::path::PathBuf {
    paths.dir().join("handover.sock")
}

fn vsock_path(paths: &PodPaths) -> std::path::PathBuf {
    paths.dir().join("vsock.sock")
}

fn ready_path(paths: &PodPaths) -> std::path::PathBuf {
    paths.vm().join(format!("{VSOCK_PREFIX}_{READY_PORT}"))
}

fn with_tail(message: String, paths: &PodPaths) -> Error {
    let tail = process_log::log_tail(&paths.vmm_log());
    let message = if tail.is_empty() {
        message
    } else {
        format!("{message}; the VMM's log ends:\n{tail}")
    };
    Error::new(ErrorKind::Internal, message)
}

fn check(spec: &SandboxSpec) -> Result<()> {
    let bad = |text: String| Err(Error::new(ErrorKind::InvalidArgument, text));
    crate::paths::check_id("pod id", &spec.pod_id)?;
    if spec.boot_vcpus == 0 || spec.boot_vcpus > spec.max_vcpus || spec.max_vcpus > MAX_VCPUS {
        return bad(format!(
            "{} vCPUs at boot and {} at most: must be 1 to {MAX_VCPUS}, in that order",
            spec.boot_vcpus, spec.max_vcpus
        ));
    }
    if spec.memory_bytes < MIN_MEMORY {
        return bad(format!(
            "{} bytes of memory: a VM needs at least {MIN_MEMORY}",
            spec.memory_bytes
        ));
    }
    Ok(())
}

/// Entropy for the guest.
fn seed() -> Result<Vec<u8>> {
    let mut seed = Vec::with_capacity(64);
    for _ in 0..4 {
        let part = random_token().map_err(|e| {
            Error::new(ErrorKind::Internal, "cannot get entropy for the guest").caused_by(e)
        })?;
        seed.extend_from_slice(&part);
    }
    Ok(seed)
}
