//! How many bytes a second the devices move, driven by the crate's own driver: no VM, no
//! exits. `cargo run --release -p bulkhead-virtio --features testing --example throughput`
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    reason = "a measurement by hand: it prints, and may stop at the first surprise"
)]

use std::collections::HashMap;
use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::time::{Duration, Instant};

use bulkhead_virtio::blk::{Blk, BlkConfig, EngineKind, Pool};
use bulkhead_virtio::features;
use bulkhead_virtio::net::{Net, NetConfig};
use bulkhead_virtio::testing::{Piece, Random, Rig};
use bulkhead_virtio::vsock::{Vsock, VsockConfig};
use vm_memory::{Bytes, GuestAddress};

const PATIENCE: Duration = Duration::from_secs(10);
const RING: u64 = features::EVENT_IDX | features::INDIRECT_DESC;

fn main() {
    for engine in [EngineKind::Plain, EngineKind::Uring] {
        for (name, len, depth, write) in [
            ("128 KiB reads, 8 at once", 128 << 10, 8, false),
            ("4 KiB reads, 32 at once", 4 << 10, 32, false),
            ("128 KiB writes, 8 at once", 128 << 10, 8, true),
        ] {
            blk(engine, name, len, depth, write);
        }
    }
    vsock_to_guest(512 << 20);
    vsock_to_host(512 << 20);
    net(64 << 10, 20_000);
    net(1500, 400_000);
}

fn report(what: &str, count: u64, bytes: u64, time: Duration) {
    let seconds = time.as_secs_f64();
    println!(
        "{what:48} {:8.0} MB/s {:9.0}/s",
        bytes as f64 / seconds / 1e6,
        count as f64 / seconds
    );
}

/// Requests on a file of 64 MiB in the page cache, at random places.
fn blk(engine: EngineKind, name: &str, len: u32, depth: usize, write: bool) {
    const SIZE: u64 = 64 << 20;
    let file = tempfile::tempfile().unwrap();
    file.write_all_at(&Random::new(1).bytes(SIZE as usize), 0)
        .unwrap();
    let device = Blk::new(BlkConfig {
        file,
        serial: "bench".to_owned(),
        read_only: false,
        ephemeral: true,
        queues: 1,
        queue_size: 128,
        pool: Pool::new("blk", 1, engine),
    })
    .unwrap();
    let mut rig = Rig::new(device, RING);
    let slots: Vec<[Piece; 3]> = (0..depth)
        .map(|_| {
            let arena = &mut rig.arena;
            [
                (arena.take(16, 16), 16),
                (arena.take(len as usize, 4096), len),
                (arena.take(1, 1), 1),
            ]
        })
        .collect();
    let mut idle: Vec<usize> = (0..depth).collect();
    let mut busy = HashMap::new();
    let mut random = Random::new(2);
    let total = (2 << 30) / u64::from(len.max(32 << 10));
    let (mut started, mut finished) = (0, 0);
    let start = Instant::now();
    while finished < total {
        while let (Some(slot), true) = (idle.pop(), started < total) {
            let [header, data, status] = slots[slot];
            let sector = random.below(SIZE / u64::from(len)) * u64::from(len) / 512;
            let mut bytes = [0; 16];
            bytes[0] = write.into();
            bytes[8..].copy_from_slice(&sector.to_le_bytes());
            rig.arena
                .memory()
                .write_slice(&bytes, GuestAddress(header.0))
                .unwrap();
            let head = if write {
                rig.queues[0].add(&[header, data], &[status])
            } else {
                rig.queues[0].add(&[header], &[data, status])
            };
            busy.insert(head.unwrap(), slot);
            started += 1;
        }
        rig.queues[0].kick();
        let mut used = rig.queues[0].wait_used(PATIENCE);
        while let Some((head, _)) = used {
            idle.push(busy.remove(&head).unwrap());
            finished += 1;
            used = rig.queues[0].used();
        }
    }
    report(
        &format!("blk {engine:?}: {name}"),
        total,
        total * u64::from(len),
        start.elapsed(),
    );
}

/// A guest with a connection from the host; the host's end of it.
struct Guest {
    rig: Rig<Vsock>,
    stream: UnixStream,
    host: u32,
    posted: HashMap<u16, Piece>,
    _directory: tempfile::TempDir,
}

fn header(host: u32, op: u16, len: u32, forwarded: u32) -> [u8; 44] {
    let mut bytes = [0; 44];
    bytes[0] = 3;
    bytes[8] = 2;
    bytes[16..20].copy_from_slice(&1024u32.to_le_bytes());
    bytes[20..24].copy_from_slice(&host.to_le_bytes());
    bytes[24..28].copy_from_slice(&len.to_le_bytes());
    bytes[28] = 1;
    bytes[30..32].copy_from_slice(&op.to_le_bytes());
    bytes[36..40].copy_from_slice(&(256u32 << 10).to_le_bytes());
    bytes[40..].copy_from_slice(&forwarded.to_le_bytes());
    bytes
}

