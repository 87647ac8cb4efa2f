//! The common configuration structure (virtio 1.3, section 4.1.4.3) and the device
//! status machine (sections 2.1 and 3.1).
//!
//! ```text
//!  status       0 -> ACKNOWLEDGE -> DRIVER -> FEATURES_OK -> DRIVER_OK
//!  writable     .        .          features   queues,        nothing
//!                                              vectors
//! ```
//!
//! A register is writable in its window only, so what the driver set up cannot change
//! under a running device. Status bits are only ever added; writing 0 resets.
//! Accesses of a width that does not fit the register are ignored.

use bulkhead_virtio::device::QueueState;
use serde::{Deserialize, Serialize};

use crate::pci::{read_registers, value};

/// Length of the structure, in bytes.
pub(super) const SIZE: usize = 0x40;
/// "No vector" for an interrupt.
pub(super) const NO_VECTOR: u16 = 0xffff;
/// `VIRTIO_F_VERSION_1`, without which we speak to no driver.
pub(super) const VERSION_1: u64 = 1 << 32;

/// Device status bits.
mod status {
    /// The guest noticed the device.
    pub(super) const ACKNOWLEDGE: u8 = 1;
    /// It has a driver for it.
    pub(super) const DRIVER: u8 = 2;
    /// The driver is set up: the device runs.
    pub(super) const DRIVER_OK: u8 = 4;
    /// Features are negotiated.
    pub(super) const FEATURES_OK: u8 = 8;
    /// Set by the device: broken until reset.
    pub(super) const NEEDS_RESET: u8 = 0x40;
    /// The driver gave up.
    pub(super) const FAILED: u8 = 0x80;
}
use status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, FAILED, FEATURES_OK, NEEDS_RESET};

/// What the transport must do after a register write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum Action {
    /// Nothing.
    None,
    /// Start the device: DRIVER_OK was set.
    Activate,
    /// Stop the device, then call [`CommonConfig::reset`]: 0 was written.
    Reset,
}

/// One queue's registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct QueueRegisters {
    max_size: u16,
    vector: u16,
    state: QueueState,
}

impl QueueRegisters {
    fn new(max_size: u16) -> Self {
        Self {
            max_size,
            vector: NO_VECTOR,
            state: QueueState {
                size: max_size,
                ..QueueState::default()
            },
        }
    }
}

/// What of the registers is saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct CommonState {
    device_feature_select: u32,
    driver_feature_select: u32,
    driver_features: u64,
    config_vector: u16,
    status: u8,
    queue_select: u16,
    queues: Vec<QueueRegisters>,
}

/// The registers.
#[derive(Debug)]
pub(super) struct CommonConfig {
    offered: u64,
    vectors: u16,
    state: CommonState,
}

impl CommonConfig {
    /// Registers of a device that offers `features`, with queues of the given greatest
    /// sizes and `vectors` interrupt vectors.
    #[must_use]
    pub(super) fn new(features: u64, queue_max_sizes: &[u16], vectors: u16) -> Self {
        Self {
            offered: features,
            vectors,
            state: CommonState {
                device_feature_select: 0,
                driver_feature_select: 0,
                driver_features: 0,
                config_vector: NO_VECTOR,
                status: 0,
                queue_select: 0,
                queues: queue_max_sizes
                    .iter()
                    .map(|&size| QueueRegisters::new(size))
                    .collect(),
            },
        }
    }

    /// Back to power-on.
    pub(super) fn reset(&mut self) {
        let sizes: Vec<_> = self.state.queues.iter().map(|q| q.max_size).collect();
        *self = Self::new(self.offered, &sizes, self.vectors);
    }

    /// Device status.
    #[cfg(test)]
    fn status(&self) -> u8 {
        self.state.status
    }

    /// Whether the driver runs the device.
    #[must_use]
    pub(super) fn driver_ok(&self) -> bool {
        self.state.status & DRIVER_OK != 0
    }

    /// The device broke or did not start: only a reset helps.
    pub(super) fn set_needs_reset(&mut self) {
        self.state.status |= NEEDS_RESET;
    }

    /// The negotiated features.
    #[must_use]
    pub(super) fn features(&self) -> u64 {
        self.state.driver_features
    }

