//! A VM from its configuration to its end.

use std::{
    io,
    os::unix::net::UnixListener,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bulkhead_virtio::{
    blk::{Blk, BlkConfig, EngineKind, Pool},
    console::{Console, ConsoleTail as VirtioTail},
    device::{Device, Memory, ThreadHook},
    net::{Net, NetConfig},
    rng::Rng,
    vsock::{Vsock, VsockConfig},
};
use bulkhead_vmm_api::{ExitReason, ExitReport, MAX_CONSOLE_TAIL};
use tokio::sync::mpsc;

use crate::{
    acpi, boot,
    config::{Config, Disk, Fd},
    console::ConsoleTail,
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
    kvm::{Ending, ExitCounters, KvmError, Machine, StartError, VcpuSet, Vm},
    layout, memory,
    pci::{PciBus, SlotError, VirtioFunction, virtio::Surroundings},
    timings::{Milestone, Timings},
};

/// Queue entries of a read-only disk: an image layer, of which there may be many.
const LAYER_QUEUE: u16 = 32;
/// Queue entries of a writable disk.
const SCRATCH_QUEUE: u16 = 128;
/// Threads that serve all disks together, at most.
const DISK_THREADS: u32 = 4;
/// How long devices may take to finish their I/O when the VM ends.
const DEVICES_STOP: Duration = Duration::from_secs(3);
/// How long vCPUs may take to leave the guest when the VM ends.
const VCPUS_STOP: Duration = Duration::from_secs(1);

/// What the control service acts on.
pub struct Controlled {
    /// vCPUs.
    pub vcpus: VcpuSet,
    /// The bus.
    pub bus: Arc<PciBus>,
    /// Exit counts.
    pub exits: Arc<ExitCounters>,
    /// Start timings.
    pub timings: Arc<Timings>,
    /// The console.
    pub console: Consoles,
    /// What a new device needs.
    pub surroundings: Surroundings,
    /// Serves all disks.
    pub pool: Pool,
    /// Descriptors handed over.
    pub handed: Handed,
    /// Ends the VM.
    pub end: mpsc::Sender<Ending>,
}

/// Where the guest's output is kept.
#[derive(Clone, Debug, Default)]
pub struct Consoles {
    serial: ConsoleTail,
    virtio: VirtioTail,
}

impl Consoles {
    /// The last bytes, and how many there were in all.
    #[must_use]
    pub fn tail(&self) -> (Vec<u8>, u64) {
        let (mut bytes, total) = self.serial.snapshot();
        bytes.extend(self.virtio.bytes());
        let excess = bytes.len().saturating_sub(MAX_CONSOLE_TAIL);
        bytes.drain(..excess);
        (bytes, total.saturating_add(self.virtio.total()))
    }
}

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
        // Neither needs the other, and each takes milliseconds.
        let (loaded, vm) = std::thread::scope(|scope| {
            let loading = std::thread::Builder::new()
                .name("load".into())
                .spawn_scoped(scope, || {
                    let loaded = load(&config, &mut fds);
                    timings.reached(Milestone::Loaded);
                    loaded
                })
                .map_err(|e| Fatal::internal(&e))?;
            let vm = Vm::create(config.max_vcpus);
            timings.reached(Milestone::VmCreated);
            let loaded = loading.join().map_err(|_| Fatal {
                reason: ExitReason::Internal,
                message: "loading the guest's memory failed unexpectedly".into(),
            })?;
            Ok::<_, Fatal>((loaded, vm))
        })?;
        let (memory, entry) = loaded?;
        let vm = vm.map_err(|e| kvm_fatal(&e))?;
        vm.set_memory(&memory).map_err(|e| kvm_fatal(&e))?;

        if let Some(who) = config.confinement {
            jail::confine(&config.run_dir, who).map_err(|e| Fatal::internal(&e))?;
        }
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .map_err(|e| Fatal::internal(&e))?;
        timings.reached(Milestone::Confined);

        let consoles = Consoles::default();
        let surroundings = Surroundings {
            memory,
            events: Arc::new(KvmEvents::new(vm.fd())),
            device_thread: start_device_thread(filters.clone())?,
            thread_hook: thread_hook(filters.clone()),
        };
        let pool = Pool::new(
            "blk",
            usize::try_from(config.max_vcpus.min(DISK_THREADS)).unwrap_or(1),
            EngineKind::Auto,
        );
        let bus = Arc::new(PciBus::default());
        for device in devices(&config, &mut fds, &consoles, &pool)? {
            add(&bus, device, &surroundings).map_err(|e| Fatal::internal(&e))?;
        }
        timings.reached(Milestone::Devices);

        let exits = Arc::new(ExitCounters::default());
        // Each vCPU says at most once that the VM ended, and the control service once.
        let room = usize::try_from(config.max_vcpus).unwrap_or(0) + 1;
        let (end, endings) = mpsc::channel(room);
        let vcpu_end = end.clone();
        let vcpu_filters = filters.clone();
        let machine = Machine {
            ports: Ports::new(config.debug_serial.then(|| consoles.serial.clone())),
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
                StartError::Kvm(kvm) => kvm_fatal(kvm),
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

/// Puts the guest's memory together: the memory, and where the kernel begins.
fn load(config: &Config, fds: &mut Descriptors) -> Result<(Memory, u64), Fatal> {
    let bytes = config.memory_bytes;
    let guest = memory::allocate(bytes).map_err(|e| Fatal::internal(&e))?;
    let file = fds.file(config.kernel).map_err(|e| Fatal::config(&e))?;
    memory::prefer_huge_pages(&guest, layout::KERNEL, len(&file));
    let kernel = boot::kernel::load(guest.as_ref(), bytes, file).map_err(|e| Fatal::config(&e))?;
    let initramfs = match config.initramfs {
        None => None,
        Some(fd) => {
            let file = fds.file(fd).map_err(|e| Fatal::config(&e))?;
            let len = len(&file);
            if let Some(start) = layout::initramfs(bytes, len, kernel.end) {
                memory::prefer_huge_pages(&guest, start, len);
            }
            let loaded = boot::kernel::load_initramfs(guest.as_ref(), bytes, kernel.end, file);
            Some(loaded.map_err(|e| Fatal::config(&e))?)
        }
    };
    let rsdp = acpi::write(guest.as_ref(), config.max_vcpus).map_err(|e| Fatal::internal(&e))?;
    let vcpus = (config.boot_vcpus, config.max_vcpus);
    boot::write_tables(&guest, bytes, &config.cmdline, vcpus, initramfs, rsdp)
        .map_err(|e| Fatal::config(&e))?;
    Ok((guest, kernel.entry))
}

/// A file's length, as far as it matters for advice.
fn len(file: &std::fs::File) -> u64 {
    file.metadata().map_or(0, |metadata| metadata.len())
}

fn kvm_fatal(error: &KvmError) -> Fatal {
    let reason = match error {
        KvmError::Ioctl { .. } => ExitReason::Internal,
        KvmError::TooManyVcpus { .. } => ExitReason::BadConfig,
        _ => ExitReason::KvmUnusable,
    };
    Fatal::new(reason, error)
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

/// The devices of the configuration, in the order of their places on the bus.
fn devices(
    config: &Config,
    fds: &mut Descriptors,
    consoles: &Consoles,
    pool: &Pool,
) -> Result<Vec<Box<dyn Device>>, Fatal> {
    let mut devices: Vec<Box<dyn Device>> = Vec::new();
    if let Some(vsock) = &config.vsock {
        let device = Vsock::new(VsockConfig {
            guest_cid: vsock.guest_cid,
            listener: fds
                .listener(vsock.listener)
                .map_err(|e| Fatal::config(&e))?,
            uds_prefix: uds_prefix(config, &vsock.uds_prefix),
        });
        devices.push(Box::new(device.map_err(|e| unusable("vsock", &e))?));
    }
    if config.console {
        devices.push(Box::new(Console::new(consoles.virtio.clone(), None)));
    }
    if config.rng {
        devices.push(Box::new(Rng::new()));
    }
    for (index, net) in (0u32..).zip(&config.nets) {
        let device = Net::new(NetConfig {
            tap: fds.take(net.tap).map_err(|e| Fatal::config(&e))?,
            mac: net.mac,
            mtu: net.mtu,
            check_source: true,
            index,
        });
        devices.push(Box::new(
            device.map_err(|e| unusable(&format!("net {index}"), &e))?,
        ));
    }
    for disk in &config.disks {
        let file = fds.file(disk.file).map_err(|e| Fatal::config(&e))?;
        let device = new_disk(disk, file, pool)
            .map_err(|e| unusable(&format!("disk {}", disk.serial), &e))?;
        devices.push(device);
    }
    Ok(devices)
}

/// Where the guest's outgoing connections go, as this process will see it: the run
/// directory is its root once it is confined.
fn uds_prefix(config: &Config, prefix: &str) -> PathBuf {
    let root = match config.confinement {
        Some(_) => Path::new("/"),
        None => &config.run_dir,
    };
    root.join(prefix)
}

fn unusable(device: &str, error: &io::Error) -> Fatal {
    Fatal {
        reason: ExitReason::BadConfig,
        message: format!("{device} cannot be used: {error}"),
    }
}

/// A disk on `file`, which takes the place of the descriptor number in `disk`.
///
/// # Errors
/// When the file is no disk.
pub fn new_disk(disk: &Disk, file: std::fs::File, pool: &Pool) -> io::Result<Box<dyn Device>> {
    let device = Blk::new(BlkConfig {
        file,
        serial: disk.serial.clone(),
        read_only: disk.read_only,
        ephemeral: disk.ephemeral,
        queues: disk.queues,
        queue_size: if disk.read_only {
            LAYER_QUEUE
        } else {
            SCRATCH_QUEUE
        },
        pool: pool.clone(),
    })?;
    Ok(Box::new(device))
}

/// Why a device could not be added.
#[derive(Debug, thiserror::Error)]
pub enum AddError {
    /// No place on the bus.
    #[error(transparent)]
    Slot(#[from] SlotError),
    /// No descriptors, most likely.
    #[error("cannot put the device on the bus: {0}")]
    Function(#[from] io::Error),
}

/// Puts a device on the bus. Not to be called from two threads at once.
///
/// # Errors
/// [`AddError`]
pub fn add(
    bus: &PciBus,
    device: Box<dyn Device>,
    surroundings: &Surroundings,
) -> Result<Arc<VirtioFunction>, AddError> {
    let devfn = bus.next_free()?;
    let function = VirtioFunction::new(devfn, device, surroundings.clone())?;
    bus.add(function.clone());
    Ok(function)
}

const _: () = assert!(layout::MAX_VCPUS <= u8::MAX as u32);
