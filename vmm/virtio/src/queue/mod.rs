//! A split virtqueue (virtio 1.3, section 2.7): the one place that checks what the driver wrote.
//!
//! ```text
//!    driver                                             device
//!      | fills descriptors                                 |
//!      |--- available ring: head, index -----------------> | pop() -> Chain
//!      |--- kick, unless avail_event says "not yet" -----> |   reader(), writer()
//!      | <------------------ used ring: head, length ------| push(chain, written)
//!      | <-- interrupt, unless used_event says "not yet" --| notify()
//! ```
//!
//! Invariants, checked here and trusted everywhere else:
//!
//! | what | where it is written |
//! |---|---|
//! | size is a power of two, within the device's maximum; rings aligned 16/2/4 and in memory | 2.7, 4.1.4.3 |
//! | the available index is at most a queue size ahead | 2.7.6 |
//! | at most a queue size of chains is in flight | follows from 2.7.5: a head per chain |
//! | a chain has at most a queue size of descriptors, indirect ones too; so it has no loop | 2.7.5.3.1 |
//! | readable descriptors come before writable ones | 2.7.4.2 |
//! | every descriptor lies in guest memory; a chain's bytes are bounded | 2.7.5.2 (2^32) |
//! | an indirect table is whole descriptors, not nested | 2.7.5.3.1 |
//!
//! A driver that breaks one of them has a broken queue: it is latched as failed, logged
//! once, and from then on looks empty. The other queues and the VM live on, and the
//! driver may reset the device (2.1.2: the device's status says so, see
//! [`Device::failure`](crate::device::Device::failure)).

mod health;
mod layout;
#[cfg(test)]
mod tests;

use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use virtio_queue::{Queue as Ring, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};
use vmm_sys_util::eventfd::EventFd;

pub use health::Health;

use crate::chain::{Chain, Segment};
use crate::device::{ActivateError, Activation, ActiveQueue, Interrupt, Memory, QueueState};
use crate::features;

/// Most bytes of one chain, readable and writable together, for a device that states no
/// other bound: more than any driver of these devices asks for at a time.
pub const MAX_CHAIN_BYTES: usize = 16 << 20;

/// `VRING_AVAIL_F_NO_INTERRUPT` (2.7.6).
const NO_INTERRUPT: u16 = 1;

/// Spare segment lists that a queue keeps, and the greatest capacity worth keeping.
const SPARE_LISTS: usize = 8;
const SPARE_CAPACITY: usize = 128;

/// What the driver did wrong.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the rings cannot be used: {0}")]
    Ring(#[from] virtio_queue::Error),
    #[error("the driver offered more chains than the queue has descriptors")]
    InFlight,
    #[error(
        "chain {head} is no chain: a loop, too long, or a descriptor outside of its table or of memory"
    )]
    Cut { head: u16 },
    #[error("chain {head} has a readable descriptor after a writable one")]
    Order { head: u16 },
    #[error("chain {head} has a descriptor at {address:#x}, {len} bytes, outside of guest memory")]
    Address { head: u16, address: u64, len: u32 },
    #[error("chain {head} has more than {limit} bytes")]
    Bytes { head: u16, limit: usize },
}

/// A virtqueue that serves a device's worker, from activation to stop.
#[derive(Debug)]
pub struct Queue {
    index: usize,
    ring: Ring,
    memory: Memory,
    kick: EventFd,
    interrupt: Arc<dyn Interrupt>,
    health: Health,
    max_bytes: usize,
    /// Chains popped and neither pushed nor undone.
    in_flight: u16,
    /// Chains were pushed since the last `notify`.
    unannounced: bool,
    spare: Vec<Vec<Segment>>,
}

impl Queue {
    /// Takes a queue over from the driver: checks its set-up (2.7, 4.1.4.3) and freezes it.
    ///
    /// `max_size` is the device's greatest size of it, `health` the device's.
    ///
    /// # Errors
    /// [`ActivateError::Queue`] when it cannot be used as it is set up.
    pub fn new(
        index: usize,
        active: ActiveQueue,
        memory: Memory,
        negotiated: u64,
        max_size: u16,
        health: Health,
    ) -> Result<Self, ActivateError> {
        let ActiveQueue {
            state,
            kick,
            interrupt,
        } = active;
        let (ring, in_flight) = layout::ring(
            &state,
            &memory,
            max_size,
            negotiated & features::EVENT_IDX != 0,
        )
        .map_err(|reason| ActivateError::Queue {
            index,
            reason: reason.to_string(),
        })?;
        Ok(Self {
            index,
            ring,
            memory,
            kick,
            interrupt,
            health,
            max_bytes: MAX_CHAIN_BYTES,
            in_flight,
            unannounced: false,
            spare: Vec::new(),
        })
    }

