//! What the fuzz targets see of this module.
#![allow(
    clippy::unwrap_used,
    reason = "a target that cannot be set up has no meaning"
)]

use std::os::unix::net::UnixListener;
use std::path::PathBuf;
use std::time::Instant;

use super::connection::{Action, Connection, Ports};
use super::muxer::{Filled, Muxer};
use super::packet::{CLOSED, Header, STREAM};
use crate::queue::Queue;
use crate::worker::{Edge, Poller};

/// The device, served on the caller's thread.
pub(crate) struct Bench {
    muxer: Muxer,
    poller: Poller,
}

const LISTENER: u64 = 3;

impl Bench {
    pub(crate) fn new(listener: UnixListener, prefix: PathBuf) -> Self {
        let muxer = Muxer::new(3, listener, prefix);
        let poller = Poller::new().unwrap();
        poller
            .add(muxer.listener_fd(), Edge::Triggered, LISTENER)
            .unwrap();
        Self { muxer, poller }
    }

    /// Everything that can be done now.
    pub(crate) fn turn(&mut self, tx: &mut Queue, rx: &mut Queue) {
        for (token, events) in self.poller.poll().unwrap() {
            match token {
                LISTENER => self.muxer.listener_ready(),
                socket => self.muxer.socket_ready(socket, events),
            }
        }
        while self.muxer.accept(&self.poller) {}
        while !self.muxer.is_congested()
            && let Some(chain) = tx.pop()
        {
            if self.muxer.packet(chain.reader(), &self.poller).is_err() {
                tx.break_for("a packet shorter than its header");
            }
            tx.push(chain, 0);
        }
        while self.muxer.fill(rx) == Filled::Part {}
        self.muxer.expire(Instant::now());
        self.muxer.next_deadline(Instant::now());
        tx.notify();
        rx.notify();
    }
}

/// A connection beside a simple account of what it may do.
pub(crate) struct Model {
    connection: Connection,
    window: u32,
    /// Bytes that the guest has under way.
    held: u32,
}

impl Model {
    pub(crate) fn new(from_host: bool, window: u32) -> Self {
        let ports = Ports { host: 1, guest: 2 };
        let connection = if from_host {
            Connection::from_host(3, ports, window)
        } else {
            Connection::from_guest(3, &Header::default(), window)
        };
        Self {
            connection,
            window,
            held: 0,
        }
    }

    pub(crate) fn host_shut(&mut self, what: u32) {
        self.connection.host_shut(what & CLOSED);
    }

    /// Sends up to `len` bytes, no more than the connection allows.
    pub(crate) fn send(&mut self, len: u32) {
        let most = u32::try_from(self.connection.may_send()).unwrap();
        if most == 0 {
            self.connection.want_credit();
            return;
        }
        let len = len.clamp(1, most);
        assert_eq!(self.connection.data(len).len, len);
        assert!(self.connection.may_send() <= (most - len) as usize);
    }

    pub(crate) fn control(&mut self) {
        let has = self.connection.has_control();
        let control = self.connection.control();
        assert_eq!(has, control.is_some());
        if let Some(header) = control {
            assert_eq!(
                (header.src_cid, header.dst_cid, header.kind, header.len),
                (2, 3, STREAM, 0)
            );
            assert_eq!(header.buf_alloc, self.window);
        }
    }

    pub(crate) fn forward(&mut self, len: u32) {
        let len = len.min(self.held);
        self.connection.forwarded(len);
        self.held -= len;
    }

    /// True when the connection has ended.
    pub(crate) fn packet(
        &mut self,
        op: u16,
        len: u32,
        flags: u32,
        buf_alloc: u32,
        fwd_cnt: u32,
    ) -> bool {
        let header = Header {
            src_cid: 3,
            dst_cid: 2,
            src_port: 2,
            dst_port: 1,
            len,
            kind: STREAM,
            op,
            flags,
            buf_alloc,
            fwd_cnt,
        };
        let action = self.connection.receive(&header);
        if action == Action::Deliver {
            self.held = self.held.checked_add(len).unwrap();
            assert!(
                self.held <= self.window,
                "the backlog is bounded by the window"
            );
        }
        let ended = matches!(action, Action::Closed | Action::Reset);
        assert!(ended || self.connection.may_send() <= buf_alloc as usize);
        ended
    }
}