impl Guest {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("vsock.sock");
        let device = Vsock::new(VsockConfig {
            guest_cid: 3,
            listener: UnixListener::bind(&path).unwrap(),
            uds_prefix: path.clone(),
        })
        .unwrap();
        let mut guest = Self {
            rig: Rig::new(device, RING),
            stream: UnixStream::connect(&path).unwrap(),
            host: 0,
            posted: HashMap::new(),
            _directory: directory,
        };
        for _ in 0..128 {
            let address = guest.rig.arena.take(3776, 64);
            guest.post((address, 3776));
        }
        guest.rig.arena.keep();
        guest.stream.write_all(b"CONNECT 1024\n").unwrap();
        let request = guest.receive();
        guest.host = u32::from_le_bytes(request[16..20].try_into().unwrap());
        guest.send(&header(guest.host, 2, 0, 0), &[]);
        let mut line = [0; 14];
        guest.stream.read_exact(&mut line).unwrap();
        guest
    }

    fn post(&mut self, piece: Piece) {
        let head = self.rig.queues[0].add(&[], &[piece]).unwrap();
        self.posted.insert(head, piece);
    }

    /// The header of the next packet; its buffer is posted again.
    fn receive(&mut self) -> [u8; 44] {
        self.rig.queues[0].kick();
        let (head, _) = self.rig.queues[0].wait_used(PATIENCE).unwrap();
        let piece = self.posted.remove(&head).unwrap();
        let bytes = self.rig.arena.get(&[(piece.0, 44)]);
        self.post(piece);
        bytes.try_into().unwrap()
    }

    fn send(&mut self, header: &[u8], payload: &[Piece]) {
        let mut pieces = vec![self.rig.arena.put(header)];
        pieces.extend(payload);
        let queue = &mut self.rig.queues[1];
        while queue.used().is_some() {}
        while queue.add_indirect(&pieces, &[]).is_none() {
            queue.kick();
            queue.wait_used(PATIENCE).unwrap();
        }
        queue.kick();
    }
}

fn vsock_to_guest(total: usize) {
    let mut guest = Guest::new();
    let mut stream = guest.stream.try_clone().unwrap();
    let start = Instant::now();
    let writer = std::thread::spawn(move || {
        let chunk = Random::new(1).bytes(64 << 10);
        for _ in 0..total / chunk.len() {
            stream.write_all(&chunk).unwrap();
        }
    });
    let (mut received, mut told, mut packets) = (0, 0, 0);
    while received < total {
        let packet = guest.receive();
        received += u32::from_le_bytes(packet[24..28].try_into().unwrap()) as usize;
        packets += 1;
        if received - told > 64 << 10 {
            told = received;
            let update = header(guest.host, 6, 0, received as u32);
            guest.send(&update, &[]);
        }
    }
    report(
        "vsock: host to guest, 3.7 KiB buffers",
        packets,
        total as u64,
        start.elapsed(),
    );
    writer.join().unwrap();
}

fn vsock_to_host(total: usize) {
    const LEN: usize = 64 << 10;
    let mut guest = Guest::new();
    let payload: Vec<Piece> = (0..16)
        .map(|_| (guest.rig.arena.take(4096, 4096), 4096))
        .collect();
    guest.rig.arena.keep();
    let mut stream = guest.stream.try_clone().unwrap();
    let start = Instant::now();
    let reader = std::thread::spawn(move || {
        let mut chunk = vec![0; LEN];
        let mut left = total;
        while left > 0 {
            left -= stream.read(&mut chunk).unwrap();
        }
    });
    let (mut sent, mut taken, mut packets) = (0usize, 0usize, 0);
    while sent < total {
        while sent - taken + LEN > 256 << 10 {
            let packet = guest.receive();
            let forwarded = u32::from_le_bytes(packet[40..].try_into().unwrap());
            taken += forwarded.wrapping_sub(taken as u32) as usize;
        }
        let packet = header(guest.host, 5, LEN as u32, 0);
        guest.send(&packet, &payload);
        sent += LEN;
        packets += 1;
    }
    reader.join().unwrap();
    report(
        "vsock: guest to host, 64 KiB in 17 descriptors",
        packets,
        total as u64,
        start.elapsed(),
    );
}

/// Frames out through the card into a socket.
fn net(len: usize, count: u64) {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};
    let (tap, wire) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    let device = Net::on_socket(NetConfig {
        tap,
        mac: [2, 0, 0, 0, 0, 1],
        mtu: 1500,
        check_source: false,
        index: 0,
    })
    .unwrap();
    let mut rig = Rig::new(device, u64::MAX);
    let start = Instant::now();
    let reader = std::thread::spawn(move || {
        let mut frame = vec![0; 70_000];
        for _ in 0..count {
            rustix::io::read(wire.as_fd(), &mut frame).unwrap();
        }
    });
    let pieces = [
        rig.arena.put(&[0; 12]),
        (rig.arena.take(len, 4096), len as u32),
    ];
    let queue = &mut rig.queues[1];
    for _ in 0..count {
        while queue.used().is_some() {}
        while queue.add_indirect(&pieces, &[]).is_none() {
            queue.kick();
            queue.wait_used(PATIENCE).unwrap();
        }
        queue.kick();
    }
    reader.join().unwrap();
    report(
        &format!("net: frames of {len} bytes to a socket"),
        count,
        count * len as u64,
        start.elapsed(),
    );
}
