//! Where a log stands: how many bytes of each stream are in it.
//!
//! Counted from a [`Checkpoint`], which was true at some moment, over everything
//! appended since. Lines that are not ours count nothing; a last line without
//! its newline was torn by a kill and is to be cut off.

use serde::{Deserialize, Serialize};

use super::format::{self, Line, MAX_LINE};

/// A statement about a log file that was true when it was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Checkpoint {
    /// Device of the log file.
    pub dev: u64,
    /// Its inode: tells a rotated file from its successor.
    pub ino: u64,
    /// Its length then, in whole lines, bytes.
    pub len: u64,
    /// Bytes of stdout and stderr that were in this and earlier files of the
    /// log, or were given up because they could not be written.
    pub streams: [u64; 2],
    /// Bytes given up so far.
    pub dropped: u64,
}

/// Largest checkpoint file, bytes.
pub const MAX_CHECKPOINT: usize = 4096;

impl Checkpoint {
    /// Reads what [`Checkpoint::encode`] wrote; `None` for anything else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > MAX_CHECKPOINT {
            return None;
        }
        serde_json::from_slice(bytes).ok()
    }

    /// The checkpoint as a file's content.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// Counts the streams' bytes in a log, chunk by chunk.
#[derive(Debug, Default)]
pub struct Scanner {
    /// The beginning of a line whose end is not there yet, at most [`MAX_LINE`].
    carry: Vec<u8>,
    /// The line under way is longer than any of ours; bytes of it so far.
    overlong: u64,
    whole: u64,
    streams: [u64; 2],
}

impl Scanner {
    /// Takes the next bytes of the log.
    pub fn push(&mut self, chunk: &[u8]) {
        for piece in chunk.split_inclusive(|b| *b == b'\n') {
            let Some(end) = piece.strip_suffix(b"\n") else {
                self.hold(piece);
                continue;
            };
            if self.overlong > 0 {
                self.whole += self.overlong + piece.len() as u64;
                self.overlong = 0;
                continue;
            }
            self.whole += (self.carry.len() + piece.len()) as u64;
            if self.carry.is_empty() {
                count(&mut self.streams, end);
            } else {
                self.carry.extend_from_slice(end);
                count(&mut self.streams, &self.carry);
                self.carry.clear();
            }
        }
    }

    fn hold(&mut self, piece: &[u8]) {
        if self.overlong == 0 && self.carry.len() + piece.len() <= MAX_LINE {
            self.carry.extend_from_slice(piece);
        } else {
            self.overlong += (self.carry.len() + piece.len()) as u64;
            self.carry.clear();
        }
    }

    /// Bytes of whole lines so far: where the log is to be cut if it goes on
    /// without a newline.
    #[must_use]
    pub fn whole(&self) -> u64 {
        self.whole
    }

    /// Bytes of stdout and of stderr in those lines.
    #[must_use]
    pub fn streams(&self) -> [u64; 2] {
        self.streams
    }
}

