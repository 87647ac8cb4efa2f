//! All connections of a guest: their table, sockets, timeouts and turns.
//!
//! ```text
//!   tx queue --> guest: packets to sockets        slots: stream + role
//!   rx queue <-- receive: control and data          Handshake -> Connected -> Lingering
//!   listener --> host: CONNECT, readiness           (its line)   (ports)      (bytes left for
//!                                                                              the host only)
//! ```
//!
//! A slot keeps its token (generation and index) from accept to close, so readiness that was
//! reported in one role is not lost in the next. What has something for the guest stands in
//! `ready`, once, and is served in turns.

mod guest;
mod host;
mod receive;

use std::collections::{HashMap, VecDeque};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub(super) use receive::Filled;

use super::backlog::Backlog;
use super::connection::{Connection, Ports};
use super::packet::Header;
use super::{MAX_CONNECTIONS, MAX_RESETS, PATIENCE, SMALL_WINDOW, WINDOW, WINDOWS};
use crate::chain::{Chain, IoVecs};

/// Ports that the host's ends get: beyond all that programs listen on.
const FIRST_PORT: u32 = 1 << 30;

/// Bytes thrown away, at most, so that the host's program sees the end of its stream and not
/// a reset (a unix socket that is closed with bytes unread resets its peer).
const DISCARD: usize = 256 << 10;

/// Names a slot for as long as it holds one socket: generation above, index below. The
/// generation is never 0: tokens below 2^32 are the worker's own.
pub(super) type Token = u64;

#[derive(Debug)]
pub(super) struct Muxer {
    guest_cid: u64,
    listener: UnixListener,
    prefix: PathBuf,
    slots: Vec<Slot>,
    free: Vec<usize>,
    by_ports: HashMap<Ports, usize>,
    next_port: u32,
    /// What all connections may have under way.
    windows: u64,
    /// Slots that have something for the guest, each once, in turns.
    ready: VecDeque<Token>,
    /// Answers to packets that belong to no connection (any more).
    resets: VecDeque<Header>,
    /// In order: they are all [`PATIENCE`] away when they are set.
    deadlines: VecDeque<(Instant, Token)>,
    /// The listener may have more.
    acceptable: bool,
    /// When to try again after the host refused an accept.
    accept_again: Option<Instant>,
    iovecs: IoVecs,
    /// Receive buffers that a read is tried with; empty between turns.
    buffers: VecDeque<Chain>,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u32,
    host: Option<Host>,
}

/// A socket of the host.
#[derive(Debug)]
struct Host {
    stream: UnixStream,
    readable: bool,
    writable: bool,
    /// Both directions are shut, by whichever side.
    hung_up: bool,
    /// The end of its stream may be behind what is readable.
    ending: bool,
    /// It stands in [`Muxer::ready`].
    queued: bool,
    deadline: Option<Instant>,
    role: Role,
}

#[derive(Debug)]
enum Role {
    /// Its `CONNECT` line is awaited.
    Handshake,
    Connected(Box<Connected>),
    /// The guest is done; the bytes are the host's.
    Lingering(Backlog),
}

#[derive(Debug)]
struct Connected {
    connection: Connection,
    backlog: Backlog,
    /// Receive buffers to try the next read with.
    batch: usize,
}

impl Muxer {
    pub(super) fn new(guest_cid: u64, listener: UnixListener, prefix: PathBuf) -> Self {
        Self {
            guest_cid,
            listener,
            prefix,
            slots: Vec::new(),
            free: Vec::new(),
            by_ports: HashMap::new(),
            next_port: FIRST_PORT,
            windows: 0,
            ready: VecDeque::new(),
            resets: VecDeque::new(),
            deadlines: VecDeque::new(),
            acceptable: true,
            accept_again: None,
            iovecs: IoVecs::new(),
            buffers: VecDeque::new(),
        }
    }

    /// Whether packets of the guest must wait: answers to earlier ones do.
    pub(super) fn is_congested(&self) -> bool {
        self.resets.len() >= MAX_RESETS
    }

    /// How long until [`expire`](Self::expire) has something to do.
    pub(super) fn next_deadline(&mut self, now: Instant) -> Option<Duration> {
        while let Some(&(at, token)) = self.deadlines.front() {
            if self
                .host(token)
                .is_some_and(|host| host.deadline.is_some_and(|deadline| deadline <= at))
            {
                break;
            }
            self.deadlines.pop_front();
        }
        let deadline = self.deadlines.front().map(|&(at, _)| at);
        [deadline, self.accept_again]
            .into_iter()
            .flatten()
            .min()
            .map(|at| at.saturating_duration_since(now))
    }

    /// Ends what has waited for its peer for too long.
    pub(super) fn expire(&mut self, now: Instant) {
        if self.accept_again.is_some_and(|at| at <= now) {
            self.accept_again = None;
            self.acceptable = true;
        }
        while let Some(&(at, token)) = self.deadlines.front() {
            if at > now {
                break;
            }
            self.deadlines.pop_front();
            let expired = self
                .host(token)
                .is_some_and(|host| host.deadline.is_some_and(|deadline| deadline <= now));
            if expired {
                self.close(index(token), true);
            }
        }
    }

    fn host(&self, token: Token) -> Option<&Host> {
        let slot = self.slots.get(index(token))?;
        slot.host
            .as_ref()
            .filter(|_| slot.generation == generation(token))
    }

