//! A guest: its end of the queues and of the protocol.

use std::collections::{HashMap, VecDeque};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::PathBuf;
use std::time::Duration;

use super::super::packet::{HEADER, Header, Op, STREAM};
use super::super::worker::{EVENT, RX, TX};
use super::super::{HOST_CID, Vsock, VsockConfig};
use crate::features;
use crate::testing::{Piece, Random, Rig};

pub(super) const CID: u64 = 3;
pub(super) const BUFFER: u32 = 256 << 10;

/// Linux's receive buffer: a page less the socket buffer's own.
const LINUX_BUFFER: usize = 3776;

const SECOND: Duration = Duration::from_secs(1);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    /// One descriptor for each receive buffer, header and payload as Linux has them.
    Linux,
    /// Descriptors of any size, receive buffers too.
    Random,
}

pub(super) struct Guest {
    pub(super) rig: Rig<Vsock>,
    pub(super) random: Random,
    shape: Shape,
    posted: HashMap<u16, Vec<Piece>>,
    /// Arena addresses of receive buffers: each is used again when it is free.
    idle: Vec<Vec<Piece>>,
    inbox: VecDeque<(Header, Vec<u8>)>,
    directory: tempfile::TempDir,
}

impl Guest {
    pub(super) fn new(shape: Shape) -> Self {
        Self::with_features(shape, features::EVENT_IDX | features::INDIRECT_DESC)
    }

    pub(super) fn with_features(shape: Shape, wanted: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("vsock.sock")).unwrap();
        let device = Vsock::new(VsockConfig {
            guest_cid: 3,
            listener,
            uds_prefix: directory.path().join("vsock.sock"),
        })
        .unwrap();
        let mut guest = Self {
            rig: Rig::new(device, wanted),
            random: Random::new(11),
            shape,
            posted: HashMap::new(),
            idle: Vec::new(),
            inbox: VecDeque::new(),
            directory,
        };
        for _ in 0..128 {
            let buffer = match shape {
                Shape::Linux => vec![(guest.rig.arena.take(LINUX_BUFFER, 64), LINUX_BUFFER as u32)],
                Shape::Random => {
                    let len = HEADER + 1 + guest.random.len(9000);
                    guest.rig.arena.room_cut(len, 5, &mut guest.random)
                }
            };
            guest.idle.push(buffer);
        }
        guest.rig.arena.keep();
        guest
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// A host program that connects to `port` and has written its line.
    pub(super) fn dial(&self, port: u32) -> UnixStream {
        let mut stream = UnixStream::connect(self.path("vsock.sock")).unwrap();
        stream.set_read_timeout(Some(10 * SECOND)).unwrap();
        stream
            .write_all(format!("CONNECT {port}\n").as_bytes())
            .unwrap();
        stream
    }

    /// A host program connected to the guest's `port`, and the host's port.
    pub(super) fn connect(&mut self, port: u32) -> (UnixStream, u32) {
        let stream = self.dial(port);
        let request = self.expect(Op::Request);
        assert_eq!(
            (request.src_cid, request.dst_cid, request.dst_port),
            (HOST_CID, CID, port)
        );
        self.send(&reply(&request, Op::Response), &[]);
        let mut line = String::new();
        // Unbuffered: what follows the line is the test's.
        let mut reader = BufReader::with_capacity(1, &stream);
        reader.read_line(&mut line).unwrap();
        assert_eq!(line, format!("OK {}\n", request.src_port));
        (stream, request.src_port)
    }

    /// A host program that listens on `port`.
    pub(super) fn listen(&self, port: u32) -> UnixListener {
        UnixListener::bind(self.path(&format!("vsock.sock_{port}"))).unwrap()
    }

    /// Gives the device receive buffers: all that are idle, or `most`.
    pub(super) fn post(&mut self, most: usize) {
        let queue = &mut self.rig.queues[RX];
        for _ in 0..most.min(self.idle.len()) {
            let buffer = self.idle.pop().unwrap();
            let head = if buffer.len() > 1 && self.random.below(2) == 0 {
                queue.add_indirect(&[], &buffer)
            } else {
                queue.add(&[], &buffer)
            };
            match head {
                Some(head) => {
                    self.posted.insert(head, buffer);
                }
                None => {
                    self.idle.push(buffer);
                    break;
                }
            }
        }
        queue.kick();
    }

    fn collect(&mut self) -> bool {
        let mut any = false;
        while let Some((head, written)) = self.rig.queues[RX].used() {
            any = true;
            let buffer = self.posted.remove(&head).unwrap();
            let mut bytes = self.rig.arena.get(&buffer);
            bytes.truncate(written as usize);
            self.idle.push(buffer);
            let payload = bytes.split_off(HEADER);
            let header = Header::from_bytes(&bytes.try_into().unwrap());
            assert_eq!(header.len as usize, payload.len());
            self.inbox.push_back((header, payload));
        }
        any
    }

