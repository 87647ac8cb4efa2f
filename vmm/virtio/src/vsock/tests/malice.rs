//! Guests that break the rules.

use std::io::{Read, Write};
use std::time::Duration;

use super::super::packet::{Header, Op};
use super::super::worker::{RX, TX};
use super::super::{MAX_RESETS, WINDOW};
use super::guest::{Guest, Shape, data, packet};
use crate::device::Device;

fn lives(guest: &mut Guest) {
    let (mut stream, host) = guest.connect(1024);
    stream.write_all(b"alive?").unwrap();
    assert_eq!(guest.expect_data(6), b"alive?");
    guest.send(&data(host, 1024, b"yes"), b"yes");
    let mut answer = [0; 3];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(&answer, b"yes");
    assert_eq!(guest.rig.device.failure(), None);
}

#[test]
fn garbage_is_reset() {
    let mut guest = Guest::new(Shape::Random);
    let good = packet(Op::Data, 77, 88);
    for bad in [
        good,
        Header { op: 0, ..good },
        Header { op: 99, ..good },
        Header { kind: 2, ..good },
        Header { src_cid: 4, ..good },
        Header { dst_cid: 1, ..good },
        Header {
            dst_cid: u64::MAX,
            ..good
        },
        packet(Op::Response, 77, 88),
        packet(Op::Shutdown, 77, 88),
        packet(Op::CreditRequest, 77, 88),
    ] {
        guest.send(&bad, &[]);
        let (reset, _) = guest.receive(Duration::from_secs(5)).unwrap();
        assert_eq!(reset.op, Op::Reset as u16, "{bad:?}");
        assert_eq!((reset.src_port, reset.dst_port), (77, 88));
    }
    // No reset for a reset.
    guest.send(&packet(Op::Reset, 77, 88), &[]);
    guest.send(
        &Header {
            src_cid: 9,
            ..packet(Op::Reset, 77, 88)
        },
        &[],
    );
    guest.expect_silence();
    lives(&mut guest);
}

#[test]
fn broken_rules_end_the_connection_and_its_socket() {
    let mut guest = Guest::new(Shape::Random);
    type Malice = fn(&mut Guest, u32);
    let cases: [Malice; 6] = [
        |guest, host| guest.send(&packet(Op::Request, host, 1024), &[]),
        |guest, host| guest.send(&packet(Op::Response, host, 1024), &[]),
        |guest, host| {
            guest.send(
                &Header {
                    op: 8,
                    ..packet(Op::Data, host, 1024)
                },
                &[],
            )
        },
        // More than the packet has.
        |guest, host| {
            guest.send(
                &Header {
                    len: 100,
                    ..packet(Op::Data, host, 1024)
                },
                &[0; 50],
            )
        },
        |guest, host| {
            guest.send(
                &Header {
                    len: u32::MAX,
                    ..packet(Op::Data, host, 1024)
                },
                &[0; 50],
            )
        },
        // More than the window has.
        |guest, host| {
            let chunk = vec![0; WINDOW as usize + 1];
            guest.send(&data(host, 1024, &chunk), &chunk);
        },
    ];
    for (at, malice) in cases.iter().enumerate() {
        let (mut stream, host) = guest.connect(1024);
        malice(&mut guest, host);
        assert_eq!(guest.expect(Op::Reset).src_port, host, "case {at}");
        assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0, "case {at}");
    }
    lives(&mut guest);
}

#[test]
fn a_flood_of_garbage_is_not_kept() {
    let mut guest = Guest::new(Shape::Linux);
    let mut taken = 0;
    // No receive buffers: answers pile up, and then no packet is taken.
    for number in 0..4 * MAX_RESETS as u32 {
        let bytes = packet(Op::Data, 1, number).to_bytes();
        let piece = guest.rig.arena.put(&bytes);
        let queue = &mut guest.rig.queues[TX];
        if queue.add(&[piece], &[]).is_none() {
            queue.kick();
            if queue.wait_used(Duration::from_millis(300)).is_none() {
                break;
            }
            taken += 1;
            queue.add(&[piece], &[]).unwrap();
        }
    }
    guest.rig.queues[TX].kick();
    assert!(taken <= MAX_RESETS + 64, "{taken} packets taken");
    // With buffers it goes on: each packet gets its answer.
    let mut answers = 0;
    while guest.receive(Duration::from_secs(1)).is_some() {
        answers += 1;
        while guest.rig.queues[TX].used().is_some() {}
    }
    assert!(answers >= taken + 128 - 64, "{answers} answers");
    lives(&mut guest);
}

#[test]
fn a_packet_without_a_header_breaks_the_queue_only() {
    let mut guest = Guest::new(Shape::Linux);
    let mut stream = guest.dial(1024);
    guest.expect(Op::Request);
    guest.send_raw(&[0; 43]);
    while guest.rig.device.failure().is_none() {
        std::thread::yield_now();
    }
    assert!(guest.rig.device.failure().unwrap().contains("queue 1"));
    // The other direction goes on: the host's program is given up in time.
    assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0);
    guest.expect(Op::Reset);
}

#[test]
fn receive_buffers_too_small_break_the_queue() {
    let mut guest = Guest::new(Shape::Linux);
    let address = guest.rig.arena.take(43, 1);
    guest.rig.queues[RX].add(&[], &[(address, 43)]).unwrap();
    guest.rig.queues[RX].kick();
    let _stream = guest.dial(1024);
    while guest.rig.device.failure().is_none() {
        std::thread::yield_now();
    }
    assert!(guest.rig.device.failure().unwrap().contains("queue 0"));
    assert_eq!(guest.rig.device.stop().len(), 3);
}

#[test]
fn a_device_that_has_nothing_to_do_sleeps() {
    let mut guest = Guest::new(Shape::Linux);
    let (mut stream, _) = guest.connect(1024);
    // Bytes for a guest that has no more buffers than these, and gives none.
    stream.set_nonblocking(true).unwrap();
    while stream.write(&[0; 4096]).is_ok() {}
    let mut before = u64::MAX;
    while guest.rig.queues[RX].interrupts() != before {
        before = guest.rig.queues[RX].interrupts();
        std::thread::sleep(Duration::from_millis(300));
    }
    let spent = guest.rig.thread_time();
    std::thread::sleep(Duration::from_millis(500));
    // A loop that spins would use all of it.
    assert!(guest.rig.thread_time() - spent < Duration::from_millis(100));
}
