//! Frames from the tap into the driver's buffers (5.1.6.3, 5.1.6.4).

use std::collections::VecDeque;
use std::io;
use std::os::fd::BorrowedFd;

use super::header::{HEADER, NUM_BUFFERS};
use super::{ETHERNET, GUEST_TSO4, GUEST_TSO6, MAX_FRAME, MRG_RXBUF};
use crate::chain::{Chain, IoVecs};
use crate::queue::Queue;

/// Frames per turn.
const BUDGET: usize = 64;

/// How far [`Receiver::run`] got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Received {
    /// The tap has no more frames.
    TapEmpty,
    /// The tap may have more, and there is room.
    Part,
    /// The tap may have more, and there is not enough room.
    NoBuffers,
}

/// The receive side of a pair.
#[derive(Debug)]
pub(super) struct Receiver {
    /// Buffers taken from the queue that are still empty, in its order: a read may fill
    /// several, and how many is known only after it.
    window: VecDeque<Chain>,
    /// Bytes that fit into them.
    room: usize,
    /// Room without which no read is tried.
    need: usize,
    /// A frame may lie in several buffers.
    mergeable: bool,
    iovecs: IoVecs,
    /// Frames that did not fit, or were none.
    dropped: u64,
}

impl Receiver {
    /// For a driver with the features `negotiated` and an interface of `mtu` bytes.
    pub(super) fn new(negotiated: u64, mtu: u16) -> Self {
        let frame = if negotiated & (GUEST_TSO4 | GUEST_TSO6) != 0 {
            MAX_FRAME
        } else {
            usize::from(mtu) + ETHERNET + 4
        };
        Self {
            window: VecDeque::new(),
            room: 0,
            need: HEADER + frame,
            mergeable: negotiated & MRG_RXBUF != 0,
            iovecs: IoVecs::new(),
            dropped: 0,
        }
    }

    /// Moves frames until the tap is empty, the buffers are, or it is the other side's turn.
    pub(super) fn run(&mut self, rx: &mut Queue, tap: BorrowedFd<'_>) -> Received {
        rx.disable_kicks();
        for _ in 0..BUDGET {
            if !self.make_room(rx) {
                return Received::NoBuffers;
            }
            let mut scatter = self.iovecs.scatter();
            for chain in &self.window {
                scatter.add(&chain.writer());
            }
            match scatter.read(tap) {
                Ok(len) => self.deliver(len, rx),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Received::TapEmpty;
                }
                Err(error) => {
                    // The interface is down or gone. What comes later is a new edge.
                    tracing::debug!(%error, "cannot read from the tap");
                    return Received::TapEmpty;
                }
            }
        }
        Received::Part
    }

    /// Takes buffers until the largest frame fits; false when there are too few.
    fn make_room(&mut self, rx: &mut Queue) -> bool {
        while self.room < self.need && (self.mergeable || self.window.is_empty()) {
            let Some(chain) = rx.pop() else { break };
            if chain.writable_len() < HEADER {
                rx.break_for("a receive buffer shorter than a header");
                rx.undo(chain);
                break;
            }
            self.room += chain.writable_len();
            self.window.push_back(chain);
        }
        if self.window.is_empty() {
            return false;
        }
        // A driver whose whole ring is too small for the largest frame gets the others: one
        // that does not fit is dropped.
        self.room >= self.need || !self.mergeable || rx.in_flight() == rx.size()
    }

    /// The first `len` bytes of the window are a header and a frame.
    fn deliver(&mut self, len: usize, rx: &mut Queue) {
        let cut = len >= self.room && self.room < self.need;
        if len < HEADER + ETHERNET || cut {
            self.dropped += 1;
            tracing::debug!(
                len,
                dropped = self.dropped,
                "a frame does not fit into the guest's buffers"
            );
            return;
        }
        let mut left = len;
        let mut count = 0u16;
        for chain in &self.window {
            if left == 0 {
                break;
            }
            left = left.saturating_sub(chain.writable_len());
            count += 1;
        }
        if let Some(mut field) = self.window.front().map(Chain::writer) {
            // The tap leaves it zero; it is 1 without merging, too (5.1.6.4.1).
            if field.skip(NUM_BUFFERS).is_ok() {
                field.write(&count.to_le_bytes());
            }
        }
        let mut left = len;
        for _ in 0..count {
            let Some(chain) = self.window.pop_front() else {
                break;
            };
            let part = chain.writable_len().min(left);
            left -= part;
            self.room -= chain.writable_len();
            rx.push(chain, part);
        }
    }

    /// Puts the empty buffers back.
    pub(super) fn give_back(&mut self, rx: &mut Queue) {
        while let Some(chain) = self.window.pop_back() {
            rx.undo(chain);
        }
        self.room = 0;
    }
}
