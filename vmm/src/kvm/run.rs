//! vCPU threads: the loop around KVM_RUN, pausing and resuming.
//!
//! ```text
//!            kick                    Resume
//!  running ---------> parked (recv) ---------> running
//!                       | Save, Restore: on this thread, then parked again
//! ```
//!
//! A thread that ended its VM (power off, reset, panic, triple fault, error) reports
//! that and parks for good; ending the process is the main thread's business.

use std::{
    io,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use bulkhead_vmm_api::ExitReason;
use kvm_ioctls::{VcpuExit, VcpuFd};

use super::{
    Exit, ExitCounters, KvmError, VcpuState, Vm,
    kick::{self, Kick},
};
use crate::{
    devices::Ports,
    pci::PciBus,
    timings::{Milestone, Timings},
};

/// A vCPU's loop is shallow; only touched pages cost memory.
const STACK: usize = 128 << 10;
/// How often a pause looks whether vCPUs are out of the guest.
const PAUSE_POLL: Duration = Duration::from_millis(1);
/// How often the vCPU of a VM that ended looks whether it is to be paused.
const ENDED_POLL: Duration = Duration::from_millis(1);

/// How a VM ends: why, and one sentence about it.
pub type Ending = (ExitReason, String);

/// What vCPU threads share.
pub struct Machine {
    /// I/O ports.
    pub ports: Ports,
    /// The PCI bus.
    pub bus: Arc<PciBus>,
    /// Exit counts.
    pub exits: Arc<ExitCounters>,
    /// Start timings.
    pub timings: Arc<Timings>,
    /// Tells the main thread that the VM ends. Called at most once for each vCPU.
    pub end: Box<dyn Fn(Ending) + Send + Sync>,
    /// Confines the thread, before it first enters the guest.
    pub confine: Box<dyn Fn() -> io::Result<()> + Send + Sync>,
}

/// Numbers the pauses of a vCPU, so that what belongs to one that was given up cannot
/// be taken for the next one's. 0 stands for "run".
type Epoch = u64;

enum Command {
    /// Run on after this pause and those before it.
    Resume(Epoch),
    Save(mpsc::SyncSender<Result<VcpuState, KvmError>>),
    Restore(Box<VcpuState>, mpsc::SyncSender<Result<(), KvmError>>),
}

/// Why the vCPUs did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum VcpuError {
    /// A vCPU did not leave the guest or its device in time.
    #[error("vCPU {0} did not pause: it waits for a device")]
    Busy(u32),
    /// A vCPU's thread is gone.
    #[error("the thread of vCPU {0} is gone")]
    Gone(u32),
    /// Only a paused VM's state can be taken out or put back.
    #[error("the VM is not paused")]
    NotPaused,
    /// As many states as vCPUs are needed.
    #[error("{saved} saved vCPUs for a VM of {ours}")]
    Count {
        /// Saved states.
        saved: usize,
        /// vCPUs there are.
        ours: usize,
    },
    /// KVM refused.
    #[error(transparent)]
    Kvm(#[from] KvmError),
}

/// All vCPUs of the VM.
#[derive(Debug)]
pub struct VcpuSet {
    handles: Vec<Handle>,
    state: Mutex<PauseState>,
}

#[derive(Debug, Default)]
struct PauseState {
    phase: Phase,
    epoch: Epoch,
}

#[derive(Debug, Default)]
enum Phase {
    #[default]
    Running,
    /// Kicked; by vCPU, whether it is out of the guest.
    Pausing(Vec<bool>),
    Paused,
}

#[derive(Debug)]
struct Handle {
    id: u32,
    kick: Kick,
    pause: Arc<AtomicU64>,
    commands: mpsc::Sender<Command>,
    parked: Mutex<mpsc::Receiver<Epoch>>,
}

impl VcpuSet {
    /// Creates `count` vCPUs, a thread each, and lets them run: the first at `entry`.
    ///
    /// # Errors
    /// KVM's, or the host's when it refuses a thread.
    pub fn start(
        vm: &Vm,
        count: u32,
        entry: u64,
        machine: Arc<Machine>,
    ) -> Result<Self, StartError> {
        kick::install_handler().map_err(StartError::Signal)?;
        let vcpus = (0..count)
            .map(|id| vm.create_vcpu(id, count, entry))
            .collect::<Result<Vec<_>, _>>()?;
        let handles = (0..count)
            .zip(vcpus)
            .map(|(id, vcpu)| spawn(id, vcpu, machine.clone()))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            handles,
            state: Mutex::default(),
        })
    }

    fn state(&self) -> std::sync::MutexGuard<'_, PauseState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the VM is paused.
    #[must_use]
    pub fn is_paused(&self) -> bool {
        matches!(self.state().phase, Phase::Paused)
    }

    /// Takes all vCPUs out of the guest. Does nothing when they are out.
    ///
    /// # Errors
    /// [`VcpuError::Busy`] when after `limit` a vCPU still waits for a device; all then
    /// run on.
    pub fn pause(&self, limit: Duration) -> Result<(), VcpuError> {
        let deadline = Instant::now() + limit;
        loop {
            match self.poll_pause()? {
                None => return Ok(()),
                Some(busy) if Instant::now() >= deadline => {
                    self.resume();
                    return Err(VcpuError::Busy(busy));
                }
                Some(_) => thread::sleep(PAUSE_POLL),
            }
        }
    }

    /// Begins a pause, or looks how it goes: `None` when all vCPUs are out of the
    /// guest, else one that is not. To be called every few milliseconds;
    /// [`Self::resume`] gives up.
    ///
    /// # Errors
    /// [`VcpuError::Gone`]
    pub fn poll_pause(&self) -> Result<Option<u32>, VcpuError> {
        let mut state = self.state();
        if matches!(state.phase, Phase::Running) {
            state.epoch += 1;
            state.phase = Phase::Pausing(vec![false; self.handles.len()]);
        }
        let epoch = state.epoch;
        let Phase::Pausing(parked) = &mut state.phase else {
            return Ok(None);
        };
        let mut busy = None;
        for (handle, parked) in self.handles.iter().zip(parked) {
            if !*parked {
                // Once is enough for a vCPU in the guest; again does no harm.
                handle.pause.store(epoch, Ordering::SeqCst);
                handle.kick.send();
                *parked = handle.has_parked(epoch)?;
            }
            if !*parked {
                busy = Some(handle.id);
            }
        }
        if busy.is_none() {
            state.phase = Phase::Paused;
        }
        Ok(busy)
    }

    /// Lets all vCPUs run again, or gives a pause up. Does nothing when they run.
    pub fn resume(&self) {
        let mut state = self.state();
        if !matches!(state.phase, Phase::Running) {
            state.phase = Phase::Running;
            for handle in &self.handles {
                handle.resume(state.epoch);
            }
        }
    }

    /// The state of every vCPU of a paused VM.
    ///
    /// # Errors
    /// [`VcpuError`]
    pub fn save(&self) -> Result<Vec<VcpuState>, VcpuError> {
        if !self.is_paused() {
            return Err(VcpuError::NotPaused);
        }
        let save = |handle: &Handle| {
            let (reply, state) = mpsc::sync_channel(1);
            handle.ask(Command::Save(reply))?;
            Ok(state.recv().map_err(|_| VcpuError::Gone(handle.id))??)
        };
        self.handles.iter().map(save).collect()
    }

    /// Puts the states of all vCPUs of a paused VM back.
    ///
    /// # Errors
    /// [`VcpuError`]; the VM is then of no more use.
    pub fn restore(&self, states: &[VcpuState]) -> Result<(), VcpuError> {
        if !self.is_paused() {
            return Err(VcpuError::NotPaused);
        }
        if states.len() != self.handles.len() {
            return Err(VcpuError::Count {
                saved: states.len(),
                ours: self.handles.len(),
            });
        }
        for (handle, state) in self.handles.iter().zip(states) {
            let (reply, done) = mpsc::sync_channel(1);
            handle.ask(Command::Restore(Box::new(state.clone()), reply))?;
            done.recv().map_err(|_| VcpuError::Gone(handle.id))??;
        }
        Ok(())
    }
}

