//! Where a test's buffers are cut from.

use vm_memory::{Bytes, GuestAddress};

use super::driver::Piece;
use super::shape::{Random, cut};
use crate::device::Memory;

/// Guest memory handed out from front to back, then from the front again: a buffer stays a
/// test's own as long as less than the arena is asked for after it.
#[derive(Debug)]
pub struct Arena {
    memory: Memory,
    start: u64,
    end: u64,
    next: u64,
}

impl Arena {
    /// `start..end` must be guest memory.
    pub fn new(memory: Memory, start: u64, end: u64) -> Self {
        Self {
            memory,
            start,
            end,
            next: start,
        }
    }

    /// What was handed out so far is never handed out again.
    pub fn keep(&mut self) {
        self.start = self.next;
    }

    /// A buffer of `len` bytes, its address a multiple of `alignment`.
    pub fn take(&mut self, len: usize, alignment: u64) -> u64 {
        let at = |next: u64| next.next_multiple_of(alignment);
        let mut address = at(self.next);
        if address + len as u64 > self.end {
            address = at(self.start);
            assert!(
                address + len as u64 <= self.end,
                "{len} bytes are too many for the arena"
            );
        }
        self.next = address + len as u64;
        address
    }

    /// A readable buffer that holds `data`, in one piece.
    pub fn put(&mut self, data: &[u8]) -> Piece {
        let address = self.take(data.len(), 1);
        self.memory
            .write_slice(data, GuestAddress(address))
            .unwrap();
        (address, data.len() as u32)
    }

    /// A readable buffer that holds `data`, in pieces of random sizes at random places.
    pub fn put_cut(&mut self, data: &[u8], pieces: usize, random: &mut Random) -> Vec<Piece> {
        let mut rest = data;
        cut(data.len(), pieces, random)
            .into_iter()
            .map(|len| {
                let (part, tail) = rest.split_at(len);
                rest = tail;
                // A gap, so that no two pieces are neighbours.
                self.next += random.below(64);
                self.put(part)
            })
            .collect()
    }

    /// A writable buffer of `len` bytes, in pieces of random sizes at random places.
    pub fn room_cut(&mut self, len: usize, pieces: usize, random: &mut Random) -> Vec<Piece> {
        cut(len, pieces, random)
            .into_iter()
            .map(|len| {
                self.next += random.below(64);
                (self.take(len, 1), len as u32)
            })
            .collect()
    }

    /// What `pieces` hold, in order.
    pub fn get(&self, pieces: &[Piece]) -> Vec<u8> {
        let mut data = Vec::new();
        for &(address, len) in pieces {
            let at = data.len();
            data.resize(at + len as usize, 0);
            self.memory
                .read_slice(&mut data[at..], GuestAddress(address))
                .unwrap();
        }
        data
    }

    /// The memory.
    pub fn memory(&self) -> &Memory {
        &self.memory
    }
}