    /// The next packet, with a fresh supply of receive buffers.
    pub(super) fn receive(&mut self, timeout: Duration) -> Option<(Header, Vec<u8>)> {
        self.collect();
        self.post(usize::MAX);
        let end = std::time::Instant::now() + timeout;
        loop {
            if let Some(packet) = self.inbox.pop_front() {
                return Some(packet);
            }
            let left = end.checked_duration_since(std::time::Instant::now())?;
            // The interrupt may be of an earlier packet.
            self.rig.queues[RX].listen();
            if !self.collect() {
                self.rig.queues[RX].interrupt().wait(left);
                self.collect();
            }
        }
    }

    /// The next packet is of kind `op`.
    pub(super) fn expect(&mut self, op: Op) -> Header {
        let (header, _) = self
            .receive(10 * SECOND)
            .unwrap_or_else(|| panic!("a packet {op:?}"));
        assert_eq!(Op::from_raw(header.op), Some(op), "{header:?}");
        header
    }

    /// The next packet is of one of the kinds `ops`: which one.
    pub(super) fn expect_any(&mut self, ops: &[Op]) -> Op {
        let (header, _) = self
            .receive(10 * SECOND)
            .unwrap_or_else(|| panic!("one of {ops:?}"));
        let op = Op::from_raw(header.op).unwrap();
        assert!(ops.contains(&op), "{header:?}");
        op
    }

    /// Lets the device have `count` receive buffers more, and takes what it filled.
    pub(super) fn hold(&mut self, count: usize) {
        self.collect();
        self.post(count);
        std::thread::sleep(Duration::from_micros(50));
        self.collect();
    }

    /// A packet that was taken already.
    pub(super) fn poll(&mut self) -> Option<(Header, Vec<u8>)> {
        self.inbox.pop_front()
    }

    /// Data up to `len` bytes of a connection.
    pub(super) fn expect_data(&mut self, len: usize) -> Vec<u8> {
        let mut data = Vec::new();
        while data.len() < len {
            let (header, payload) = self.receive(10 * SECOND).expect("data");
            assert_eq!(Op::from_raw(header.op), Some(Op::Data), "{header:?}");
            data.extend(payload);
        }
        data
    }

    pub(super) fn expect_silence(&mut self) {
        let packet = self.receive(Duration::from_millis(60));
        assert_eq!(packet, None);
    }

    /// Sends a packet, in descriptors of any shape.
    pub(super) fn send(&mut self, header: &Header, payload: &[u8]) {
        self.send_raw(&[&header.to_bytes()[..], payload].concat());
    }

    pub(super) fn send_raw(&mut self, bytes: &[u8]) {
        let most = match self.shape {
            // Header and payload apart; a large payload in page fragments.
            Shape::Linux => 3,
            Shape::Random => 40,
        };
        let pieces = self.rig.arena.put_cut(bytes, most, &mut self.random);
        let indirect = self.random.below(2) == 0;
        loop {
            let queue = &mut self.rig.queues[TX];
            while queue.used().is_some() {}
            let head = if indirect {
                queue.add_indirect(&pieces, &[])
            } else {
                queue.add(&pieces, &[])
            };
            queue.kick();
            if head.is_some() {
                return;
            }
            queue
                .wait_used(10 * SECOND)
                .expect("the device takes packets");
        }
    }

    /// Buffers for the device's events; the first event.
    pub(super) fn event(&mut self) -> Option<u32> {
        let address = self.rig.arena.take(4, 4);
        let queue = &mut self.rig.queues[EVENT];
        queue.add(&[], &[(address, 4)]);
        queue.kick();
        let (_, written) = queue.wait_used(SECOND / 2)?;
        assert_eq!(written, 4);
        Some(u32::from_le_bytes(
            self.rig.arena.get(&[(address, 4)]).try_into().unwrap(),
        ))
    }
}

/// A packet of the guest to the host.
pub(super) fn packet(op: Op, host: u32, guest: u32) -> Header {
    Header {
        src_cid: CID,
        dst_cid: HOST_CID,
        src_port: guest,
        dst_port: host,
        len: 0,
        kind: STREAM,
        op: op as u16,
        flags: 0,
        buf_alloc: BUFFER,
        fwd_cnt: 0,
    }
}

/// A packet of the connection that `header` came from.
pub(super) fn reply(header: &Header, op: Op) -> Header {
    packet(op, header.src_port, header.dst_port)
}

/// A packet with data.
pub(super) fn data(host: u32, guest: u32, payload: &[u8]) -> Header {
    Header {
        len: payload.len() as u32,
        ..packet(Op::Data, host, guest)
    }
}
