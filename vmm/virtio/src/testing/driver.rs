//! The driver's end of a queue.

use std::collections::HashMap;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use crate::device::{ActiveQueue, Interrupt, Memory, QueueState};

/// A piece of a buffer: guest address and length.
pub type Piece = (u64, u32);

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// An interrupt that a test can wait for and count.
#[derive(Debug)]
pub struct TestInterrupt {
    event: EventFd,
    count: AtomicU64,
}

impl TestInterrupt {
    /// Not raised yet.
    pub fn new() -> Arc<Self> {
        Arc::new(Self {
            event: EventFd::new(EFD_NONBLOCK).unwrap(),
            count: AtomicU64::new(0),
        })
    }

    /// How often it was raised.
    pub fn count(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    /// Waits until it is raised; false after `timeout`.
    pub fn wait(&self, timeout: Duration) -> bool {
        let fd = borrow(&self.event);
        let timeout = Timespec {
            tv_sec: timeout.as_secs().cast_signed(),
            tv_nsec: timeout.subsec_nanos().into(),
        };
        let ready = poll(
            &mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)],
            Some(&timeout),
        )
        .unwrap();
        ready > 0 && self.event.read().is_ok()
    }
}

#[allow(unsafe_code, reason = "EventFd does not implement AsFd")]
fn borrow(event: &EventFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as `event`, which the result borrows.
    unsafe { BorrowedFd::borrow_raw(event.as_raw_fd()) }
}

impl Interrupt for TestInterrupt {
    fn trigger(&self) {
        self.count.fetch_add(1, Ordering::SeqCst);
        self.event.write(1).unwrap();
    }
}

/// Writes to the rings what no honest driver would.
#[derive(Clone, Debug)]
pub struct Raw {
    memory: Memory,
    state: QueueState,
}

impl Raw {
    /// Writes entry `index` of the table at `table`.
    pub fn descriptor_in(
        &self,
        table: u64,
        index: u16,
        address: u64,
        len: u32,
        flags: u16,
        next: u16,
    ) {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&address.to_le_bytes());
        bytes[8..12].copy_from_slice(&len.to_le_bytes());
        bytes[12..14].copy_from_slice(&flags.to_le_bytes());
        bytes[14..].copy_from_slice(&next.to_le_bytes());
        self.memory
            .write_slice(&bytes, GuestAddress(table + 16 * u64::from(index)))
            .unwrap();
    }

    /// Writes entry `index` of the queue's own table.
    pub fn descriptor(&self, index: u16, address: u64, len: u32, flags: u16, next: u16) {
        self.descriptor_in(self.state.descriptors, index, address, len, flags, next);
    }

    /// Writes entry `slot` of the available ring.
    pub fn available(&self, slot: u16, head: u16) {
        let offset = 4 + 2 * u64::from(slot % self.state.size);
        self.store(self.state.available + offset, head);
    }

    /// Writes the available index.
    pub fn available_index(&self, index: u16) {
        fence(Ordering::SeqCst);
        self.store(self.state.available + 2, index);
        fence(Ordering::SeqCst);
    }

    fn available_flags(&self, flags: u16) {
        self.store(self.state.available, flags);
    }

    fn used_event(&self, index: u16) {
        self.store(
            self.state.available + 4 + 2 * u64::from(self.state.size),
            index,
        );
    }

    fn available_event(&self) -> u16 {
        self.load(self.state.used + 4 + 8 * u64::from(self.state.size))
    }

    fn used_flags(&self) -> u16 {
        self.load(self.state.used)
    }

    fn used_index(&self) -> u16 {
        self.load(self.state.used + 2)
    }

    fn used(&self, slot: u16) -> (u32, u32) {
        let address = self.state.used + 4 + 8 * u64::from(slot % self.state.size);
        let mut bytes = [0; 8];
        self.memory
            .read_slice(&mut bytes, GuestAddress(address))
            .unwrap();
        let [a, b, c, d, e, f, g, h] = bytes;
        (
            u32::from_le_bytes([a, b, c, d]),
            u32::from_le_bytes([e, f, g, h]),
        )
    }

    fn store(&self, address: u64, value: u16) {
        self.memory
            .store(value.to_le(), GuestAddress(address), Ordering::SeqCst)
            .unwrap();
    }

    fn load(&self, address: u64) -> u16 {
        u16::from_le(
            self.memory
                .load(GuestAddress(address), Ordering::SeqCst)
                .unwrap(),
        )
    }
}

