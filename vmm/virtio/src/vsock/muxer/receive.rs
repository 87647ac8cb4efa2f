//! What goes to the guest: control packets and the bytes of the host's sockets, into its
//! receive buffers.

use std::io;
use std::os::fd::AsFd;

use super::super::packet::{CLOSED, HEADER, Header, MAX_PAYLOAD, NO_RECEIVE, NO_SEND};
use super::{Muxer, Role, Token, index};
use crate::chain::Chain;
use crate::queue::Queue;

/// Turns of connections before the worker looks at its descriptors again.
const BUDGET: usize = 32;

/// Receive buffers that one read may fill: 117 KiB of Linux's.
const MAX_BATCH: usize = 32;

/// How far [`Muxer::fill`] got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in super::super) enum Filled {
    /// There is nothing more for the guest.
    All,
    /// There is more, and room for it.
    Part,
    /// There is more, and no receive buffer.
    NoBuffers,
}

/// How a connection's turn went.
enum Turn {
    Over,
    NoBuffers,
}

impl Muxer {
    /// Fills the guest's receive buffers.
    pub(in super::super) fn fill(&mut self, rx: &mut Queue) -> Filled {
        while let Some(&reset) = self.resets.front() {
            let Some(chain) = rx.pop() else {
                return Filled::NoBuffers;
            };
            send(rx, chain, &reset);
            self.resets.pop_front();
        }
        for _ in 0..BUDGET {
            let Some(token) = self.ready.pop_front() else {
                return Filled::All;
            };
            let Some(index) = self.live(token) else {
                continue;
            };
            if let Some((host, _)) = self.connected(index) {
                host.queued = false;
            }
            match self.turn(token, rx) {
                Turn::Over => self.schedule(index),
                Turn::NoBuffers => {
                    if let Some((host, _)) = self.connected(index) {
                        host.queued = true;
                    }
                    self.ready.push_front(token);
                    return Filled::NoBuffers;
                }
            }
        }
        if self.ready.is_empty() {
            Filled::All
        } else {
            Filled::Part
        }
    }

    /// A connection's turn: its control packets, and one read.
    fn turn(&mut self, token: Token, rx: &mut Queue) -> Turn {
        let slot = index(token);
        loop {
            let Some((host, _)) = self.connected(slot) else {
                return Turn::Over;
            };
            let Role::Connected(connected) = &mut host.role else {
                return Turn::Over;
            };
            if !connected.connection.has_control() {
                break;
            }
            let Some(chain) = rx.pop() else {
                return Turn::NoBuffers;
            };
            match connected.connection.control() {
                Some(header) => send(rx, chain, &header),
                None => rx.undo(chain),
            }
            if connected.connection.awaits_reset() && host.deadline.is_none() {
                self.set_deadline(token);
            }
        }
        self.read(slot, rx)
    }

    /// One read from the socket into as many receive buffers as it probably fills.
    fn read(&mut self, slot: usize, rx: &mut Queue) -> Turn {
        let Self {
            slots,
            iovecs,
            buffers,
            ..
        } = self;
        let Some(host) = slots.get_mut(slot).and_then(|slot| slot.host.as_mut()) else {
            return Turn::Over;
        };
        let Role::Connected(connected) = &mut host.role else {
            return Turn::Over;
        };
        let connection = &mut connected.connection;
        let credit = connection.may_send();
        if !host.readable || credit == 0 {
            return Turn::Over;
        }
        let mut room = 0;
        while buffers.len() < connected.batch && room < credit {
            let Some(chain) = rx.pop() else { break };
            room += capacity(&chain);
            buffers.push_back(chain);
        }
        if buffers.is_empty() {
            return Turn::NoBuffers;
        }
        let room = room.min(credit);
        let mut left = room;
        let mut scatter = iovecs.scatter();
        for chain in buffers.iter() {
            let mut writer = chain.writer();
            if writer.skip(HEADER).is_err() {
                break;
            }
            let writer = writer.limit(capacity(chain).min(left));
            left -= writer.remaining();
            scatter.add(&writer);
        }
        let asked = scatter.len();
        let result = if asked == 0 {
            Err(io::ErrorKind::WouldBlock.into())
        } else {
            scatter.read(host.stream.as_fd())
        };
        let mut filled = 0;
        match result {
            Ok(0) => {
                host.readable = false;
                connection.host_shut(if host.hung_up { CLOSED } else { NO_SEND });
            }
            Ok(len) => {
                filled = len;
                connected.batch = next_batch(connected.batch, buffers, len, len == asked);
                // Less than asked for is all there was, unless the end is right behind it.
                host.readable = len == asked || host.ending;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => host.readable = false,
            Err(_) => {
                // The program is gone, with bytes of the guest unread.
                host.readable = false;
                let lost = connected.backlog.clear();
                connection.forwarded(u32::try_from(lost).unwrap_or(u32::MAX));
                connection.host_shut(NO_SEND | NO_RECEIVE);
            }
        }
        while filled > 0 {
            let Some(chain) = buffers.pop_front() else {
                break;
            };
            let len = capacity(&chain).min(filled);
            filled -= len;
            // At most MAX_PAYLOAD.
            let header = connection.data(u32::try_from(len).unwrap_or(0));
            chain.writer().write(&header.to_bytes());
            rx.push(chain, HEADER + len);
        }
        while let Some(chain) = buffers.pop_back() {
            if capacity(&chain) == 0 {
                rx.break_for("a receive buffer without room for a packet");
            }
            rx.undo(chain);
        }
        Turn::Over
    }
}

/// Payload that fits into a receive buffer.
fn capacity(chain: &Chain) -> usize {
    chain.writable_len().saturating_sub(HEADER).min(MAX_PAYLOAD)
}

/// Twice as many buffers when they were all filled, else one more than was needed.
fn next_batch(
    batch: usize,
    buffers: &std::collections::VecDeque<Chain>,
    len: usize,
    full: bool,
) -> usize {
    if full {
        return (batch * 2).min(MAX_BATCH);
    }
    let mut left = len;
    let needed = buffers
        .iter()
        .take_while(|chain| {
            let more = left > 0;
            left = left.saturating_sub(capacity(chain));
            more
        })
        .count();
    (needed + 1).min(MAX_BATCH)
}

/// Sends a packet without payload.
fn send(rx: &mut Queue, chain: Chain, header: &Header) {
    if chain.writable_len() < HEADER {
        rx.break_for("a receive buffer without room for a packet");
    }
    let written = chain.writer().write(&header.to_bytes());
    rx.push(chain, written);
}
