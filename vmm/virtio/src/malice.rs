//! Every device against a driver that breaks the rings: the queue is latched, the thread lives,
//! a stop is answered, and after a reset the device serves an honest driver.

use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketFlags, SocketType, socketpair};

use crate::blk::{Blk, BlkConfig, EngineKind, Pool};
use crate::console::{Console, ConsoleTail};
use crate::device::Device;
use crate::features;
use crate::net::{Net, NetConfig};
use crate::rng::Rng;
use crate::testing::{DriverQueue, Rig};
use crate::vsock::{Vsock, VsockConfig};

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

/// A name, and what a driver writes.
type Malice = (&'static str, fn(&DriverQueue));

/// What a driver may write for its first chain.
const MALICE: &[Malice] = &[
    ("a loop", |queue| {
        queue.raw().descriptor(0, 0x8000, 8, NEXT, 1);
        queue.raw().descriptor(1, 0x8000, 8, NEXT, 0);
        queue.raw().available_index(1);
    }),
    ("a huge length", |queue| {
        queue.raw().descriptor(0, 0x8000, u32::MAX, WRITE, 0);
        queue.raw().available_index(1);
    }),
    ("an address outside of memory", |queue| {
        queue.raw().descriptor(0, u64::MAX - 100, 64, 0, 0);
        queue.raw().available_index(1);
    }),
    ("an address in the hole below 4 GiB", |queue| {
        queue.raw().descriptor(0, 3 << 30, 64, WRITE, 0);
        queue.raw().available_index(1);
    }),
    ("an index that jumps", |queue| {
        queue.raw().available_index(0x8000)
    }),
    ("a head out of the table", |queue| {
        queue.raw().available(0, 0xffff);
        queue.raw().available_index(1);
    }),
    ("readable after writable", |queue| {
        queue.raw().descriptor(0, 0x8000, 64, WRITE | NEXT, 1);
        queue.raw().descriptor(1, 0x8000, 64, 0, 0);
        queue.raw().available_index(1);
    }),
    ("nested indirect tables", |queue| {
        queue.raw().descriptor(0, 0x8000, 16, INDIRECT, 0);
        queue
            .raw()
            .descriptor_in(0x8000, 0, 0x8000, 16, INDIRECT, 0);
        queue.raw().available_index(1);
    }),
];

/// Runs every malice on queue `index` of the devices that `make` makes.
fn survives<D: Device>(index: usize, make: impl Fn() -> D, honest: impl Fn(&mut Rig<D>)) {
    for (name, malice) in MALICE {
        let mut rig = Rig::new(make(), features::EVENT_IDX | features::INDIRECT_DESC);
        rig.queues[index].raw().available(0, 0);
        malice(&rig.queues[index]);
        rig.queues[index].kick_anyway();
        let start = Instant::now();
        while rig.device.failure().is_none() {
            assert!(
                start.elapsed() < Duration::from_secs(10),
                "{name}: not noticed"
            );
            std::thread::yield_now();
        }
        let failure = rig.device.failure().unwrap();
        assert!(
            failure.starts_with(&format!("queue {index}: ")),
            "{name}: {failure}"
        );
        // More of it changes nothing.
        for _ in 0..100 {
            rig.queues[index].kick_anyway();
        }
        let sizes = rig.device.queue_max_sizes().len();
        assert_eq!(rig.device.stop().len(), sizes, "{name}");
        let mut rig = Rig::new(rig.device, features::EVENT_IDX | features::INDIRECT_DESC);
        honest(&mut rig);
        assert_eq!(rig.device.failure(), None, "{name}");
    }
}

#[test]
fn rng() {
    survives(0, Rng::new, |rig| {
        let address = rig.arena.take(32, 1);
        assert_eq!(rig.request(0, &[], &[(address, 32)]), 32);
    });
}

#[test]
fn console() {
    let tail = ConsoleTail::new();
    survives(
        1,
        || Console::new(tail.clone(), None),
        |rig| {
            let before = tail.total();
            let piece = rig.arena.put(b"fine");
            rig.request(1, &[piece], &[]);
            assert_eq!(tail.total(), before + 4);
        },
    );
}

#[test]
fn blk() {
    for engine in [EngineKind::Plain, EngineKind::Uring] {
        let make = || {
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(&[7; 4096], 0).unwrap();
            Blk::new(BlkConfig {
                file,
                serial: "malice".to_owned(),
                read_only: false,
                ephemeral: true,
                queues: 1,
                queue_size: 64,
                pool: Pool::new("malice", 1, engine),
            })
            .unwrap()
        };
        survives(0, make, |rig| {
            let header = rig.arena.put(&[0; 16]);
            let data = (rig.arena.take(512, 1), 512);
            let status = (rig.arena.take(1, 1), 1);
            assert_eq!(rig.request(0, &[header], &[data, status]), 513);
            assert_eq!(
                rig.arena.get(&[data, status]),
                [[7; 512].as_slice(), &[0]].concat()
            );
        });
    }
}

#[test]
fn net() {
    let make = || {
        let flags = SocketFlags::CLOEXEC;
        let (tap, wire) =
            socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).unwrap();
        // The other end stays open as long as the test: a closed tap is another story.
        let _ = std::os::fd::IntoRawFd::into_raw_fd(wire);
        Net::on_socket(NetConfig {
            tap,
            mac: [2; 6],
            mtu: 1500,
            check_source: false,
            index: 0,
        })
        .unwrap()
    };
    for index in 0..2 {
        survives(index, make, |rig| {
            let frame = rig.arena.put(&[0; 100]);
            assert_eq!(rig.request(1, &[frame], &[]), 0);
        });
    }
}

#[test]
fn vsock() {
    let directory = tempfile::tempdir().unwrap();
    let next = std::cell::Cell::new(0);
    let make = || {
        next.set(next.get() + 1);
        let path = directory.path().join(next.get().to_string());
        Vsock::new(VsockConfig {
            guest_cid: 3,
            listener: UnixListener::bind(&path).unwrap(),
            uds_prefix: path,
        })
        .unwrap()
    };
    survives(1, make, |rig| {
        // A request to a port that nobody listens on: a reset comes back.
        let mut header = [0; 44];
        (header[0], header[8], header[16], header[28], header[30]) = (3, 2, 9, 1, 1);
        let room = (rig.arena.take(100, 1), 100);
        rig.queues[0].add(&[], &[room]);
        rig.queues[0].kick();
        let piece = rig.arena.put(&header);
        rig.request(1, &[piece], &[]);
        let (_, written) = rig.queues[0].wait_used(Duration::from_secs(10)).unwrap();
        assert_eq!((written, rig.arena.get(&[room])[30]), (44, 3));
    });
}
