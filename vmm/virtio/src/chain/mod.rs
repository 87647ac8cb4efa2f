//! The buffers of one descriptor chain.
//!
//! A [`Chain`] comes out of [`Queue::pop`](crate::queue::Queue::pop) checked: at most as
//! many descriptors as the queue is long, all of them inside guest memory, the readable
//! ones before the writable ones, their total bounded. A device reads requests by
//! [`Chain::reader`] and answers by [`Chain::writer`]; how the driver cut its buffers
//! into descriptors makes no difference to either ("message framing", virtio 1.3,
//! section 2.7.4).
//!
//! ```text
//!   descriptors   [ r 16 ][ r 4096 ][ r 512 ] [ w 4096 ][ w 1 ]
//!   reader        |------- 4624 bytes ------|
//!   writer                                    |--- 4097 bytes --|
//! ```
//!
//! Bulk data moves by [`Gather`] and [`Scatter`]: `writev` and `readv` between a
//! descriptor and guest memory, without a copy in between.

mod cursor;
mod segment;
mod vectored;

use std::fmt;

pub use cursor::{OutOfBounds, Reader, Writer};
pub use segment::Segment;
pub use vectored::{Gather, IoVecs, MAX_IOVECS, Scatter};

use crate::device::Memory;

/// One descriptor chain, resolved to the host's view of guest memory, which it keeps
/// mapped. Give it back by [`Queue::push`](crate::queue::Queue::push) or
/// [`Queue::undo`](crate::queue::Queue::undo): a chain that is dropped instead is never
/// seen again by the driver.
pub struct Chain {
    head: u16,
    /// Where in the available ring it was taken from.
    position: u16,
    segments: Vec<Segment>,
    /// How many of `segments` are readable; the others are writable.
    readable: usize,
    readable_len: usize,
    writable_len: usize,
    /// Keeps `segments` mapped.
    _memory: Memory,
}

impl Chain {
    pub(crate) fn new(
        memory: Memory,
        head: u16,
        position: u16,
        segments: Vec<Segment>,
        readable: usize,
    ) -> Self {
        let readable = readable.min(segments.len());
        let total = |part: &[Segment]| part.iter().map(Segment::len).sum();
        let (readable_len, writable_len) =
            (total(&segments[..readable]), total(&segments[readable..]));
        Self {
            head,
            position,
            segments,
            readable,
            readable_len,
            writable_len,
            _memory: memory,
        }
    }

    /// The index of its first descriptor: its name in the used ring.
    pub fn head(&self) -> u16 {
        self.head
    }

    pub(crate) fn position(&self) -> u16 {
        self.position
    }

    /// Bytes that the device may read.
    pub fn readable_len(&self) -> usize {
        self.readable_len
    }

    /// Bytes that the device may write.
    pub fn writable_len(&self) -> usize {
        self.writable_len
    }

    /// Reads what the driver sent, from its first byte.
    pub fn reader(&self) -> Reader<'_> {
        Reader::new(&self.segments[..self.readable], self.readable_len)
    }

    /// Writes what the driver awaits, from its first byte.
    pub fn writer(&self) -> Writer<'_> {
        Writer::new(&self.segments[self.readable..], self.writable_len)
    }

    pub(crate) fn into_segments(self) -> Vec<Segment> {
        self.segments
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Chain")
            .field("head", &self.head)
            .field("segments", &self.segments.len())
            .field("readable", &self.readable_len)
            .field("writable", &self.writable_len)
            .finish_non_exhaustive()
    }
}