fn count(streams: &mut [u64; 2], line: &[u8]) {
    if let Some(line) = Line::parse(line)
        && let Some(slot) = streams.get_mut(format::index(line.stream))
    {
        *slot += line.payload();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{log::format::Splitter, spec::Stream};
    use proptest::prelude::*;

    const STAMP: &[u8] = b"2026-08-22T10:00:00.123456789Z";

    fn scan(log: &[u8], chunk: usize) -> Scanner {
        let mut scanner = Scanner::default();
        for piece in log.chunks(chunk.max(1)) {
            scanner.push(piece);
        }
        scanner
    }

    #[test]
    fn a_torn_line_and_lines_of_others_count_nothing() {
        let log = b"2026-08-22T10:00:00.123456789Z stdout F ab\nnoise\n\
                    2026-08-22T10:00:00.123456789Z stderr P cd\n2026-08-22T10:00:00.123";
        for chunk in [1, 7, log.len()] {
            let scanner = scan(log, chunk);
            assert_eq!(scanner.streams(), [3, 2]);
            assert_eq!(scanner.whole(), log.len() as u64 - 23);
        }
    }

    #[test]
    fn a_line_longer_than_ours_is_skipped_without_being_kept() {
        let mut log = b"2026-08-22T10:00:00.123456789Z stdout F ".to_vec();
        log.extend(vec![b'x'; 3 * MAX_LINE]);
        log.extend_from_slice(b"\n2026-08-22T10:00:00.123456789Z stdout F y\n");
        for chunk in [100, MAX_LINE, log.len()] {
            let scanner = scan(&log, chunk);
            assert!(scanner.carry.capacity() <= 4 * MAX_LINE);
            assert_eq!(scanner.whole(), log.len() as u64);
        }
        assert_eq!(scan(&log, 100).streams(), [2, 0]);
    }

    #[test]
    fn checkpoints_survive_and_anything_else_is_none() {
        let checkpoint = Checkpoint {
            dev: 1,
            ino: u64::MAX,
            len: 3,
            streams: [4, 5],
            dropped: 6,
        };
        assert_eq!(Checkpoint::decode(&checkpoint.encode()), Some(checkpoint));
        assert_eq!(Checkpoint::decode(b"{}"), None);
        assert_eq!(Checkpoint::decode(&vec![b' '; 5000]), None);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Streams written in any interleaving, the log cut off at any byte (a
        /// kill), resumed: the log then holds each stream byte for byte.
        #[test]
        fn a_log_cut_anywhere_goes_on_without_gap_or_repeat(
            batches in proptest::collection::vec(
                (any::<bool>(), proptest::collection::vec(
                    prop_oneof![8 => any::<u8>(), 1 => Just(b'\n')], 0..3000)),
                1..24,
            ),
            cuts in proptest::collection::vec((any::<prop::sample::Index>(), 1_usize..9000), 0..4),
        ) {
            let mut streams = [Vec::new(), Vec::new()];
            for (err, bytes) in &batches {
                streams[usize::from(*err)].extend_from_slice(bytes);
            }
            let mut log: Vec<u8> = Vec::new();
            let mut rounds: Vec<_> = cuts.into_iter().map(Some).collect();
            rounds.push(None);
            for cut in rounds {
                // The daemon (again): count, cut the torn line, go on from there.
                let scanner = scan(&log, 777);
                log.truncate(usize::try_from(scanner.whole()).unwrap());
                let from = scanner.streams().map(|n| usize::try_from(n).unwrap());
                let mut splitters = [Splitter::default(), Splitter::default()];
                let mut at = from;
                let step = cut.as_ref().map_or(4096, |c| c.1);
                while (0..2).any(|s| at[s] < streams[s].len()) {
                    for s in 0..2 {
                        let end = (at[s] + step).min(streams[s].len());
                        splitters[s].push(
                            STAMP, format::STREAMS[s], &streams[s][at[s]..end], &mut log);
                        at[s] = end;
                    }
                }
                match cut {
                    Some((index, _)) => log.truncate(index.index(log.len() + 1)),
                    None => for (splitter, stream) in splitters.iter_mut().zip(format::STREAMS) {
                        splitter.flush(STAMP, stream, &mut log);
                    },
                }
            }
            let mut got = [Vec::new(), Vec::new()];
            for raw in log.split_inclusive(|b| *b == b'\n') {
                let line = Line::parse(raw.strip_suffix(b"\n").unwrap()).unwrap();
                let into = &mut got[usize::from(line.stream == Stream::Stderr)];
                into.extend_from_slice(line.content);
                if line.full { into.push(b'\n'); }
            }
            prop_assert_eq!(got, streams);
        }

        #[test]
        fn arbitrary_logs_never_panic(
            log in proptest::collection::vec(any::<u8>(), 0..500), chunk in 1_usize..64,
        ) {
            let scanner = scan(&log, chunk);
            prop_assert!(scanner.whole() <= log.len() as u64);
            let _ = Checkpoint::decode(&log);
        }
    }
}