    /// Takes all of a device's queues out of `activation`. Every index below `required`
    /// must be there; others may be.
    ///
    /// # Errors
    /// [`ActivateError::Queue`] for the first that is missing or cannot be used.
    pub fn take_all(
        activation: &mut Activation,
        max_sizes: &[u16],
        required: usize,
        health: &Health,
    ) -> Result<Vec<Option<Self>>, ActivateError> {
        let mut given = std::mem::take(&mut activation.queues).into_iter();
        let mut queues = Vec::with_capacity(max_sizes.len());
        for (index, &max_size) in max_sizes.iter().enumerate() {
            let queue = match given.next().flatten() {
                Some(active) => Some(Self::new(
                    index,
                    active,
                    activation.memory.clone(),
                    activation.features,
                    max_size,
                    health.clone(),
                )?),
                None if index < required => {
                    return Err(ActivateError::Queue {
                        index,
                        reason: "the driver did not enable it".to_owned(),
                    });
                }
                None => None,
            };
            queues.push(queue);
        }
        Ok(queues)
    }

    /// Bounds the bytes of a chain.
    #[must_use]
    pub fn with_max_bytes(mut self, max_bytes: usize) -> Self {
        self.max_bytes = max_bytes;
        self
    }

    /// Its index in the device.
    pub fn index(&self) -> usize {
        self.index
    }

    /// Its number of entries.
    pub fn size(&self) -> u16 {
        self.ring.size()
    }

    /// Chains that the device has and the driver waits for.
    pub fn in_flight(&self) -> u16 {
        self.in_flight
    }

    /// The next chain, checked; `None` when the driver has offered no more, or when the
    /// queue is broken.
    pub fn pop(&mut self) -> Option<Chain> {
        if self.health.failed(self.index) {
            return None;
        }
        let position = self.ring.next_avail();
        self.take(position).unwrap_or_else(|broken| {
            // What broke it is not taken: chains taken before it can still be put back.
            self.ring.set_next_avail(position);
            self.fail(&broken);
            None
        })
    }

    fn take(&mut self, position: u16) -> Result<Option<Chain>, Broken> {
        let Some(descriptors) = self.ring.iter(&*self.memory)?.next() else {
            return Ok(None);
        };
        if self.in_flight >= self.ring.size() {
            return Err(Broken::InFlight);
        }
        let head = descriptors.head_index();
        let mut segments = self.spare.pop().unwrap_or_default();
        let mut readable = 0;
        let mut writable = false;
        let mut bytes = 0usize;
        let mut count = 0u16;
        // Whether the last descriptor seen promised another one. The walk below ends early at a
        // loop, an index out of the table, or an unreadable or nested table.
        let mut open = true;
        for descriptor in descriptors {
            count += 1;
            if count > self.ring.size() {
                return Err(Broken::Cut { head });
            }
            open = descriptor.has_next();
            if descriptor.is_write_only() {
                writable = true;
            } else if writable {
                return Err(Broken::Order { head });
            }
            let (address, len) = (descriptor.addr(), descriptor.len());
            bytes += len as usize;
            if bytes > self.max_bytes {
                return Err(Broken::Bytes {
                    head,
                    limit: self.max_bytes,
                });
            }
            if len > 0 {
                self.resolve(address, len, &mut segments)
                    .ok_or(Broken::Address {
                        head,
                        address: address.0,
                        len,
                    })?;
            }
            if !writable {
                readable = segments.len();
            }
        }
        if open {
            return Err(Broken::Cut { head });
        }
        self.in_flight += 1;
        Ok(Some(Chain::new(
            self.memory.clone(),
            head,
            position,
            segments,
            readable,
        )))
    }

