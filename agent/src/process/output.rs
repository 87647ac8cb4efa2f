//! What a process has written and the daemon has not yet acknowledged.
//!
//! ```text
//!  offset 0          kept_from                written()
//!    │  acknowledged    │  kept, ≤ limit bytes    │  not yet read from the pipe
//!    ▼  and dropped     ▼                         ▼
//!    ──────────────────▶█████████████████████████▶ . . .
//!                            ▲
//!                            Cursor of the one connection
//! ```
//!
//! Pure: bytes in, frames out. When `limit` bytes are kept, [`Output::room`] is
//! zero, the agent stops reading, the pipe fills, and the process waits.

use std::collections::VecDeque;

use bulkhead_agent_api::stdio::{Frame, MAX_DATA};

/// Memory an empty stream may hold on to, bytes.
const IDLE_CAPACITY: usize = 64 << 10;

/// Why a peer's frame cannot be right.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum StreamError {
    /// An offset past everything that was ever in the stream.
    #[error("offset {offset} is past the stream's end {end}")]
    PastEnd {
        /// What the peer named.
        offset: u64,
        /// Where the stream stands.
        end: u64,
    },
    /// Input that does not follow what was taken before it.
    #[error("input at offset {offset} leaves a gap after {taken}")]
    Gap {
        /// Offset of the peer's data.
        offset: u64,
        /// Bytes taken so far.
        taken: u64,
    },
    /// Input after the input's end.
    #[error("input continues after its end at {0}")]
    AfterEnd(u64),
}

/// The output of one stream of one process.
#[derive(Debug)]
pub struct Output {
    kept: VecDeque<u8>,
    kept_from: u64,
    limit: usize,
    ended: bool,
}

impl Output {
    /// An empty stream that keeps at most `limit` bytes (at least one).
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            kept: VecDeque::new(),
            kept_from: 0,
            limit: limit.max(1),
            ended: false,
        }
    }

    /// Bytes that may be pushed now.
    #[must_use]
    pub fn room(&self) -> usize {
        self.limit.saturating_sub(self.kept.len())
    }

    /// Bytes the stream has had so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.kept_from + self.kept.len() as u64
    }

    /// Appends what the process wrote. Callers read no more than [`Self::room`]
    /// bytes; nothing is dropped if they did.
    pub fn push(&mut self, bytes: &[u8]) {
        debug_assert!(!self.ended, "output after its end");
        self.kept.extend(bytes);
    }

    /// No writer is left.
    pub fn end(&mut self) {
        self.ended = true;
    }

    /// Whether the stream has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Everything below `offset` is safe elsewhere. An older acknowledgement
    /// than the last is harmless.
    ///
    /// # Errors
    /// [`StreamError::PastEnd`] for bytes that were never sent.
    pub fn acknowledge(&mut self, offset: u64) -> Result<(), StreamError> {
        let end = self.written();
        if offset > end {
            return Err(StreamError::PastEnd { offset, end });
        }
        let done = usize::try_from(offset.saturating_sub(self.kept_from)).unwrap_or(usize::MAX);
        self.kept.drain(..done.min(self.kept.len()));
        self.kept_from = self.kept_from.max(offset);
        if self.kept.is_empty() {
            // An idle stream gives back what a burst has taken.
            let keep = if self.ended { 0 } else { IDLE_CAPACITY };
            self.kept.shrink_to(keep);
        }
        Ok(())
    }

    /// A connection that wants the stream from `offset`: everything below it is
    /// acknowledged.
    ///
    /// # Errors
    /// [`StreamError::PastEnd`] for an offset the stream has not reached.
    pub fn resume(&mut self, offset: u64) -> Result<Cursor, StreamError> {
        self.acknowledge(offset)?;
        Ok(Cursor {
            next: offset.max(self.kept_from),
            told_end: false,
        })
    }
}

/// How far one connection has got.
#[derive(Debug)]
pub struct Cursor {
    next: u64,
    told_end: bool,
}

impl Cursor {
    /// Offset of the next byte to send: what `Accepted` carries.
    #[must_use]
    pub fn next(&self) -> u64 {
        self.next
    }

