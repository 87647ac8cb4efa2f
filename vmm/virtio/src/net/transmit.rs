//! Frames from the driver to the tap (5.1.6.2).

use std::io;
use std::os::fd::BorrowedFd;

use super::header::{self, HEADER};
use super::{ETHERNET, MAX_FRAME};
use crate::chain::{Chain, IoVecs};
use crate::queue::Queue;

/// Frames and bytes per turn.
const BUDGET: usize = 64;
const BUDGET_BYTES: usize = 1 << 20;

/// Where the source address is, behind the header.
const SOURCE: std::ops::Range<usize> = HEADER + 6..HEADER + 12;

/// How far [`Transmitter::run`] got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transmitted {
    /// The driver has no more frames.
    QueueEmpty,
    /// It may have more.
    Part,
    /// It has more, and the tap takes none.
    TapFull,
}

/// The transmit side of a pair.
#[derive(Debug)]
pub(super) struct Transmitter {
    negotiated: u64,
    /// The only source address that is let through, if any.
    source: Option<[u8; 6]>,
    iovecs: IoVecs,
    /// Frames that broke a rule, or that the tap refused.
    dropped: u64,
}

impl Transmitter {
    pub(super) fn new(negotiated: u64, source: Option<[u8; 6]>) -> Self {
        Self {
            negotiated,
            source,
            iovecs: IoVecs::new(),
            dropped: 0,
        }
    }

    /// Moves frames until there are none, the tap is full, or it is the other side's turn.
    pub(super) fn run(&mut self, tx: &mut Queue, tap: BorrowedFd<'_>) -> Transmitted {
        tx.disable_kicks();
        let mut bytes = 0;
        for _ in 0..BUDGET {
            if bytes > BUDGET_BYTES {
                break;
            }
            let Some(chain) = tx.pop() else {
                return if tx.enable_kicks() {
                    Transmitted::Part
                } else {
                    Transmitted::QueueEmpty
                };
            };
            bytes += chain.readable_len();
            match self.send(&chain, tap) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    tx.undo(chain);
                    return Transmitted::TapFull;
                }
                Err(error) => {
                    self.dropped += 1;
                    tracing::debug!(%error, dropped = self.dropped, "a frame of the guest is dropped");
                }
            }
            tx.push(chain, 0);
        }
        Transmitted::Part
    }

    /// Sends a frame: what was checked is a copy, what was not lies behind it.
    fn send(&mut self, chain: &Chain, tap: BorrowedFd<'_>) -> io::Result<()> {
        let refused = || io::ErrorKind::InvalidData.into();
        let mut head = [0; HEADER + ETHERNET];
        let mut reader = chain.reader();
        reader.read_exact(&mut head).map_err(|_| refused())?;
        let len = ETHERNET + reader.remaining();
        if len > MAX_FRAME || self.source.is_some_and(|source| head[SOURCE] != source) {
            return Err(refused());
        }
        let mut fields = [0; HEADER];
        fields.copy_from_slice(&head[..HEADER]);
        let checked = header::check(fields, len, self.negotiated).map_err(|_| refused())?;
        head[..HEADER].copy_from_slice(&checked);
        self.iovecs
            .gather()
            .bytes(&head)
            .reader(&reader)
            .write(tap)?;
        Ok(())
    }
}
