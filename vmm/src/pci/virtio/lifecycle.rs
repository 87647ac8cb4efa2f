//! Starting, stopping, saving and restoring a function's device. All of it runs on
//! the device thread, or on the one thread there is in a test.

use std::{
    io,
    sync::{
        Arc,
        atomic::Ordering::{Release, SeqCst},
    },
};

use bulkhead_virtio::device::{Activation, ActiveQueue, Interrupt};
use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{
    State, VirtioFunction,
    capabilities::{NOTIFY, NOTIFY_MULTIPLIER},
    common::CommonState,
    interrupt::{ConfigInterrupt, QueueInterrupt},
};
use crate::pci::msix::MsixState;

/// A function as it was: plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionState {
    /// The device's name, to find it by.
    pub name: String,
    /// device << 3 | function.
    pub devfn: u8,
    command: u16,
    bar: u64,
    common: CommonState,
    msix: MsixState,
    generation: u8,
}

/// Why a function's state cannot be put back.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It belongs to another device.
    #[error("the saved state of {saved} does not fit {ours}: {reason}")]
    Mismatch {
        /// Whose state it is.
        saved: String,
        /// Whom it was put on.
        ours: String,
        /// What differs.
        reason: String,
    },
    /// The device would not start with it.
    #[error("{0} did not start from its saved state")]
    Start(String),
}

impl VirtioFunction {
    /// DRIVER_OK was set: starts the device. If that fails it needs a reset.
    pub(super) fn activate(&self) {
        let mut state = self.lock();
        // The driver may have reset it since, or set DRIVER_OK a second time.
        if !state.common.driver_ok() || state.active {
            return;
        }
        if let Err(reason) = self.try_activate(&mut state) {
            tracing::warn!(device = self.name, %reason, "the device did not start");
            self.detach(&mut state);
            state.common.set_needs_reset();
            state.config_interrupt().trigger();
        }
    }

    fn try_activate(&self, state: &mut State) -> Result<(), String> {
        let mut queues = Vec::new();
        state.kicks.clear();
        for (index, queue) in state.common.queues().into_iter().enumerate() {
            let Some((queue, vector)) = queue else {
                queues.push(None);
                state.kicks.push(None);
                continue;
            };
            let kick = self.attach(state, index).map_err(|e| e.to_string())?;
            queues.push(Some(ActiveQueue {
                state: queue,
                kick,
                interrupt: Arc::new(QueueInterrupt {
                    vector: state.msix.vector(vector),
                    status: state.interrupt_status.clone(),
                }),
            }));
        }
        let activation = Activation {
            memory: self.surroundings.memory.clone(),
            features: state.common.features(),
            queues,
            config_interrupt: state.config_interrupt(),
            thread_hook: self.surroundings.thread_hook.clone(),
        };
        state
            .device
            .activate(activation)
            .map_err(|e| e.to_string())?;
        state.active = true;
        Ok(())
    }

    /// Makes a queue's kick, and has the kernel write it when the driver notifies.
    fn attach(&self, state: &mut State, index: usize) -> io::Result<EventFd> {
        let kick = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let address = self.attach_notify(state, index, &kick);
        state.kicks.push(Some((kick.try_clone()?, address)));
        Ok(kick)
    }

    /// Lets the kernel turn notifications of a queue into writes of its kick; where.
    /// Where the BAR does not answer there are none, and beyond the number that KVM
    /// takes, they arrive as exits instead.
    fn attach_notify(&self, state: &State, index: usize, kick: &EventFd) -> Option<u64> {
        let address = state.space.decoded()? + NOTIFY + index as u64 * u64::from(NOTIFY_MULTIPLIER);
        match self.surroundings.events.attach_notify(address, kick) {
            Ok(()) => Some(address),
            Err(error) => {
                tracing::info!(device = self.name, index, %error, "notifications by exit");
                None
            }
        }
    }