    /// Adds the host's view of a buffer: one segment, more where it crosses from one region
    /// of guest memory into another.
    fn resolve(&self, address: GuestAddress, len: u32, segments: &mut Vec<Segment>) -> Option<()> {
        for slice in self.memory.get_slices(address, len as usize) {
            segments.push(Segment::new(&slice.ok()?));
        }
        Some(())
    }

    /// Puts back the chain that was popped last and is not pushed: it is the next to pop again.
    pub fn undo(&mut self, chain: Chain) {
        debug_assert_eq!(
            chain.position().wrapping_add(1),
            self.ring.next_avail(),
            "only the last chain can be put back"
        );
        self.ring.go_to_previous_position();
        self.in_flight = self.in_flight.saturating_sub(1);
        self.recycle(chain);
    }

    /// Gives a chain back to the driver; `written` is how many bytes of its writable part,
    /// from the first on, were written (2.7.8). The driver sees it at once but may sleep
    /// until [`notify`](Self::notify).
    pub fn push(&mut self, chain: Chain, written: usize) {
        let head = chain.head();
        let written = u32::try_from(written.min(chain.writable_len())).unwrap_or(u32::MAX);
        self.recycle(chain);
        self.in_flight = self.in_flight.saturating_sub(1);
        self.unannounced = true;
        if let Err(error) = self.ring.add_used(&*self.memory, head, written) {
            self.fail(&error.into());
        }
    }

    /// Interrupts the driver if chains were pushed since the last time and it wants to know
    /// (2.7.7, 2.7.10).
    pub fn notify(&mut self) {
        if !std::mem::take(&mut self.unannounced) || self.health.failed(self.index) {
            return;
        }
        match self.wants_interrupt() {
            Ok(true) => self.interrupt.trigger(),
            Ok(false) => {}
            Err(broken) => self.fail(&broken),
        }
    }

    fn wants_interrupt(&mut self) -> Result<bool, Broken> {
        if self.ring.event_idx_enabled() {
            return Ok(self.ring.needs_notification(&*self.memory)?);
        }
        // The used index must be visible before the flags are read, as the driver writes the
        // flags before it reads the used index (2.7.7.2).
        fence(Ordering::SeqCst);
        let flags: u16 = self
            .memory
            .load(GuestAddress(self.ring.avail_ring()), Ordering::Relaxed)
            .map_err(virtio_queue::Error::GuestMemory)?;
        Ok(u16::from_le(flags) & NO_INTERRUPT == 0)
    }

    /// Asks the driver not to kick: the worker is looking anyway.
    pub fn disable_kicks(&mut self) {
        if self.health.failed(self.index) {
            return;
        }
        if let Err(error) = self.ring.disable_notification(&*self.memory) {
            self.fail(&error.into());
        }
    }

    /// Asks the driver to kick at its next chain. True when one is there already: pop it
    /// instead of waiting (2.7.10.1).
    #[must_use]
    pub fn enable_kicks(&mut self) -> bool {
        if self.health.failed(self.index) {
            return false;
        }
        match self.ring.enable_notification(&*self.memory) {
            Ok(more) => more,
            Err(error) => {
                self.fail(&error.into());
                false
            }
        }
    }

    /// The descriptor to wait on for kicks, by [`Edge::Event`](crate::worker::Edge::Event).
    pub fn kick_fd(&self) -> RawFd {
        self.kick.as_raw_fd()
    }

    /// What to give back at stop, and to save.
    pub fn state(&self) -> QueueState {
        QueueState {
            size: self.ring.size(),
            ready: self.ring.ready(),
            descriptors: self.ring.desc_table(),
            available: self.ring.avail_ring(),
            used: self.ring.used_ring(),
            next_available: self.ring.next_avail(),
            next_used: self.ring.next_used(),
        }
    }

    /// Whether the driver broke it.
    pub fn failed(&self) -> bool {
        self.health.failed(self.index)
    }

    /// Latches the queue as failed for a reason that only the device can see.
    pub fn break_for(&mut self, reason: &str) {
        self.health.fail(self.index, reason);
    }

    fn fail(&self, broken: &Broken) {
        self.health.fail(self.index, &broken.to_string());
    }

    fn recycle(&mut self, chain: Chain) {
        let mut segments = chain.into_segments();
        if self.spare.len() < SPARE_LISTS && segments.capacity() <= SPARE_CAPACITY {
            segments.clear();
            self.spare.push(segments);
        }
    }
}
