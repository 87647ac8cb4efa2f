//! Starting, stopping, saving and restoring a function's device. All of it runs on
//! the device thread, or on the one thread there is in a test.

use std::{
    io,
    sync::{Arc, atomic::Ordering::SeqCst},
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
use crate::{layout, pci::msix::MsixState};

/// A function as it was: plain data.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionState {
    /// The device's name, to find it by.
    pub name: String,
    /// device << 3 | function.
    pub devfn: u8,
    command: u16,
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
    fn notify_address(&self, queue: usize) -> u64 {
        layout::bar(self.devfn.0) + NOTIFY + queue as u64 * u64::from(NOTIFY_MULTIPLIER)
    }

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

    /// Lets the kernel turn notifications of a queue into writes of its kick. Beyond
    /// the number that KVM takes, they arrive as exits instead.
    fn attach(&self, state: &mut State, index: usize) -> io::Result<EventFd> {
        let kick = EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?;
        let address = self.notify_address(index);
        if let Err(error) = self.surroundings.events.attach_notify(address, &kick) {
            tracing::info!(device = self.name, index, %error, "notifications by exit");
        }
        state.kicks.push(Some(kick.try_clone()?));
        Ok(kick)
    }

    fn detach(&self, state: &mut State) {
        for (index, kick) in state.kicks.drain(..).enumerate() {
            if let Some(kick) = kick {
                let address = self.notify_address(index);
                self.surroundings.events.detach_notify(address, &kick);
            }
        }
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
