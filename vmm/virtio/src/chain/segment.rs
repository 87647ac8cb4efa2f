//! A stretch of guest memory, as the host sees it.
//!
//! The `unsafe` of guest memory access is here: turning an address that
//! [`Queue::pop`](crate::queue::Queue::pop) resolved back into something that can be copied
//! from and to.
#![allow(unsafe_code, reason = "volatile access to resolved guest memory")]

use std::fmt;

use vm_memory::VolatileSlice;

/// A contiguous part of a buffer. Layout-compatible with `struct iovec`, so that a
/// slice of segments is an argument of `readv`.
///
/// A segment does not keep its memory mapped: whoever holds one holds the
/// [`Chain`](super::Chain) that it belongs to, or borrows from it.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub struct Segment(libc::iovec);

// SAFETY: a segment is an address and a length. Every access through it is volatile and
// made on memory that is shared with the guest's processors anyhow.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

impl Segment {
    pub(crate) fn new(slice: &VolatileSlice<'_>) -> Self {
        Self(libc::iovec {
            iov_base: slice.ptr_guard_mut().as_ptr().cast(),
            iov_len: slice.len(),
        })
    }

    pub(super) fn from_raw(iovec: libc::iovec) -> Self {
        Self(iovec)
    }

    /// Its length in bytes; never zero in a chain.
    pub fn len(&self) -> usize {
        self.0.iov_len
    }

    /// Whether it has no bytes.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The part from `start` on, at most `len` bytes. Clamped to the segment.
    pub(super) fn part(&self, start: usize, len: usize) -> Self {
        let start = start.min(self.0.iov_len);
        Self(libc::iovec {
            iov_base: self.0.iov_base.wrapping_byte_add(start),
            iov_len: len.min(self.0.iov_len - start),
        })
    }

    /// Copies from its start to `out`, which is no longer than the segment.
    pub(super) fn copy_to(&self, out: &mut [u8]) {
        debug_assert!(out.len() <= self.len());
        let _ = self.volatile().copy_to(out);
    }

    /// Copies `data`, which is no longer than the segment, to its start.
    pub(super) fn copy_from(&self, data: &[u8]) {
        debug_assert!(data.len() <= self.len());
        self.volatile().copy_from(data);
    }

    fn volatile(&self) -> VolatileSlice<'_> {
        // SAFETY: the address and length came from a `VolatileSlice` of guest memory (or
        // part of one), which the chain that this segment belongs to keeps mapped. No Rust
        // reference to guest memory is ever made, so none is aliased.
        unsafe { VolatileSlice::new(self.0.iov_base.cast(), self.0.iov_len) }
    }
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Segment({} bytes)", self.len())
    }
}
