//! A VM from its configuration to its end.
//!
//! * `guest`: its memory, with everything that is loaded before the start.
//! * `devices`: what is on its bus.
//! * `controlled`: what the control service acts on while it runs.

mod controlled;
mod devices;
mod guest;

pub use controlled::{Consoles, Controlled};
pub use devices::{AddError, add, new_disk};

use std::{os::unix::net::UnixListener, sync::Arc, time::Duration};

use bulkhead_virtio::device::ThreadHook;
use bulkhead_vmm_api::{ExitReason, ExitReport};
use tokio::sync::mpsc;

use crate::{
    config::{Config, Fd},
    control,
    descriptors::{self, Descriptors},
    device_thread::DeviceThread,
    devices::Ports,
    exit::{Fatal, ReportFile},
    handover::Handed,
    irq::KvmEvents,
    jail::{
        self,
        seccomp::{Filters, Kind},
    },
    kvm::{Ending, ExitCounters, Machine, StartError, VcpuSet},
    pci::{Ecam, PciBus, virtio::Surroundings},
    timings::{Milestone, Timings},
};

/// How long devices may take to finish their I/O when the VM ends.
const DEVICES_STOP: Duration = Duration::from_secs(3);
/// How long vCPUs may take to leave the guest when the VM ends.
const VCPUS_STOP: Duration = Duration::from_secs(1);

/// Runs the VM whose configuration is at descriptor `config`, to its end. Returns why
/// it ended; the process is to exit with that status.
pub fn run(config: Fd, timings: Timings) -> ExitReason {
    let (mut report, ending, consoles, exits) = match prepare(config) {
        Err(fatal) => (None, (fatal.reason, fatal.message), None, None),
        Ok((config, descriptors, report)) => {
            let vm = RunningVm::start(config, descriptors, timings);
            match vm {
                Err(fatal) => (Some(report), (fatal.reason, fatal.message), None, None),
                Ok(vm) => {
                    let (consoles, exits) = (vm.consoles.clone(), vm.exits.clone());
                    (Some(report), vm.serve(), Some(consoles), Some(exits))
                }
            }
        }
    };
    let (reason, message) = ending;
    let console = consoles.unwrap_or_default().tail().0;
    let content = ExitReport {
        reason: reason.as_str().into(),
        message: message.clone(),
        console: String::from_utf8_lossy(&console).into_owned(),
        exits: exits.map(|exits| exits.by_reason()).unwrap_or_default(),
    };
    if let Some(report) = &mut report
        && let Err(error) = report.write(&content)
    {
        tracing::error!(%error, "cannot write the exit report");
    }
    match reason {
        ExitReason::Shutdown | ExitReason::Stopped => tracing::info!("{message}"),
        _ => tracing::error!(reason = reason.as_str(), "{message}"),
    }
    reason
}

/// Reads the configuration, adopts what is inherited, and opens the report.
fn prepare(fd: Fd) -> Result<(Config, Descriptors, ReportFile), Fatal> {
    let bytes = descriptors::read_config(fd).map_err(|e| Fatal::config(&e))?;
    let config = Config::parse(&bytes).map_err(|e| Fatal::config(&e))?;
    let mut descriptors = Descriptors::adopt(&config).map_err(|e| Fatal::config(&e))?;
    if let Some(procs) = config.cgroup_procs {
        let procs = descriptors.file(procs).map_err(|e| Fatal::config(&e))?;
        jail::enter_cgroup(procs).map_err(|e| Fatal::internal(&e))?;
    }
    let report = ReportFile::create(&config.run_dir).map_err(|e| Fatal {
        reason: ExitReason::BadConfig,
        message: format!(
            "cannot create the exit report in {}: {e}",
            config.run_dir.display()
        ),
    })?;
    Ok((config, descriptors, report))
}

/// A VM whose vCPUs run.
struct RunningVm {
    runtime: tokio::runtime::Runtime,
    controlled: Arc<Controlled>,
    control: UnixListener,
    handover: Option<UnixListener>,
    endings: mpsc::Receiver<Ending>,
    consoles: Consoles,
    exits: Arc<ExitCounters>,
}