    fn detach(&self, state: &mut State) {
        for (kick, address) in state.kicks.drain(..).flatten() {
            if let Some(address) = address {
                self.surroundings.events.detach_notify(address, &kick);
            }
        }
    }

    /// The BAR moved under an active device: notifications move along.
    pub(super) fn move_notifications(&self) {
        let mut state = self.lock();
        let mut kicks = std::mem::take(&mut state.kicks);
        for (kick, address) in kicks.iter().flatten() {
            if let Some(address) = address {
                self.surroundings.events.detach_notify(*address, kick);
            }
        }
        for (index, place) in kicks.iter_mut().enumerate() {
            if let Some((kick, address)) = place {
                *address = self.attach_notify(&state, index, kick);
            }
        }
        state.kicks = kicks;
    }

    /// 0 was written to the status: stops the device and clears the registers.
    pub(super) fn reset(&self) {
        let mut state = self.lock();
        self.stop_device(&mut state);
        state.common.reset();
        state.interrupt_status.store(0, SeqCst);
    }

    fn stop_device(&self, state: &mut State) {
        if std::mem::take(&mut state.active) {
            let queues = state.device.stop();
            state.common.update_queues(&queues);
        }
        self.detach(state);
    }

    /// Stops the device for good, whatever the driver thinks: the VM ends.
    pub fn shut_down(&self) {
        self.stop_device(&mut self.lock());
    }

    /// Stops the device if its driver let go of it, before the function is taken off
    /// the bus. Returns whether it did.
    #[must_use]
    pub fn release(&self) -> bool {
        let mut state = self.lock();
        if state.common.driver_ok() {
            return false;
        }
        self.stop_device(&mut state);
        true
    }

    /// Stops the device and takes its state out. vCPUs are paused. [`Self::restore`]
    /// on this or an equal function continues from it.
    #[must_use]
    pub fn save(&self) -> FunctionState {
        let mut state = self.lock();
        self.stop_device(&mut state);
        FunctionState {
            name: self.name.clone(),
            devfn: self.devfn.0,
            command: state.space.command(),
            bar: state.space.bar(),
            common: state.common.save(),
            msix: state.msix.save(),
            generation: state.generation.load(SeqCst),
        }
    }

    /// Puts a saved state back and, if the driver had the device running, starts it.
    ///
    /// # Errors
    /// [`RestoreError`]; a device that does not start also needs a reset.
    pub fn restore(&self, saved: &FunctionState) -> Result<(), RestoreError> {
        let mismatch = |reason: String| RestoreError::Mismatch {
            saved: saved.name.clone(),
            ours: self.name.clone(),
            reason,
        };
        if saved.devfn != self.devfn.0 {
            return Err(mismatch("it was at another place on the bus".into()));
        }
        let mut state = self.lock();
        self.stop_device(&mut state);
        state
            .common
            .restore(&saved.common)
            .map_err(|reason| mismatch(reason.into()))?;
        state
            .msix
            .restore(&saved.msix)
            .map_err(|e| mismatch(e.to_string()))?;
        let control = state.msix.save_control();
        let at = state.offsets.msix + 2;
        state.space.set(at, &control.to_le_bytes());
        state.space.set_command(saved.command);
        state.space.set_bar(saved.bar);
        self.tell(&state);
        let decoded = state.space.decoded().unwrap_or(super::NOWHERE);
        self.decoded.store(decoded, Release);
        state.generation.store(saved.generation, SeqCst);
        let running = state.common.driver_ok();
        drop(state);
        self.activate();
        if running && !self.lock().active {
            return Err(RestoreError::Start(self.name.clone()));
        }
        Ok(())
    }
}

impl State {
    fn config_interrupt(&self) -> Arc<dyn Interrupt> {
        Arc::new(ConfigInterrupt {
            vector: self.msix.vector(self.common.config_vector()),
            status: self.interrupt_status.clone(),
            generation: self.generation.clone(),
        })
    }
}
