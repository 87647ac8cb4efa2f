//! What the daemon has sent to a process's stdin and the process has not read.
//!
//! Pure. `taken` counts every byte accepted from the daemon, `written` those the
//! process's pipe has; the difference is pending, in memory, bounded by the
//! caller, who reads no further frames while [`Input::is_full`].

use std::collections::VecDeque;

use super::output::StreamError;

/// Pending bytes at which the agent stops reading from the daemon.
const FULL: usize = 256 << 10;

/// The input of one process.
#[derive(Debug, Default)]
pub struct Input {
    pending: VecDeque<u8>,
    taken: u64,
    ended: bool,
    deaf: bool,
}

impl Input {
    /// Bytes accepted so far: where a new connection goes on.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// Bytes the process has been given, or that nobody will read any more.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.taken - self.pending.len() as u64
    }

    /// Whether to read no further frames for now.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.pending.len() >= FULL
    }

    /// Takes data. Bytes that were taken before (sent twice around a lost
    /// connection) are skipped.
    ///
    /// # Errors
    /// [`StreamError::Gap`] when bytes are missing before it,
    /// [`StreamError::AfterEnd`] when the stream was ended earlier.
    pub fn take(&mut self, offset: u64, bytes: &[u8]) -> Result<(), StreamError> {
        if offset > self.taken {
            return Err(StreamError::Gap {
                offset,
                taken: self.taken,
            });
        }
        let known = usize::try_from(self.taken - offset).unwrap_or(usize::MAX);
        let fresh = bytes.get(known..).unwrap_or(&[]);
        if fresh.is_empty() {
            return Ok(());
        }
        if self.ended {
            return Err(StreamError::AfterEnd(self.taken));
        }
        self.taken += fresh.len() as u64;
        if !self.deaf {
            self.pending.extend(fresh);
        }
        Ok(())
    }

    /// The daemon has no more input.
    ///
    /// # Errors
    /// [`StreamError::Gap`] when bytes before the end are missing.
    pub fn end_at(&mut self, offset: u64) -> Result<(), StreamError> {
        if offset > self.taken {
            return Err(StreamError::Gap {
                offset,
                taken: self.taken,
            });
        }
        self.ended = true;
        Ok(())
    }

    /// Ends the input where it stands.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// What to write next; empty when nothing is pending.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        self.pending.as_slices().0
    }

    /// The process took `count` bytes of [`Self::pending`].
    pub fn advance(&mut self, count: usize) {
        self.pending.drain(..count.min(self.pending.len()));
    }

    /// Nobody reads any more: what is pending and what still comes is dropped,
    /// so that a sender is not kept waiting for ever.
    pub fn discard(&mut self) {
        self.pending = VecDeque::new();
        self.deaf = true;
    }

    /// Whether the pipe to the process may be closed.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.deaf || (self.ended && self.pending.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Lost connections resend from where the agent stands or before it; the
        /// process reads each byte once.
        #[test]
        fn input_is_byte_exact(
            data in proptest::collection::vec(any::<u8>(), 0..4000),
            steps in proptest::collection::vec((any::<usize>(), 1..700_usize, any::<usize>()), 0..100),
        ) {
            let mut input = Input::default();
            let mut read = Vec::new();
            let mut step = |input: &mut Input, back: usize, len: usize, reads: usize| {
                let taken = usize::try_from(input.taken()).unwrap();
                let from = taken - back % (taken + 1);
                let to = (from + len).min(data.len());
                if from < to {
                    input.take(from as u64, &data[from..to]).unwrap();
                }
                let count = reads % (input.pending().len() + 1);
                read.extend_from_slice(&input.pending()[..count]);
                input.advance(count);
                assert_eq!(usize::try_from(input.written()).unwrap(), read.len());
            };
            for (back, len, reads) in steps {
                step(&mut input, back, len, reads);
            }
            while usize::try_from(input.taken()).unwrap() < data.len() {
                step(&mut input, 0, 1000, 0);
            }
            input.end_at(data.len() as u64).unwrap();
            while !input.is_done() {
                let count = input.pending().len();
                read.extend_from_slice(input.pending());
                input.advance(count);
            }
            prop_assert_eq!(read, data);
        }
    }

    #[test]
    fn gaps_and_bytes_after_the_end_are_errors() {
        let mut input = Input::default();
        input.take(0, b"abc").unwrap();
        assert_eq!(
            input.take(5, b"x").unwrap_err(),
            StreamError::Gap {
                offset: 5,
                taken: 3
            }
        );
        assert!(input.end_at(4).is_err());
        input.end_at(3).unwrap();
        assert_eq!(input.take(3, b"d").unwrap_err(), StreamError::AfterEnd(3));
        // A repeat of what is known is no continuation.
        input.take(1, b"bc").unwrap();
    }

    #[test]
    fn input_that_nobody_reads_is_taken_and_dropped() {
        let mut input = Input::default();
        input.take(0, b"abc").unwrap();
        input.discard();
        input.take(3, b"def").unwrap();
        assert_eq!((input.taken(), input.written()), (6, 6));
        assert!(input.is_done());
    }
}