    /// The configuration interrupt's vector.
    #[must_use]
    pub(super) fn config_vector(&self) -> u16 {
        self.state.config_vector
    }

    /// Each queue's state, `None` if not enabled, and its vector.
    #[must_use]
    pub(super) fn queues(&self) -> Vec<Option<(QueueState, u16)>> {
        let enabled = |q: &QueueRegisters| q.state.ready.then_some((q.state, q.vector));
        self.state.queues.iter().map(enabled).collect()
    }

    /// Takes over how far a stopped device got with its queues.
    pub(super) fn update_queues(&mut self, states: &[Option<QueueState>]) {
        for (queue, state) in self.state.queues.iter_mut().zip(states) {
            if let Some(state) = state {
                queue.state.next_available = state.next_available;
                queue.state.next_used = state.next_used;
            }
        }
    }

    /// Reads `data.len()` bytes at `offset`. `generation` is the device
    /// configuration's.
    pub(super) fn read(&self, offset: usize, data: &mut [u8], generation: u8) {
        let state = &self.state;
        let select = usize::from(state.queue_select);
        let queue = state.queues.get(select);
        let mut registers = [0u8; SIZE];
        let mut put = |at: usize, bytes: &[u8]| {
            for (place, byte) in registers.iter_mut().skip(at).zip(bytes) {
                *place = *byte;
            }
        };
        put(0x00, &state.device_feature_select.to_le_bytes());
        put(0x04, &half(self.offered, state.device_feature_select));
        put(0x08, &state.driver_feature_select.to_le_bytes());
        put(
            0x0c,
            &half(state.driver_features, state.driver_feature_select),
        );
        put(0x10, &state.config_vector.to_le_bytes());
        let count = u16::try_from(state.queues.len()).unwrap_or(u16::MAX);
        put(0x12, &count.to_le_bytes());
        put(0x14, &[state.status, generation]);
        put(0x16, &state.queue_select.to_le_bytes());
        if let Some(queue) = queue {
            put(0x18, &queue.state.size.to_le_bytes());
            put(0x1a, &queue.vector.to_le_bytes());
            put(0x1c, &u16::from(queue.state.ready).to_le_bytes());
            put(0x1e, &state.queue_select.to_le_bytes());
            put(0x20, &queue.state.descriptors.to_le_bytes());
            put(0x28, &queue.state.available.to_le_bytes());
            put(0x30, &queue.state.used.to_le_bytes());
        } else {
            put(0x1a, &NO_VECTOR.to_le_bytes());
        }
        read_registers(&registers, offset, data);
    }

    /// Writes a register.
    pub(super) fn write(&mut self, offset: usize, data: &[u8]) -> Action {
        let wide = value(data);
        let word = u16::try_from(wide).unwrap_or(0);
        let double = u32::try_from(wide).unwrap_or(0);
        match (offset, data.len()) {
            (0x00, 4) => self.state.device_feature_select = double,
            (0x08, 4) => self.state.driver_feature_select = double,
            (0x0c, 4) => self.write_features(double),
            (0x10, 2) if self.configurable() => self.state.config_vector = self.vector(word),
            (0x14, 1) => return self.write_status(u8::try_from(wide).unwrap_or(0)),
            (0x16, 2) => self.state.queue_select = word,
            (0x18..0x38, _) => self.write_queue(offset, data.len(), wide),
            _ => {}
        }
        Action::None
    }

    /// Whether queues and vectors may be set: features are settled, the device is off.
    fn configurable(&self) -> bool {
        self.state.status & (FEATURES_OK | DRIVER_OK | NEEDS_RESET | FAILED) == FEATURES_OK
    }

    /// A vector that the driver chose; one past the table reads back as none.
    fn vector(&self, vector: u16) -> u16 {
        if vector < self.vectors {
            vector
        } else {
            NO_VECTOR
        }
    }

    fn write_features(&mut self, bits: u32) {
        let window = self.state.status & (DRIVER | FEATURES_OK | FAILED) == DRIVER;
        let shift = match self.state.driver_feature_select {
            0 => 0,
            1 => 32,
            _ => return,
        };
        if window {
            let mask = u64::from(u32::MAX) << shift;
            self.state.driver_features =
                self.state.driver_features & !mask | u64::from(bits) << shift;
        }
    }

