//! Packets from the guest.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, connect, socket_with};

use super::super::HOST_CID;
use super::super::connection::{Action, Connection, Ports};
use super::super::packet::{HEADER, Header, NO_RECEIVE, Op, STREAM};
use super::{Muxer, Role};
use crate::chain::Reader;
use crate::worker::{Edge, Poller};

/// The guest sent something that is not a packet at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotAPacket;

impl Muxer {
    /// Takes a packet; its header is copied once, and only the copy is believed.
    pub(in super::super) fn packet(
        &mut self,
        mut reader: Reader<'_>,
        poller: &Poller,
    ) -> Result<(), NotAPacket> {
        let mut bytes = [0; HEADER];
        reader.read_exact(&mut bytes).map_err(|_| NotAPacket)?;
        let header = Header::from_bytes(&bytes);
        let ports = Ports {
            host: header.dst_port,
            guest: header.src_port,
        };
        // A reset is never answered by a reset.
        let is_reset = header.op == Op::Reset as u16;
        // 5.10.6.4.1: of a type that is not known, or not from or to where it can be.
        let stray =
            header.src_cid != self.guest_cid || header.dst_cid != HOST_CID || header.kind != STREAM;
        if stray {
            if !is_reset {
                self.resets.push_back(header.reset());
            }
            return Ok(());
        }
        let Some(&index) = self.by_ports.get(&ports) else {
            if header.op == Op::Request as u16 {
                self.request(&header, poller);
            } else if !is_reset {
                self.resets.push_back(header.reset());
            }
            return Ok(());
        };
        if header.len as usize > reader.remaining() {
            self.close(index, true);
            return Ok(());
        }
        let payload = reader.limit(header.len as usize);
        self.act(index, &header, payload);
        Ok(())
    }

    fn act(&mut self, index: usize, header: &Header, payload: Reader<'_>) {
        let Some((host, _)) = self.connected(index) else {
            return;
        };
        let Role::Connected(connected) = &mut host.role else {
            return;
        };
        match connected.connection.receive(header) {
            Action::None | Action::Discard => {}
            Action::Connected => {
                host.deadline = None;
                let answer = format!("OK {}\n", connected.connection.ports().host);
                // Nothing was written to the socket yet: it takes so little, or it is gone.
                let flags = rustix::net::SendFlags::DONTWAIT | rustix::net::SendFlags::NOSIGNAL;
                if rustix::net::send(&host.stream, answer.as_bytes(), flags) != Ok(answer.len()) {
                    return self.close(index, true);
                }
            }
            Action::Deliver => self.deliver(index, payload),
            Action::HalfClosed => {
                // A socket that is shut already is as wanted.
                if connected.connection.guest_receives_no_more() {
                    let _ = host.stream.shutdown(Shutdown::Read);
                }
                if connected.connection.guest_sends_no_more() && connected.backlog.is_empty() {
                    let _ = host.stream.shutdown(Shutdown::Write);
                }
            }
            Action::Closed => return self.close(index, false),
            Action::Reset => return self.close(index, true),
        }
        self.schedule(index);
    }

    /// Straight from guest memory into the socket; the rest into the backlog.
    fn deliver(&mut self, index: usize, mut payload: Reader<'_>) {
        let Some((host, iovecs)) = self.connected(index) else {
            return;
        };
        let Role::Connected(connected) = &mut host.role else {
            return;
        };
        while host.writable && connected.backlog.is_empty() && payload.remaining() > 0 {
            match iovecs.gather().reader(&payload).send(host.stream.as_fd()) {
                Ok(len) => {
                    // Cannot fail: it is part of the payload.
                    let _ = payload.skip(len);
                    connected.connection.forwarded(saturate(len));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => host.writable = false,
                Err(_) => {
                    connected.connection.host_shut(NO_RECEIVE);
                    connected
                        .connection
                        .forwarded(saturate(payload.remaining()));
                    return;
                }
            }
        }
        if payload.remaining() > 0 {
            connected.backlog.append(payload);
        }
    }

    /// The guest wants to connect to a host program.
    fn request(&mut self, header: &Header, poller: &Poller) {
        let mut path = self.prefix.clone().into_os_string();
        path.push(format!("_{}", header.dst_port));
        let token = dial(&PathBuf::from(path)).ok().and_then(|stream| {
            let fd = stream.as_raw_fd();
            let token = self.insert(stream, Role::Handshake)?;
            if poller.add(fd, Edge::Triggered, token).is_err() {
                self.release(super::index(token));
                return None;
            }
            Some(token)
        });
        match token {
            Some(token) => {
                let window = self.new_window();
                self.connect(
                    token,
                    Connection::from_guest(self.guest_cid, header, window),
                );
            }
            None => self.resets.push_back(header.reset()),
        }
    }
}

/// Connects without waiting: a program whose backlog is full is as good as none.
fn dial(path: &std::path::Path) -> io::Result<OwnedFd> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let stream = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    connect(&stream, &SocketAddrUnix::new(path)?)?;
    Ok(stream)
}

fn saturate(len: usize) -> u32 {
    u32::try_from(len).unwrap_or(u32::MAX)
}