impl Handle {
    fn ask(&self, command: Command) -> Result<(), VcpuError> {
        self.commands
            .send(command)
            .map_err(|_| VcpuError::Gone(self.id))
    }

    fn resume(&self, epoch: Epoch) {
        self.pause.store(0, Ordering::SeqCst);
        // A thread that is gone has nothing to resume.
        let _ = self.commands.send(Command::Resume(epoch));
    }

    /// Whether the vCPU said that it is out of the guest for this pause.
    fn has_parked(&self, epoch: Epoch) -> Result<bool, VcpuError> {
        let parked = self.parked.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            match parked.try_recv() {
                Ok(parked) if parked == epoch => return Ok(true),
                // Late, for a pause that was given up.
                Ok(_) => {}
                Err(mpsc::TryRecvError::Empty) => return Ok(false),
                Err(mpsc::TryRecvError::Disconnected) => return Err(VcpuError::Gone(self.id)),
            }
        }
    }
}

/// Why vCPUs could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// KVM refused.
    #[error(transparent)]
    Kvm(#[from] KvmError),
    /// No handler for the kick.
    #[error("cannot install the signal handler that interrupts vCPUs: {0}")]
    Signal(io::Error),
    /// No thread.
    #[error("cannot start the thread of vCPU {id}: {source}")]
    Thread {
        /// Which vCPU.
        id: u32,
        /// The error.
        source: io::Error,
    },
}

