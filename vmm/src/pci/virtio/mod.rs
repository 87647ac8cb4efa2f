//! virtio over PCI, modern only (virtio 1.3, section 4.1).
//!
//! A [`VirtioFunction`] joins a configuration space, the common registers, an MSI-X
//! table and a [`Device`]. Registers are read and written by vCPU threads under one
//! lock. Starting and stopping the device happens on the [`DeviceThread`], for which
//! the vCPU waits: threads inherit the seccomp filter of the thread that starts them,
//! and a vCPU's filter must not allow what a disk's worker needs.

mod capabilities;
mod common;
mod interrupt;
mod lifecycle;

pub use capabilities::MAX_QUEUES;
pub use lifecycle::{FunctionState, RestoreError};

use std::{
    io,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
};

use bulkhead_virtio::device::{Device, Memory, ThreadHook};
use vmm_sys_util::eventfd::EventFd;

use self::{
    capabilities::{
        BarAccess, COMMON, DEVICE, DEVICE_SIZE, INTERRUPT_STATUS, MSIX_PENDING, MSIX_TABLE, NOTIFY,
        Offsets,
    },
    common::{Action, CommonConfig},
};
use super::{
    Devfn, Ecam,
    config_space::ConfigSpace,
    msix::{ENTRY_SIZE, Msix},
};
use crate::{device_thread::DeviceThread, irq::Events, kvm::Exit};

/// What a function needs of the machine around it.
#[derive(Clone)]
pub struct Surroundings {
    /// Guest memory.
    pub memory: Memory,
    /// Interrupt and notification plumbing.
    pub events: Arc<dyn Events>,
    /// Where devices are started and stopped.
    pub device_thread: DeviceThread,
    /// Confines a device's threads.
    pub thread_hook: ThreadHook,
    /// What the guest reads configuration space from, if not by exits.
    pub ecam: Option<Arc<Ecam>>,
}

impl std::fmt::Debug for Surroundings {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Surroundings").finish_non_exhaustive()
    }
}

/// A virtio device on the bus.
#[derive(Debug)]
pub struct VirtioFunction {
    devfn: Devfn,
    name: String,
    surroundings: Surroundings,
    exits: AtomicU64,
    /// Where the BAR answers; [`NOWHERE`] if it does not. Changed under the lock of
    /// `state`, read without it to find the function of an address.
    decoded: AtomicU64,
    state: Mutex<State>,
}

/// No address of a BAR.
const NOWHERE: u64 = u64::MAX;

struct State {
    space: ConfigSpace,
    offsets: Offsets,
    common: CommonConfig,
    msix: Msix,
    device: Box<dyn Device>,
    active: bool,
    /// The queues' notifications while the device is active, with the addresses at
    /// which the kernel takes them.
    kicks: Vec<Option<(EventFd, Option<u64>)>>,
    interrupt_status: Arc<AtomicU8>,
    generation: Arc<AtomicU8>,
    /// Whether the function is on the bus: its place may be another's already.
    visible: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("State")
            .field("common", &self.common)
            .field("active", &self.active)
            .finish_non_exhaustive()
    }
}

/// A device's condition, for status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// Whether its driver runs it.
    pub activated: bool,
    /// Why it stopped serving its driver, if it did.
    pub failure: Option<String>,
}