impl RunningVm {
    fn start(config: Config, mut fds: Descriptors, timings: Timings) -> Result<Self, Fatal> {
        let timings = Arc::new(timings);
        timings.set(Milestone::Spawn, config.spawn_monotonic_ns);
        timings.reached(Milestone::Configured);
        let filters = match config.confinement {
            Some(_) => Some(Arc::new(
                Filters::compile().map_err(|e| Fatal::internal(&e))?,
            )),
            None => None,
        };
        let (vm, memory, entry) = guest::build(&config, &mut fds, &timings)?;
        if let Some(who) = config.confinement {
            jail::confine(&config.run_dir, who).map_err(|e| Fatal::internal(&e))?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Fatal::internal(&e))?;
        timings.reached(Milestone::Confined);

        let ecam = Arc::new(Ecam::new().map_err(|e| Fatal::internal(&e))?);
        vm.show(&ecam).map_err(|e| guest::kvm_fatal(&e))?;
        let consoles = Consoles::default();
        let surroundings = Surroundings {
            memory,
            events: Arc::new(KvmEvents::new(vm.fd())),
            device_thread: start_device_thread(filters.clone())?,
            thread_hook: thread_hook(filters.clone()),
            ecam: Some(ecam),
        };
        let pool = devices::pool(config.max_vcpus);
        let bus = Arc::new(PciBus::default());
        for device in devices::all(&config, &mut fds, &consoles, &pool)? {
            devices::add(&bus, device, &surroundings).map_err(|e| Fatal::internal(&e))?;
        }
        timings.reached(Milestone::Devices);

        let exits = Arc::new(ExitCounters::default());
        // Each vCPU says at most once that the VM ended, and the control service once.
        let room = usize::try_from(config.max_vcpus).unwrap_or(0) + 1;
        let (end, endings) = mpsc::channel(room);
        let vcpu_end = end.clone();
        let vcpu_filters = filters.clone();
        let machine = Machine {
            ports: Ports::new(config.debug_serial.then(|| consoles.serial())),
            bus: bus.clone(),
            exits: exits.clone(),
            timings: timings.clone(),
            end: Box::new(move |ending| {
                // Full only if the VM's end was announced already.
                let _ = vcpu_end.try_send(ending);
            }),
            confine: Box::new(move || match &vcpu_filters {
                Some(filters) => filters.apply(&Kind::Vcpu),
                None => Ok(()),
            }),
        };
        let vcpus = VcpuSet::start(&vm, config.max_vcpus, entry, Arc::new(machine)).map_err(
            |e| match &e {
                StartError::Kvm(kvm) => guest::kvm_fatal(kvm),
                _ => Fatal::internal(&e),
            },
        )?;
        let control = fds
            .listener(config.control)
            .map_err(|e| Fatal::config(&e))?;
        let handover = config
            .handover
            .map(|fd| fds.listener(fd))
            .transpose()
            .map_err(|e| Fatal::config(&e))?;
        for listener in std::iter::once(&control).chain(&handover) {
            listener.set_nonblocking(true).map_err(|e| Fatal {
                reason: ExitReason::BadConfig,
                message: format!("a control socket cannot be used: {e}"),
            })?;
        }
        // Nothing that the guest says reaches this thread before its filter is there.
        if let Some(filters) = &filters {
            filters
                .apply(&Kind::Main)
                .map_err(|e| Fatal::internal(&e))?;
        }
        Ok(Self {
            runtime,
            controlled: Arc::new(Controlled {
                vcpus,
                bus,
                exits: exits.clone(),
                timings,
                console: consoles.clone(),
                surroundings,
                pool,
                handed: Handed::default(),
                end,
            }),
            control,
            handover,
            endings,
            consoles,
            exits,
        })
    }

    /// Serves the daemon until the VM ends.
    fn serve(mut self) -> Ending {
        let controlled = self.controlled.clone();
        let ending = self.runtime.block_on(async {
            let served = control::serve(self.control, self.handover, controlled.clone()).await;
            match served {
                Err(error) => (
                    ExitReason::Internal,
                    format!("cannot serve the control socket: {error}"),
                ),
                Ok(_server) => {
                    let ending = self.endings.recv().await;
                    let ran = controlled.timings.since(Milestone::FirstRun);
                    wind_down(&controlled).await;
                    let stopped = controlled.timings.since(Milestone::FirstRun);
                    tracing::debug!(?ran, ?stopped, "wound down");
                    ending.unwrap_or((ExitReason::Internal, "nobody can end the VM".into()))
                }
            }
        });
        // Tasks still hold the VM; the process ends now and takes them along.
        self.runtime.shutdown_background();
        ending
    }
}

/// Takes the vCPUs out of the guest and stops the devices: what the guest wrote to its
/// disks and its console arrives. Bounded: a device that hangs is left behind.
async fn wind_down(controlled: &Arc<Controlled>) {
    let paused = tokio::time::timeout(VCPUS_STOP, async {
        while matches!(controlled.vcpus.poll_pause(), Ok(Some(_))) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    });
    if paused.await.is_err() {
        tracing::warn!("a vCPU did not stop");
    }
    let functions = controlled.bus.functions();
    let stopped = controlled
        .surroundings
        .device_thread
        .start_job(move || functions.iter().for_each(|function| function.shut_down()));
    if tokio::time::timeout(DEVICES_STOP, stopped).await.is_err() {
        tracing::warn!("a device did not stop in time; its last writes may be lost");
    }
}

fn start_device_thread(filters: Option<Arc<Filters>>) -> Result<DeviceThread, Fatal> {
    let first = move || {
        if let Some(filters) = filters
            && let Err(error) = filters.apply(&Kind::Devices)
        {
            // Unconfined it must not serve a guest, and without it there is no VM.
            tracing::error!(%error, "the device thread cannot confine itself");
            std::process::exit(i32::from(ExitReason::Internal as u8));
        }
    };
    DeviceThread::start(first).map_err(|e| Fatal::internal(&e))
}

fn thread_hook(filters: Option<Arc<Filters>>) -> ThreadHook {
    Arc::new(move |worker| match &filters {
        Some(filters) => filters.apply_worker(worker),
        None => Ok(()),
    })
}