    fn write_queue(&mut self, offset: usize, len: usize, wide: u64) {
        let window = self.configurable();
        let word = u16::try_from(wide).unwrap_or(0);
        let vector = self.vector(word);
        let select = usize::from(self.state.queue_select);
        let Some(queue) = self.state.queues.get_mut(select) else {
            return;
        };
        if !window || queue.state.ready {
            return;
        }
        match (offset, len) {
            (0x18, 2) if word.is_power_of_two() && word <= queue.max_size => {
                queue.state.size = word;
            }
            (0x1a, 2) => queue.vector = vector,
            (0x1c, 2) if word == 1 => queue.state.ready = true,
            (0x20..0x38, 4 | 8) => {
                let address = match offset & !7 {
                    0x20 => &mut queue.state.descriptors,
                    0x28 => &mut queue.state.available,
                    _ => &mut queue.state.used,
                };
                *address = match (offset & 7, len) {
                    (0, 8) => wide,
                    (0, _) => *address >> 32 << 32 | wide,
                    (4, 4) => wide << 32 | *address & 0xffff_ffff,
                    _ => *address,
                };
            }
            _ => {}
        }
    }

    fn write_status(&mut self, new: u8) -> Action {
        let old = self.state.status;
        if new == 0 {
            return Action::Reset;
        }
        let added = new & !old & !NEEDS_RESET;
        let kept = old & !NEEDS_RESET;
        if new & kept != kept {
            // A driver must not clear bits (section 2.1.1).
            return Action::None;
        }
        if added & FAILED != 0 {
            self.state.status |= FAILED;
            return Action::None;
        }
        if old & (FAILED | NEEDS_RESET) != 0 {
            return Action::None;
        }
        // In order, each step only on top of the one before.
        for (bit, before) in [
            (ACKNOWLEDGE, 0),
            (DRIVER, ACKNOWLEDGE),
            (FEATURES_OK, ACKNOWLEDGE | DRIVER),
            (DRIVER_OK, ACKNOWLEDGE | DRIVER | FEATURES_OK),
        ] {
            let allowed = self.state.status & before == before
                && (bit != FEATURES_OK || self.features_acceptable());
            if added & bit != 0 && allowed {
                self.state.status |= bit;
            }
        }
        if self.state.status & !old & DRIVER_OK != 0 {
            Action::Activate
        } else {
            Action::None
        }
    }

    fn features_acceptable(&self) -> bool {
        let features = self.state.driver_features;
        features & !self.offered == 0 && features & VERSION_1 != 0
    }

    /// What is needed to put the registers back.
    #[must_use]
    pub(super) fn save(&self) -> CommonState {
        self.state.clone()
    }

    /// Puts saved registers back. Snapshots are not trusted: whatever the driver could
    /// not have set up itself is refused.
    ///
    /// # Errors
    /// What does not fit this device.
    pub(super) fn restore(&mut self, state: &CommonState) -> Result<(), &'static str> {
        let fits = |(saved, ours): (&QueueRegisters, &QueueRegisters)| {
            saved.max_size == ours.max_size
                && saved.state.size.is_power_of_two()
                && saved.state.size <= ours.max_size
                && (saved.vector == NO_VECTOR || saved.vector < self.vectors)
        };
        if state.queues.len() != self.state.queues.len()
            || !state.queues.iter().zip(&self.state.queues).all(fits)
        {
            return Err("the saved queues are not this device's");
        }
        let settled = state.status & FEATURES_OK != 0;
        if state.driver_features & !self.offered != 0
            || settled && state.driver_features & VERSION_1 == 0
        {
            return Err("the saved features are not offered by this device");
        }
        if state.config_vector != NO_VECTOR && state.config_vector >= self.vectors {
            return Err("the saved configuration vector does not exist");
        }
        self.state = state.clone();
        Ok(())
    }
}

/// The half of a 64-bit feature set that a select register chooses.
fn half(features: u64, select: u32) -> [u8; 4] {
    let half = match select {
        0 => features & 0xffff_ffff,
        1 => features >> 32,
        _ => 0,
    };
    u32::try_from(half).unwrap_or(0).to_le_bytes()
}

#[cfg(test)]
#[path = "common_tests.rs"]
mod tests;
