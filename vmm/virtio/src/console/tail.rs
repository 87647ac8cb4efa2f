//! The last words of a guest.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard};

/// Bytes kept.
pub const TAIL: usize = 64 << 10;

/// The last [`TAIL`] bytes that a console printed, and how many there were in all. Clones
/// share it; it outlives the device. Memory grows with what is printed.
#[derive(Clone, Debug, Default)]
pub struct ConsoleTail(Arc<Mutex<Ring>>);

#[derive(Debug, Default)]
struct Ring {
    bytes: VecDeque<u8>,
    total: u64,
}

impl ConsoleTail {
    /// Nothing printed yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The last bytes, oldest first.
    pub fn bytes(&self) -> Vec<u8> {
        self.lock().bytes.iter().copied().collect()
    }

    /// Bytes printed since the start, those forgotten included.
    pub fn total(&self) -> u64 {
        self.lock().total
    }

    /// Adds output.
    pub(super) fn append(&self, bytes: &[u8]) {
        let mut ring = self.lock();
        ring.total = ring.total.saturating_add(bytes.len() as u64);
        let bytes = &bytes[bytes.len().saturating_sub(TAIL)..];
        let excess = (ring.bytes.len() + bytes.len()).saturating_sub(TAIL);
        ring.bytes.drain(..excess);
        ring.bytes.extend(bytes);
    }

    /// Counts output that is not looked at, because what follows it fills the tail.
    pub(super) fn skipped(&self, len: usize) {
        let mut ring = self.lock();
        ring.total = ring.total.saturating_add(len as u64);
    }

    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.0
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_the_last_bytes_and_counts_all() {
        let tail = ConsoleTail::new();
        tail.append(b"panic: ");
        tail.append(b"no init");
        assert_eq!(tail.bytes(), b"panic: no init");

        tail.append(&vec![b'x'; TAIL - 3]);
        assert_eq!(tail.bytes().len(), TAIL);
        assert!(tail.bytes().starts_with(b"nitx"));
        assert_eq!(tail.total(), 14 + TAIL as u64 - 3);

        tail.append(&vec![b'y'; 3 * TAIL]);
        assert_eq!(tail.bytes(), vec![b'y'; TAIL]);
    }
}
