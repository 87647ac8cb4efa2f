//! The end of what the guest said on its console, kept for a dead VM's report.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
};

use bulkhead_vmm_api::MAX_CONSOLE_TAIL;

/// A shared ring of the console's last bytes. It grows as it fills: a silent guest
/// costs nothing.
#[derive(Clone, Debug, Default)]
pub struct ConsoleTail(Arc<Mutex<Ring>>);

#[derive(Debug, Default)]
struct Ring {
    bytes: VecDeque<u8>,
    total: u64,
}

impl ConsoleTail {
    /// Appends output of the guest, dropping the oldest beyond 64 KiB.
    pub fn append(&self, output: &[u8]) {
        let mut ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        ring.total = ring.total.saturating_add(output.len() as u64);
        let kept = output
            .get(output.len().saturating_sub(MAX_CONSOLE_TAIL)..)
            .unwrap_or_default();
        let excess = (ring.bytes.len() + kept.len()).saturating_sub(MAX_CONSOLE_TAIL);
        ring.bytes.drain(..excess);
        ring.bytes.extend(kept);
    }

    /// The bytes kept, oldest first, and how many there ever were.
    #[must_use]
    pub fn snapshot(&self) -> (Vec<u8>, u64) {
        let ring = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (ring.bytes.iter().copied().collect(), ring.total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_64_kib_are_kept() {
        let tail = ConsoleTail::default();
        tail.append(b"first");
        tail.append(&[b'x'; MAX_CONSOLE_TAIL - 2]);
        let (bytes, total) = tail.snapshot();
        assert_eq!(bytes.len(), MAX_CONSOLE_TAIL);
        assert_eq!(&bytes[..3], b"stx");
        assert_eq!(total, 5 + MAX_CONSOLE_TAIL as u64 - 2);
        tail.append(&[b'y'; MAX_CONSOLE_TAIL + 10]);
        let (bytes, _) = tail.snapshot();
        assert_eq!(bytes, [b'y'; MAX_CONSOLE_TAIL]);
    }
}