impl VirtioFunction {
    /// Puts `device` at `devfn`.
    ///
    /// # Errors
    /// When the host gives no eventfds, or the device has more than [`MAX_QUEUES`].
    pub fn new(
        devfn: Devfn,
        device: Box<dyn Device>,
        surroundings: Surroundings,
    ) -> io::Result<Arc<Self>> {
        let sizes = device.queue_max_sizes().to_vec();
        if sizes.len() > MAX_QUEUES {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{} queues, at most {MAX_QUEUES} fit", sizes.len()),
            ));
        }
        // One vector for each queue, and one for configuration changes.
        let msix = Msix::new(sizes.len() + 1, surroundings.events.clone())?;
        let queues = u32::try_from(sizes.len()).unwrap_or(0);
        let (space, offsets) =
            capabilities::config_space(device.device_type(), devfn.0, queues, &msix)
                .ok_or_else(|| io::Error::other("the capabilities do not fit"))?;
        Ok(Arc::new(Self {
            devfn,
            name: device.name(),
            surroundings,
            exits: AtomicU64::new(0),
            decoded: AtomicU64::new(space.decoded().unwrap_or(NOWHERE)),
            state: Mutex::new(State {
                space,
                offsets,
                common: CommonConfig::new(device.features(), &sizes, msix.len()),
                msix,
                device,
                active: false,
                kicks: Vec::new(),
                interrupt_status: Arc::default(),
                generation: Arc::default(),
                visible: false,
            }),
        }))
    }

    /// Its place on the bus.
    #[must_use]
    pub fn devfn(&self) -> Devfn {
        self.devfn
    }

    /// The device's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether its BAR answers at `base`.
    #[must_use]
    pub fn answers(&self, base: u64) -> bool {
        self.decoded.load(Ordering::Acquire) == base
    }

    /// Exits that its registers caused.
    #[must_use]
    pub fn exits(&self) -> u64 {
        self.exits.load(Ordering::Relaxed)
    }

    /// Its condition, or `None` while the device is being started or stopped.
    #[must_use]
    pub fn condition(&self) -> Option<Condition> {
        let state = match self.state.try_lock() {
            Ok(state) => state,
            Err(std::sync::TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(std::sync::TryLockError::WouldBlock) => return None,
        };
        Some(Condition {
            activated: state.active,
            failure: state.device.failure(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn counted(&self, exit: Exit) -> Exit {
        self.exits.fetch_add(1, Ordering::Relaxed);
        exit
    }

    /// Makes the function visible.
    pub(super) fn appear(&self) {
        let mut state = self.lock();
        state.visible = true;
        if let Some(ecam) = &self.surroundings.ecam {
            ecam.appear(self.devfn, state.space.registers());
        }
    }

    /// Makes it invisible again.
    pub(super) fn disappear(&self) {
        let mut state = self.lock();
        state.visible = false;
        if let Some(ecam) = &self.surroundings.ecam {
            ecam.disappear(self.devfn);
        }
    }

    /// The registers have changed.
    fn tell(&self, state: &State) {
        if let (Some(ecam), true) = (&self.surroundings.ecam, state.visible) {
            ecam.write(self.devfn, state.space.registers());
        }
    }

    /// A read of the function's ECAM page.
    pub fn config_read(&self, offset: usize, data: &mut [u8]) -> Exit {
        let mut state = self.lock();
        let access = state.offsets.access;
        let window = (offset == capabilities::access_data(access))
            .then(|| capabilities::bar_access(&state.space, access))
            .flatten();
        match window {
            Some(BarAccess { offset, length }) => {
                data.fill(0);
                if let Some(part) = data.get_mut(..length) {
                    state.read_bar(offset, part);
                }
            }
            None => state.space.read(offset, data),
        }
        self.counted(Exit::EcamRead)
    }

    /// A write to the function's ECAM page.
    pub fn config_write(self: &Arc<Self>, offset: usize, data: &[u8]) -> Exit {
        let mut state = self.lock();
        let written = state.space.write(offset, data);
        self.tell(&state);
        let Offsets { msix, access } = state.offsets;
        let mut action = Action::None;
        let mut moved = false;
        if written.decoding {
            let now = state.space.decoded().unwrap_or(NOWHERE);
            let before = self.decoded.swap(now, Ordering::AcqRel);
            moved = state.active && now != before;
        } else if written.capability == Some(msix) {
            let mut control = [0; 2];
            state.space.read(msix + 2, &mut control);
            state.msix.set_control(u16::from_le_bytes(control));
        } else if written.capability == Some(access)
            && offset == capabilities::access_data(access)
            && let Some(BarAccess { offset, length }) =
                capabilities::bar_access(&state.space, access)
            && let Some(part) = data.get(..length)
        {
            action = state.write_bar(offset, part);
        }
        drop(state);
        if written.capability == Some(access)
            && let Some(ecam) = self.surroundings.ecam.clone()
        {
            // What its data reads as isn't memory.
            self.surroundings.device_thread.run(move || ecam.give_up());
        }
        if moved {
            let function = self.clone();
            self.surroundings
                .device_thread
                .run(move || function.move_notifications());
        }
        self.act(action);
        self.counted(Exit::EcamWrite)
    }

    /// A read of the BAR.
    pub fn bar_read(&self, offset: u64, data: &mut [u8]) -> Exit {
        self.lock().read_bar(offset, data);
        self.counted(exit(offset, false))
    }

    /// A write to the BAR.
    pub fn bar_write(self: &Arc<Self>, offset: u64, data: &[u8]) -> Exit {
        let action = self.lock().write_bar(offset, data);
        self.act(action);
        self.counted(exit(offset, true))
    }

    /// Starts or stops the device on the device thread, and waits for it.
    fn act(self: &Arc<Self>, action: Action) {
        let function = self.clone();
        match action {
            Action::None => {}
            Action::Activate => {
                self.surroundings
                    .device_thread
                    .run(move || function.activate());
            }
            Action::Reset => {
                self.surroundings
                    .device_thread
                    .run(move || function.reset());
            }
        }
    }
}

/// What kind of exit an access to the BAR is.
fn exit(offset: u64, write: bool) -> Exit {
    match offset {
        INTERRUPT_STATUS..DEVICE => Exit::InterruptStatus,
        DEVICE..MSIX_TABLE => Exit::DeviceConfig,
        MSIX_TABLE..NOTIFY => Exit::Msix,
        NOTIFY.. => Exit::Notify,
        _ if write => Exit::CommonWrite,
        _ => Exit::CommonRead,
    }
}

impl State {
    fn read_bar(&mut self, offset: u64, data: &mut [u8]) {
        let within = |base: u64| usize::try_from(offset - base).unwrap_or(usize::MAX);
        data.fill(0);
        match offset {
            COMMON..INTERRUPT_STATUS => {
                let generation = self.generation.load(Ordering::SeqCst);
                self.common.read(within(COMMON), data, generation);
            }
            INTERRUPT_STATUS => {
                // Reading acknowledges.
                if let Some(byte) = data.first_mut() {
                    *byte = self.interrupt_status.swap(0, Ordering::SeqCst);
                }
            }
            DEVICE..MSIX_TABLE => {
                let room = usize::try_from(DEVICE + DEVICE_SIZE - offset).unwrap_or(0);
                let len = data.len().min(room);
                if let Some(data) = data.get_mut(..len) {
                    self.device.read_config(offset - DEVICE, data);
                }
            }
            MSIX_TABLE..MSIX_PENDING => self.msix.read_table(within(MSIX_TABLE), data),
            MSIX_PENDING..NOTIFY => self.msix.read_pending(within(MSIX_PENDING), data),
            _ => {}
        }
    }

    fn write_bar(&mut self, offset: u64, data: &[u8]) -> Action {
        let within = |base: u64| usize::try_from(offset - base).unwrap_or(usize::MAX);
        match offset {
            COMMON..INTERRUPT_STATUS => return self.common.write(within(COMMON), data),
            DEVICE..MSIX_TABLE => self.device.write_config(offset - DEVICE, data),
            MSIX_TABLE..MSIX_PENDING => self.msix.write_table(within(MSIX_TABLE), data),
            NOTIFY.. => {
                // Only where the host had no ioeventfd left.
                let queue = within(NOTIFY) / capabilities::NOTIFY_MULTIPLIER as usize;
                if let Some(Some((kick, _))) = self.kicks.get(queue) {
                    // Fails only when the counter is full: the device is kicked anyway.
                    let _ = kick.write(1);
                }
            }
            _ => {}
        }
        Action::None
    }
}

const _: () = assert!(MSIX_TABLE + (MAX_QUEUES as u64 + 1) * ENTRY_SIZE as u64 <= MSIX_PENDING);

#[cfg(test)]
mod tests;