    /// The slot's socket, if `token` still names it.
    fn live(&self, token: Token) -> Option<usize> {
        self.host(token).map(|_| index(token))
    }

    fn connected(&mut self, index: usize) -> Option<(&mut Host, &mut IoVecs)> {
        let host = self.slots.get_mut(index)?.host.as_mut()?;
        Some((host, &mut self.iovecs))
    }

    fn is_full(&self) -> bool {
        self.slots.len() - self.free.len() >= MAX_CONNECTIONS
    }

    /// Puts a socket into the table; closes it when that is full. A socket that lingers makes
    /// room.
    fn insert(&mut self, stream: OwnedFd, role: Role) -> Option<Token> {
        if self.is_full() {
            let lingering = self.slots.iter().position(|slot| {
                slot.host
                    .as_ref()
                    .is_some_and(|host| matches!(host.role, Role::Lingering(_)))
            })?;
            self.release(lingering);
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        let slot = &mut self.slots[index];
        // Neither 0 nor all ones, which the worker uses.
        slot.generation = slot.generation % (u32::MAX - 1) + 1;
        slot.host = Some(Host {
            stream: stream.into(),
            readable: false,
            writable: true,
            hung_up: false,
            ending: false,
            queued: false,
            deadline: None,
            role,
        });
        Some(u64::from(slot.generation) << 32 | index as u64)
    }

    /// The bytes that a new connection's guest may have under way.
    fn new_window(&mut self) -> u32 {
        let window = if self.windows + u64::from(WINDOW) <= WINDOWS {
            WINDOW
        } else {
            SMALL_WINDOW
        };
        self.windows += u64::from(window);
        window
    }

    /// A host port that, with the guest's, names no connection yet.
    fn new_port(&mut self, guest: u32) -> u32 {
        loop {
            let host = self.next_port;
            self.next_port = self.next_port.checked_add(1).unwrap_or(FIRST_PORT);
            // Ends: there are far more ports than connections.
            if !self.by_ports.contains_key(&Ports { host, guest }) {
                return host;
            }
        }
    }

    /// Makes the slot a connection.
    fn connect(&mut self, token: Token, connection: Connection) {
        let index = index(token);
        self.by_ports.insert(connection.ports(), index);
        if let Some(host) = self.slots[index].host.as_mut() {
            host.role = Role::Connected(Box::new(Connected {
                connection,
                backlog: Backlog::default(),
                batch: 1,
            }));
        }
        self.schedule(index);
    }

    /// Starts the slot's [`PATIENCE`].
    fn set_deadline(&mut self, token: Token) {
        let at = Instant::now() + PATIENCE;
        if let Some(host) = self.slots[index(token)].host.as_mut() {
            host.deadline = Some(at);
            self.deadlines.push_back((at, token));
        }
    }

    /// Puts the slot in the row for receive buffers, if it has something for the guest.
    fn schedule(&mut self, index: usize) {
        let slot = &mut self.slots[index];
        let Some(host) = slot.host.as_mut() else {
            return;
        };
        let Role::Connected(connected) = &mut host.role else {
            return;
        };
        let connection = &mut connected.connection;
        if host.hung_up && !connection.takes_data() && connection.is_established() {
            // Nothing is read from it any more, so its end is not seen by reading.
            connection.host_shut(super::packet::CLOSED);
        }
        if host.readable && connection.takes_data() && connection.may_send() == 0 {
            connection.want_credit();
        }
        let has_data = host.readable && connection.may_send() > 0;
        if !host.queued && (has_data || connection.has_control()) {
            host.queued = true;
            self.ready
                .push_back(u64::from(slot.generation) << 32 | index as u64);
        }
    }

    /// The guest's part of a slot ends, with a reset to the guest if `reset`. Bytes that the
    /// host's program has not taken are still offered to it.
    fn close(&mut self, index: usize, reset: bool) {
        let Some(host) = self.slots[index].host.as_mut() else {
            return;
        };
        host.deadline = None;
        match std::mem::replace(&mut host.role, Role::Handshake) {
            Role::Connected(mut connected) => {
                self.by_ports.remove(&connected.connection.ports());
                self.windows -= u64::from(connected.connection.window());
                if reset {
                    self.resets.push_back(connected.connection.reset());
                }
                if connected.backlog.is_empty() {
                    self.release(index);
                } else {
                    // Nothing more comes from the guest, and nothing goes to it.
                    let _ = host.stream.shutdown(Shutdown::Read);
                    host.role = Role::Lingering(connected.backlog);
                }
            }
            Role::Handshake | Role::Lingering(_) => self.release(index),
        }
    }

    /// Closes the slot's socket.
    fn release(&mut self, index: usize) {
        let Some(host) = self.slots[index].host.take() else {
            return;
        };
        self.free.push(index);
        let _ = host.stream.shutdown(Shutdown::Both);
        let mut chunk = [0; 4096];
        let mut left = DISCARD;
        while let Ok((_, len @ 1..)) = rustix::net::recv(
            &host.stream,
            &mut chunk[..],
            rustix::net::RecvFlags::DONTWAIT,
        ) {
            left = left.saturating_sub(len);
            if left == 0 {
                break;
            }
        }
    }
}

fn index(token: Token) -> usize {
    // The lower half.
    usize::try_from(token & u64::from(u32::MAX)).unwrap_or(usize::MAX)
}

fn generation(token: Token) -> u32 {
    u32::try_from(token >> 32).unwrap_or(0)
}