fn spawn(id: u32, vcpu: VcpuFd, machine: Arc<Machine>) -> Result<Handle, StartError> {
    let failed = |source| StartError::Thread { id, source };
    // A vCPU lives as long as the process: see `Kick`.
    let vcpu: &'static mut VcpuFd = Box::leak(Box::new(vcpu));
    let (commands, inbox) = mpsc::channel();
    let (outbox, parked) = mpsc::channel();
    let (give_kick, kick) = mpsc::sync_channel(1);
    let pause = Arc::new(AtomicU64::new(0));
    let seen = pause.clone();
    thread::Builder::new()
        .name(format!("vcpu{id}"))
        .stack_size(STACK)
        .spawn(move || {
            let (kick, vcpu) = Kick::here(vcpu);
            // The starter waits for it.
            let _ = give_kick.send(kick);
            let thread = VcpuThread {
                id,
                vcpu,
                kick,
                pause: seen,
                inbox,
                outbox,
                machine,
            };
            thread.main();
        })
        .map_err(failed)?;
    let kick = kick
        .recv()
        .map_err(|_| failed(io::ErrorKind::BrokenPipe.into()))?;
    Ok(Handle {
        id,
        kick,
        pause,
        commands,
        parked: Mutex::new(parked),
    })
}

struct VcpuThread {
    id: u32,
    vcpu: &'static mut VcpuFd,
    kick: Kick,
    pause: Arc<AtomicU64>,
    inbox: mpsc::Receiver<Command>,
    outbox: mpsc::Sender<Epoch>,
    machine: Arc<Machine>,
}

impl VcpuThread {
    fn main(mut self) {
        let ending = match (self.machine.confine)() {
            Ok(()) => {
                if self.id == 0 {
                    self.machine.timings.reached(Milestone::FirstRun);
                }
                loop {
                    if let Some(ending) = self.step() {
                        break ending;
                    }
                }
            }
            Err(error) => (
                ExitReason::Internal,
                format!("vCPU {} cannot confine itself: {error}", self.id),
            ),
        };
        (self.machine.end)(ending);
        // Whoever pauses the VM from now on finds this vCPU parked; soon the process ends.
        loop {
            match self.pause.load(Ordering::SeqCst) {
                0 => thread::sleep(ENDED_POLL),
                epoch if self.park(epoch) => {}
                // The main thread is about to end the process. What this thread holds is
                // not to be dropped here, under a vCPU's filter.
                _ => thread::park(),
            }
        }
    }

    /// Enters the guest once and handles its exit.
    fn step(&mut self) -> Option<Ending> {
        let machine = &self.machine;
        let (exit, end) = match self.vcpu.run() {
            Ok(VcpuExit::IoIn(port, data)) => {
                let effect = machine.ports.read(port, data);
                (effect.exit, effect.end.map(plain))
            }
            Ok(VcpuExit::IoOut(port, data)) => {
                let effect = machine.ports.write(port, data);
                (effect.exit, effect.end.map(plain))
            }
            Ok(VcpuExit::MmioRead(address, data)) => (machine.bus.mmio_read(address, data), None),
            Ok(VcpuExit::MmioWrite(address, data)) => (machine.bus.mmio_write(address, data), None),
            Ok(VcpuExit::Hlt) => (Exit::Halt, None),
            Ok(VcpuExit::Intr) => (Exit::Signal, None),
            Ok(VcpuExit::Shutdown) => {
                let message = format!("the guest's vCPU {} ran into a triple fault", self.id);
                (Exit::Shutdown, Some((ExitReason::Reset, message)))
            }
            Ok(other) => {
                let message = format!("vCPU {} stopped: KVM reports {other:?}", self.id);
                (Exit::Other, Some((ExitReason::Internal, message)))
            }
            Err(error) if matches!(error.errno(), libc::EINTR | libc::EAGAIN) => {
                self.machine.exits.count(Exit::Signal);
                self.kick.clear();
                match self.pause.load(Ordering::SeqCst) {
                    0 => {}
                    epoch => {
                        self.park(epoch);
                    }
                }
                return None;
            }
            Err(error) => {
                let message = format!("KVM_RUN of vCPU {} failed: {error}", self.id);
                (Exit::Other, Some((ExitReason::Internal, message)))
            }
        };
        machine.exits.count(exit);
        end
    }

    /// Says that the vCPU is out of the guest and serves requests until it may go on.
    /// False when nobody holds the other end any more.
    fn park(&self, epoch: Epoch) -> bool {
        if self.outbox.send(epoch).is_err() {
            return false;
        }
        loop {
            match self.inbox.recv() {
                Ok(Command::Resume(until)) if until >= epoch => {
                    // Spares the guest a soft lockup warning. Not possible before it has
                    // set up its clock; then it needs no excuse either.
                    let _ = self.vcpu.kvmclock_ctrl();
                    return true;
                }
                // Left over from a pause that was given up before this vCPU parked.
                Ok(Command::Resume(_)) => {}
                // The asking side waits for the replies.
                Ok(Command::Save(reply)) => {
                    let _ = reply.send(VcpuState::save(self.vcpu));
                }
                Ok(Command::Restore(state, reply)) => {
                    let _ = reply.send(state.restore(self.vcpu));
                }
                Err(_) => return false,
            }
        }
    }
}

fn plain(reason: ExitReason) -> Ending {
    let message = match reason {
        ExitReason::Shutdown => "the guest powered itself off",
        ExitReason::Reset => "the guest reset itself",
        ExitReason::GuestPanic => "the guest's kernel panicked",
        _ => "the guest ended",
    };
    (reason, message.to_owned())
}
