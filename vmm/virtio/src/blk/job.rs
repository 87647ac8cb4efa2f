//! A request on its way: which operation comes next, and what its result means. Pure.

use std::io;
use std::sync::Arc;

use rustix::io::Errno;

use super::disk::Disk;
use super::request::{HEADER, Range, Request, Status};
use crate::chain::{Chain, Reader, Writer};

/// Zeroes written at a time where the file system cannot zero a range itself.
pub(super) const ZEROES: usize = 16 << 10;

/// One system call's worth of a request. Offsets and lengths are bytes of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Op {
    /// To [`Job::room`].
    Read { offset: u64 },
    /// From [`Job::data`].
    Write { offset: u64 },
    /// `fdatasync`.
    Sync,
    /// `fallocate(FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE)`.
    Punch { offset: u64, len: u64 },
    /// `fallocate(FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE)`.
    Zero { offset: u64, len: u64 },
    /// Writes up to [`ZEROES`] zero bytes.
    WriteZeroes { offset: u64, len: usize },
}

/// A request, its chain and how far it got.
#[derive(Debug)]
pub(super) struct Job {
    /// Names the queue that it came from, to the worker.
    pub(super) origin: usize,
    pub(super) disk: Arc<Disk>,
    chain: Chain,
    request: Request,
    /// Set when nothing is left to do.
    status: Option<Status>,
    /// Bytes of data, or of the current range, that are done.
    done: u64,
    /// The current range.
    range: usize,
    /// The file system cannot zero ranges.
    by_hand: bool,
}

impl Job {
    pub(super) fn new(origin: usize, disk: Arc<Disk>, chain: Chain, request: Request) -> Self {
        let mut job = Self {
            origin,
            disk,
            chain,
            request,
            status: None,
            done: 0,
            range: 0,
            by_hand: false,
        };
        if job.request == Request::Identify {
            job.chain
                .writer()
                .limit(job.chain.writable_len() - 1)
                .write(&job.disk.serial);
            job.status = Some(Status::Ok);
        }
        if job.request == Request::Flush && job.disk.ephemeral {
            job.status = Some(Status::Ok);
        }
        job
    }

    /// What to do next; `None` when it is finished.
    pub(super) fn op(&self) -> Option<Op> {
        if self.status.is_some() {
            return None;
        }
        match &self.request {
            Request::Read { offset, .. } => Some(Op::Read {
                offset: offset + self.done,
            }),
            Request::Write { offset, .. } => Some(Op::Write {
                offset: offset + self.done,
            }),
            Request::Flush => Some(Op::Sync),
            Request::Identify => None,
            Request::Discard(ranges) => self
                .next_range(ranges)
                .map(|Range { offset, len, .. }| Op::Punch { offset, len }),
            Request::WriteZeroes(ranges) => {
                let Range { offset, len, unmap } = self.next_range(ranges)?;
                Some(if self.by_hand {
                    Op::WriteZeroes {
                        offset: offset + self.done,
                        len: usize::try_from(len - self.done).map_or(ZEROES, |len| len.min(ZEROES)),
                    }
                } else if unmap {
                    Op::Punch { offset, len }
                } else {
                    Op::Zero { offset, len }
                })
            }
        }
    }

    /// The current range; empty ones are nothing to do (`fallocate` refuses them).
    fn next_range(&self, ranges: &[Range]) -> Option<Range> {
        ranges[self.range.min(ranges.len())..]
            .iter()
            .find(|range| range.len > 0)
            .copied()
    }

    /// Takes the result of the operation that [`op`](Self::op) named.
    pub(super) fn advance(&mut self, result: Result<usize, Errno>) {
        let result = match result {
            // To be tried again as it is.
            Err(Errno::INTR | Errno::AGAIN) => return,
            result => result,
        };
        match (&self.request, result) {
            // The file has become shorter than the disk.
            (Request::Read { .. } | Request::Write { .. }, Ok(0)) => self.fail(&Errno::IO),
            (Request::Read { len, .. } | Request::Write { len, .. }, Ok(count)) => {
                self.done += count as u64;
                if self.done >= *len as u64 {
                    self.status = Some(Status::Ok);
                }
            }
            (Request::Flush | Request::Identify, Ok(_)) => self.status = Some(Status::Ok),
            (Request::Discard(_), Ok(_)) => self.range_done(),
            (Request::WriteZeroes(_), Ok(count)) if self.by_hand => {
                self.done += count as u64;
                if count == 0 {
                    self.fail(&Errno::IO);
                } else if self.op_len() == 0 {
                    self.range_done();
                }
            }
            (Request::WriteZeroes(_), Ok(_)) => self.range_done(),
            (Request::WriteZeroes(_), Err(Errno::OPNOTSUPP)) if !self.by_hand => {
                self.by_hand = true
            }
            (Request::Discard(_), Err(Errno::OPNOTSUPP)) => self.status = Some(Status::Unsupported),
            (_, Err(error)) => self.fail(&error),
        }
        if self.op().is_none() {
            self.status.get_or_insert(Status::Ok);
        }
    }

    /// Bytes left of the range that is zeroed by hand.
    fn op_len(&self) -> usize {
        match self.op() {
            Some(Op::WriteZeroes { len, .. }) => len,
            _ => 0,
        }
    }

    fn range_done(&mut self) {
        let (Request::Discard(ranges) | Request::WriteZeroes(ranges)) = &self.request else {
            return;
        };
        let skipped = ranges[self.range..]
            .iter()
            .take_while(|range| range.len == 0)
            .count();
        self.range += skipped + 1;
        self.done = 0;
    }

    fn fail(&mut self, error: &Errno) {
        tracing::warn!(
            serial = %String::from_utf8_lossy(&self.disk.serial).trim_end_matches('\0'),
            request = ?self.request,
            error = %io::Error::from(*error),
            "a disk request failed"
        );
        self.status = Some(Status::IoError);
    }

    /// Where [`Op::Read`] goes.
    pub(super) fn room(&self) -> Writer<'_> {
        let len = self.chain.writable_len().saturating_sub(1);
        let mut writer = self.chain.writer().limit(len);
        // Cannot fail: `done` is at most the length.
        let _ = writer.skip(usize::try_from(self.done).unwrap_or(len));
        writer
    }

    /// What [`Op::Write`] takes.
    pub(super) fn data(&self) -> Reader<'_> {
        let mut reader = self.chain.reader();
        // Cannot fail: the parser saw the header, and `done` is at most the length.
        let _ = reader.skip(HEADER + usize::try_from(self.done).unwrap_or(0));
        reader
    }

    /// Writes the status; gives the chain back and the bytes written to it.
    pub(super) fn finish(self) -> (Chain, usize) {
        let status = self.status.unwrap_or(Status::IoError);
        let written = answer(&self.chain, status);
        (self.chain, written)
    }
}

/// Writes a status behind the data. Says how many bytes are written from the first on: all,
/// or none where data that was not read lies before the status (2.7.8.2).
pub(super) fn answer(chain: &Chain, status: Status) -> usize {
    let room = chain.writable_len();
    let Ok((_, mut last)) = chain.writer().split_at(room.saturating_sub(1)) else {
        return 0;
    };
    last.write(&[status as u8]);
    if status == Status::Ok || room == 1 {
        room
    } else {
        0
    }
}