/// The driver's end of one queue.
#[derive(Debug)]
pub struct DriverQueue {
    raw: Raw,
    /// Where indirect tables are: one for each head.
    tables: u64,
    event_idx: bool,
    free: Vec<u16>,
    next_available: u16,
    /// The available index that the device was last told of.
    kicked: u16,
    last_used: u16,
    chains: HashMap<u16, Vec<u16>>,
    kick: EventFd,
    interrupt: Arc<TestInterrupt>,
    kicks: u64,
}

impl DriverQueue {
    /// Bytes that the rings and indirect tables of a queue of `size` take.
    pub fn footprint(size: u16) -> u64 {
        let size = u64::from(size);
        let rings =
            16 * size + (6 + 2 * size).next_multiple_of(16) + (6 + 8 * size).next_multiple_of(16);
        rings + size * 16 * size
    }

    /// Lays the rings out at `address`.
    pub fn new(memory: Memory, address: u64, size: u16, event_idx: bool) -> Self {
        let entries = u64::from(size);
        let available = address + 16 * entries;
        let used = available + (6 + 2 * entries).next_multiple_of(16);
        let tables = used + (6 + 8 * entries).next_multiple_of(16);
        let state = QueueState {
            size,
            ready: true,
            descriptors: address,
            available,
            used,
            next_available: 0,
            next_used: 0,
        };
        Self {
            raw: Raw { memory, state },
            tables,
            event_idx,
            free: (0..size).rev().collect(),
            next_available: 0,
            kicked: 0,
            last_used: 0,
            chains: HashMap::new(),
            kick: EventFd::new(EFD_NONBLOCK).unwrap(),
            interrupt: TestInterrupt::new(),
            kicks: 0,
        }
    }

    /// What the transport hands to the device.
    pub fn active(&self) -> ActiveQueue {
        ActiveQueue {
            state: self.raw.state,
            kick: self.kick.try_clone().unwrap(),
            interrupt: self.interrupt.clone(),
        }
    }

    /// Takes over what the device gave back at stop, as a restored VM would.
    pub fn resume(&mut self, state: QueueState) {
        self.raw.state = state;
    }

    /// Malice.
    pub fn raw(&self) -> &Raw {
        &self.raw
    }

    /// Descriptors that are free.
    pub fn free(&self) -> usize {
        self.free.len()
    }

    /// Interrupts so far.
    pub fn interrupts(&self) -> u64 {
        self.interrupt.count()
    }

    /// The queue's interrupt.
    pub fn interrupt(&self) -> &Arc<TestInterrupt> {
        &self.interrupt
    }

    /// Kicks so far: the ones that the device wanted.
    pub fn kicks(&self) -> u64 {
        self.kicks
    }

    /// Offers a chain of direct descriptors; `None` when there are not enough. The device
    /// learns of it at the next [`kick`](Self::kick), or earlier.
    pub fn add(&mut self, readable: &[Piece], writable: &[Piece]) -> Option<u16> {
        let count = readable.len() + writable.len();
        assert!(count > 0, "a chain has a descriptor");
        if self.free.len() < count {
            return None;
        }
        let indices = self.free.split_off(self.free.len() - count);
        let pieces = readable
            .iter()
            .map(|&piece| (piece, 0))
            .chain(writable.iter().map(|&piece| (piece, WRITE)));
        for (at, ((address, len), flags)) in pieces.enumerate() {
            let next = indices.get(at + 1).copied();
            let flags = flags | if next.is_some() { NEXT } else { 0 };
            self.raw
                .descriptor(indices[at], address, len, flags, next.unwrap_or(0));
        }
        let head = indices[0];
        self.chains.insert(head, indices);
        self.publish(head);
        Some(head)
    }

