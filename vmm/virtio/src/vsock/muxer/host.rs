//! The host's sockets: accept, the `CONNECT` line, readiness.

use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use rustix::net::{RecvFlags, SocketFlags, accept_with, recv};
use vmm_sys_util::epoll::EventSet;

use super::super::connection::Connection;
use super::super::handshake::{LONGEST, Line, parse};
use super::super::packet::NO_RECEIVE;
use super::{Muxer, Role, Token, index};
use crate::worker::{Edge, Poller};

/// How long to leave the listener alone when the host has no descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Connections accepted per turn.
const BUDGET: usize = 16;

impl Muxer {
    /// What the worker waits on for new connections.
    pub(in super::super) fn listener_fd(&self) -> std::os::fd::RawFd {
        self.listener.as_raw_fd()
    }

    /// The listener reports.
    pub(in super::super) fn listener_ready(&mut self) {
        self.acceptable = true;
    }

    /// Accepts host programs, a bounded number; true when there may be more.
    pub(in super::super) fn accept(&mut self, poller: &Poller) -> bool {
        for _ in 0..BUDGET {
            // With a full table they wait in the listener's backlog until a slot is free.
            if !self.acceptable || self.is_full() {
                return false;
            }
            let stream = match accept_with(
                &self.listener,
                SocketFlags::NONBLOCK | SocketFlags::CLOEXEC,
            ) {
                Ok(stream) => stream,
                Err(rustix::io::Errno::INTR | rustix::io::Errno::CONNABORTED) => continue,
                Err(error) => {
                    self.acceptable = false;
                    if error != rustix::io::Errno::AGAIN {
                        tracing::warn!(%error, "cannot accept a connection to the guest: trying again soon");
                        self.accept_again = Some(Instant::now() + ACCEPT_PAUSE);
                    }
                    return false;
                }
            };
            let fd = stream.as_raw_fd();
            let Some(token) = self.insert(stream, Role::Handshake) else {
                return false;
            };
            match poller.add(fd, Edge::Triggered, token) {
                Ok(()) => self.set_deadline(token),
                Err(error) => {
                    tracing::warn!(%error, "cannot wait for a connection to the guest: it is dropped");
                    self.release(index(token));
                }
            }
        }
        self.acceptable
    }

    /// A socket reports.
    pub(in super::super) fn socket_ready(&mut self, token: Token, events: EventSet) {
        let Some(index) = self.live(token) else {
            return;
        };
        let Some((host, _)) = self.connected(index) else {
            return;
        };
        let broken = events.intersects(EventSet::HANG_UP | EventSet::ERROR);
        host.hung_up |= broken;
        host.ending |= broken || events.contains(EventSet::READ_HANG_UP);
        host.readable |= host.ending || events.contains(EventSet::IN);
        host.writable |= broken || events.contains(EventSet::OUT);
        match &host.role {
            Role::Handshake => self.handshake(token),
            Role::Connected(_) | Role::Lingering(_) => self.flush(index),
        }
    }

    /// Reads the `CONNECT` line, and no byte beyond it: those are the guest's.
    fn handshake(&mut self, token: Token) {
        let index = index(token);
        let Some((host, _)) = self.connected(index) else {
            return;
        };
        let mut bytes = [0; LONGEST];
        let line = match recv(
            &host.stream,
            &mut bytes[..],
            RecvFlags::DONTWAIT | RecvFlags::PEEK,
        ) {
            Ok((_, len)) if len > 0 => parse(&bytes[..len]),
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return,
            _ => Line::Garbage,
        };
        match line {
            // More of it is a new edge; the end of the stream is not, if it was seen.
            Line::Incomplete if !host.ending => {}
            Line::Connect { port, len }
                if recv(&host.stream, &mut bytes[..len], RecvFlags::DONTWAIT).is_ok() =>
            {
                let host = self.new_port(port);
                let ports = super::Ports { host, guest: port };
                let window = self.new_window();
                self.connect(token, Connection::from_host(self.guest_cid, ports, window));
                self.set_deadline(token);
            }
            _ => self.release(index),
        }
    }

    /// Gives a socket what waits for it.
    fn flush(&mut self, index: usize) {
        let Some((host, iovecs)) = self.connected(index) else {
            return;
        };
        let backlog = match &mut host.role {
            Role::Connected(connected) => &mut connected.backlog,
            Role::Lingering(backlog) => backlog,
            Role::Handshake => return,
        };
        let had = !backlog.is_empty();
        let mut taken = 0;
        let mut broken = false;
        while host.writable && !backlog.is_empty() {
            match backlog.flush(&host.stream, iovecs) {
                Ok(len) => taken += len,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => host.writable = false,
                Err(_) => {
                    taken += backlog.clear();
                    broken = true;
                }
            }
        }
        let empty = backlog.is_empty();
        match &mut host.role {
            Role::Connected(connected) => {
                let connection = &mut connected.connection;
                // At most the window.
                connection.forwarded(u32::try_from(taken).unwrap_or(u32::MAX));
                if broken {
                    connection.host_shut(NO_RECEIVE);
                }
                if had && empty && connection.guest_sends_no_more() {
                    // A socket that is shut already is as wanted.
                    let _ = host.stream.shutdown(Shutdown::Write);
                }
                self.schedule(index);
            }
            Role::Lingering(_) if empty || host.hung_up => self.release(index),
            Role::Lingering(_) | Role::Handshake => {}
        }
    }
}