    /// What to send now, encoded into `wire`; false when there is nothing yet.
    pub fn next_frame(&mut self, output: &Output, wire: &mut Vec<u8>) -> bool {
        wire.clear();
        let from = usize::try_from(self.next.saturating_sub(output.kept_from)).unwrap_or(0);
        let len = output.kept.len().saturating_sub(from).min(MAX_DATA);
        if len > 0 {
            Frame::encode_data_header(self.next, len, wire);
            let (first, second) = output.kept.as_slices();
            let head = first.get(from..).unwrap_or(&[]);
            let head = head.get(..len).unwrap_or(head);
            wire.extend_from_slice(head);
            let from = from.saturating_sub(first.len());
            let tail = second.get(from..).unwrap_or(&[]);
            let rest = len - head.len();
            wire.extend_from_slice(tail.get(..rest).unwrap_or(tail));
            self.next += len as u64;
            return true;
        }
        if output.ended && !self.told_end {
            self.told_end = true;
            Frame::encode_eof(output.written(), wire);
            return true;
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A receiver that keeps what it got and where it stands.
    #[derive(Default)]
    struct Daemon {
        file: Vec<u8>,
        ended: bool,
    }

    impl Daemon {
        fn take(&mut self, wire: &[u8]) {
            match Frame::decode(&wire[4..]).unwrap() {
                Frame::Data(offset, bytes) => {
                    assert_eq!(offset, self.file.len() as u64, "gap or repeat");
                    self.file.extend(bytes);
                }
                Frame::Eof(offset) => {
                    assert_eq!(offset, self.file.len() as u64);
                    assert!(!self.ended, "one end a connection");
                    self.ended = true;
                }
                other => panic!("unexpected {other:?}"),
            }
        }
    }

    #[derive(Clone, Debug)]
    enum Step {
        Write(usize),
        Send,
        Ack(usize),
        Reconnect(usize),
    }

    fn any_step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1..3000_usize).prop_map(Step::Write),
            Just(Step::Send),
            any::<usize>().prop_map(Step::Ack),
            any::<usize>().prop_map(Step::Reconnect),
        ]
    }

    proptest! {
        /// Whatever order reads, sends, acknowledgements and lost connections
        /// come in, the daemon ends up with exactly what the process wrote.
        #[test]
        fn output_is_byte_exact(
            limit in 1..5000_usize,
            steps in proptest::collection::vec(any_step(), 0..200),
        ) {
            let mut output = Output::new(limit);
            let mut written = Vec::new();
            let mut daemon = Daemon::default();
            let mut acked = 0;
            let mut wire = Vec::new();
            let mut cursor = output.resume(0).unwrap();
            for step in steps {
                match step {
                    Step::Write(len) => {
                        let len = len.min(output.room());
                        let from = written.len();
                        written.extend((from..from + len).map(|i| u8::try_from(i % 251).unwrap()));
                        output.push(&written[from..]);
                    }
                    Step::Send => {
                        if cursor.next_frame(&output, &mut wire) {
                            daemon.take(&wire);
                        }
                    }
                    Step::Ack(at) => {
                        acked = acked.max(at % (daemon.file.len() + 1));
                        output.acknowledge(acked as u64).unwrap();
                    }
                    // A daemon that died keeps on disk what it acknowledged, at least.
                    Step::Reconnect(at) => {
                        let kept = acked + at % (daemon.file.len() - acked + 1);
                        daemon.file.truncate(kept);
                        acked = kept;
                        cursor = output.resume(kept as u64).unwrap();
                        prop_assert_eq!(cursor.next(), kept as u64);
                    }
                }
                prop_assert!(output.kept.len() <= limit);
            }
            output.end();
            while cursor.next_frame(&output, &mut wire) {
                daemon.take(&wire);
            }
            prop_assert!(daemon.ended);
            prop_assert_eq!(daemon.file, written);
        }
    }

    #[test]
    fn a_full_stream_has_no_room_until_it_is_acknowledged() {
        let mut output = Output::new(4);
        output.push(b"abcd");
        assert_eq!(output.room(), 0);
        output.acknowledge(3).unwrap();
        assert_eq!(output.room(), 3);
        // An old acknowledgement, late.
        output.acknowledge(1).unwrap();
        assert_eq!(output.room(), 3);
    }

    #[test]
    fn a_connection_that_asks_for_dropped_bytes_is_told_where_it_starts() {
        let mut output = Output::new(10);
        output.push(b"0123456789");
        output.acknowledge(6).unwrap();
        assert_eq!(output.resume(2).unwrap().next(), 6);
        assert_eq!(output.resume(8).unwrap().next(), 8);
        assert_eq!(
            output.resume(11).unwrap_err(),
            StreamError::PastEnd {
                offset: 11,
                end: 10
            }
        );
    }

    #[test]
    fn an_acknowledgement_of_unsent_bytes_is_an_error() {
        let mut output = Output::new(10);
        output.push(b"abc");
        assert!(output.acknowledge(4).is_err());
        assert_eq!(output.written(), 3);
    }
}