    /// As [`add`](Self::add), by an indirect table: one descriptor of the queue.
    pub fn add_indirect(&mut self, readable: &[Piece], writable: &[Piece]) -> Option<u16> {
        let count = readable.len() + writable.len();
        assert!(
            count > 0 && count <= usize::from(self.raw.state.size),
            "a table is 1 to size long"
        );
        let head = self.free.pop()?;
        let table = self.tables + 16 * u64::from(self.raw.state.size) * u64::from(head);
        let pieces = readable
            .iter()
            .map(|&piece| (piece, 0))
            .chain(writable.iter().map(|&piece| (piece, WRITE)));
        for (at, ((address, len), flags)) in pieces.enumerate() {
            let last = at + 1 == count;
            let flags = flags | if last { 0 } else { NEXT };
            let at = at as u16;
            self.raw.descriptor_in(
                table,
                at,
                address,
                len,
                flags,
                if last { 0 } else { at + 1 },
            );
        }
        self.raw
            .descriptor(head, table, 16 * count as u32, INDIRECT, 0);
        self.chains.insert(head, vec![head]);
        self.publish(head);
        Some(head)
    }

    fn publish(&mut self, head: u16) {
        self.raw.available(self.next_available, head);
        self.next_available = self.next_available.wrapping_add(1);
        self.raw.available_index(self.next_available);
    }

    /// Notifies the device, if it wants to be (2.7.10).
    pub fn kick(&mut self) {
        fence(Ordering::SeqCst);
        let wanted = if self.event_idx {
            let event = self.raw.available_event();
            let moved = self.next_available.wrapping_sub(self.kicked);
            self.next_available.wrapping_sub(event).wrapping_sub(1) < moved
        } else {
            self.raw.used_flags() & 1 == 0
        };
        self.kicked = self.next_available;
        if wanted {
            self.kicks += 1;
            self.kick_anyway();
        }
    }

    /// Notifies the device, wanted or not.
    pub fn kick_anyway(&self) {
        self.kick.write(1).unwrap();
    }

    /// The next chain that the device gave back: its head and the bytes written.
    pub fn used(&mut self) -> Option<(u16, u32)> {
        if self.raw.used_index() == self.last_used {
            return None;
        }
        let (head, written) = self.raw.used(self.last_used);
        self.last_used = self.last_used.wrapping_add(1);
        let head = head as u16;
        let indices = self
            .chains
            .remove(&head)
            .expect("the device gave back a chain that it had");
        self.free.extend(indices);
        Some((head, written))
    }

    /// As [`used`](Self::used), for a driver that has broken its own rings: what was given back
    /// may be nothing that it knows.
    pub fn try_used(&mut self) -> Option<u32> {
        if self.raw.used_index() == self.last_used {
            return None;
        }
        let (head, written) = self.raw.used(self.last_used);
        self.last_used = self.last_used.wrapping_add(1);
        if let Some(indices) = self.chains.remove(&(head as u16)) {
            self.free.extend(indices);
        }
        Some(written)
    }

    /// As [`used`](Self::used), but sleeps for an interrupt, as a driver does: `None` after
    /// `timeout`.
    pub fn wait_used(&mut self, timeout: Duration) -> Option<(u16, u32)> {
        let end = Instant::now() + timeout;
        loop {
            self.listen();
            if let Some(used) = self.used() {
                return Some(used);
            }
            let left = end.checked_duration_since(Instant::now())?;
            self.interrupt.wait(left);
        }
    }

    /// Asks the device to interrupt at the next chain that it gives back: look once more before
    /// waiting.
    pub fn listen(&mut self) {
        self.raw.available_flags(0);
        self.raw.used_event(self.last_used);
        fence(Ordering::SeqCst);
    }

    /// Asks the device not to interrupt (2.7.7).
    pub fn disable_interrupts(&mut self) {
        if self.event_idx {
            self.raw.used_event(self.last_used.wrapping_sub(1));
        } else {
            self.raw.available_flags(1);
        }
    }
}
