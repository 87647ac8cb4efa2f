//! Bytes read as decisions.

use vm_memory::{Bytes, GuestAddress};

use crate::device::Memory;
use crate::testing::{DriverQueue, Piece, guest_memory};

/// Guest memory of a target: small, so that addresses hit.
pub(super) const MEMORY: usize = 64 << 10;

/// Where a target's honest rings are.
pub(super) const RINGS: u64 = 0x1000;

/// Where buffers are, behind the rings.
pub(super) const BUFFERS: u64 = 0x8000;

/// Reads decisions off the front of the fuzzer's bytes; zeroes when they are used up.
#[derive(Debug)]
pub(super) struct Input<'a>(&'a [u8]);

impl<'a> Input<'a> {
    pub(super) fn new(data: &'a [u8]) -> Self {
        Self(data)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn bytes<const N: usize>(&mut self) -> [u8; N] {
        let mut out = [0; N];
        let len = N.min(self.0.len());
        let (head, tail) = self.0.split_at(len);
        out[..len].copy_from_slice(head);
        self.0 = tail;
        out
    }

    pub(super) fn slice(&mut self, len: usize) -> &'a [u8] {
        let (head, tail) = self.0.split_at(len.min(self.0.len()));
        self.0 = tail;
        head
    }

    pub(super) fn byte(&mut self) -> u8 {
        self.bytes::<1>()[0]
    }

    pub(super) fn u16(&mut self) -> u16 {
        u16::from_le_bytes(self.bytes())
    }

    pub(super) fn u32(&mut self) -> u32 {
        u32::from_le_bytes(self.bytes())
    }

    pub(super) fn u64(&mut self) -> u64 {
        u64::from_le_bytes(self.bytes())
    }

    /// A number below `end`.
    pub(super) fn below(&mut self, end: u32) -> u32 {
        u32::from(self.u16()) % end.max(1)
    }

    /// Buffers anywhere near [`BUFFERS`], overlapping as they please; now and then one that is
    /// nowhere.
    pub(super) fn pieces(&mut self, most: u32, longest: u32) -> Vec<Piece> {
        (0..self.below(most + 1))
            .map(|_| match self.byte() {
                0 => (self.u64(), self.u32()),
                _ => (BUFFERS + u64::from(self.u16() / 4), self.below(longest)),
            })
            .collect()
    }
}

/// Memory that holds `data`, again and again.
pub(super) fn soup(data: &[u8]) -> Memory {
    let memory = guest_memory(MEMORY);
    if !data.is_empty() {
        // Not byte by byte: a fuzzer counts each.
        let bytes = data.repeat(MEMORY.div_ceil(data.len()));
        memory
            .write_slice(&bytes[..MEMORY], GuestAddress(0))
            .unwrap();
    }
    memory
}

/// An honest driver's queue of 16, in memory that holds `data`.
pub(super) fn driver(data: &[u8], event_idx: bool) -> (Memory, DriverQueue) {
    let memory = soup(data);
    // Rings that start empty; what their descriptors and buffers hold may be anything.
    memory
        .write_slice(&[0; 0x800], GuestAddress(RINGS))
        .unwrap();
    let queue = DriverQueue::new(memory.clone(), RINGS, 16, event_idx);
    (memory, queue)
}

/// Offers a chain of random shape, direct or indirect, and now and then what no driver would.
pub(super) fn offer(
    input: &mut Input<'_>,
    driver: &mut DriverQueue,
    readable: &[Piece],
    writable: &[Piece],
) {
    match input.byte() {
        0 => driver.raw().descriptor(
            input.u16() % 32,
            input.u64(),
            input.u32(),
            input.u16(),
            input.u16() % 32,
        ),
        1 => driver.raw().available_index(input.u16()),
        2 => driver.raw().available(input.u16(), input.u16() % 32),
        choice => {
            let count = readable.len() + writable.len();
            if count == 0 || count > 16 {
                return;
            }
            if choice % 2 == 0 {
                driver.add_indirect(readable, writable);
            } else {
                driver.add(readable, writable);
            }
        }
    }
}
