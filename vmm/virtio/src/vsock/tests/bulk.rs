//! Many bytes, both ways, in any shape.

use std::io::{Read, Write};
use std::time::Duration;

use super::super::WINDOW;
use super::super::packet::{Header, Op};
use super::guest::{BUFFER, Guest, Shape, data, packet};
use crate::features;
use crate::testing::Random;

/// The guest's end of one connection, with its credit.
struct Flow {
    host: u32,
    sent: u32,
    /// What the device said it forwarded.
    taken: u32,
    received: u32,
    told: u32,
}

/// `total` bytes to the host and as many back, at once, and compared.
fn both_ways(shape: Shape, wanted: u64, total: usize) {
    let mut guest = Guest::with_features(shape, wanted);
    let (stream, host) = guest.connect(1024);
    let (mut write, mut read) = (stream.try_clone().unwrap(), stream);
    let writer = std::thread::spawn(move || {
        let mut random = Random::new(21);
        let mut left = total;
        while left > 0 {
            let chunk = random.bytes(left.min(1 + random.clone().len(100_000)));
            write.write_all(&chunk).unwrap();
            left -= chunk.len();
        }
    });
    let reader = std::thread::spawn(move || {
        let mut random = Random::new(22);
        let mut expected = Source::new();
        let mut buffer = vec![0; 100_000];
        let mut left = total;
        while left > 0 {
            let most = 1 + random.len(buffer.len());
            let len = read.read(&mut buffer[..most]).unwrap();
            assert!(len > 0, "{left} bytes missing");
            assert!(
                buffer[..len] == expected.next(len)[..],
                "{left} bytes before the end"
            );
            left -= len;
        }
    });

    let mut flow = Flow {
        host,
        sent: 0,
        taken: 0,
        received: 0,
        told: 0,
    };
    let mut source = Source::new();
    let mut random = Random::new(21);
    let mut expected = Vec::new();
    let (mut to_send, mut to_receive) = (total, total);
    while to_send > 0 || to_receive > 0 {
        let room = (WINDOW - flow.sent.wrapping_sub(flow.taken)) as usize;
        let len = to_send.min(room).min(1 + guest.random.len(64 << 10));
        if len > 0 {
            let payload = source.next(len);
            let header = Header {
                fwd_cnt: flow.received,
                ..data(flow.host, 1024, &payload)
            };
            flow.told = flow.received;
            guest.send(&header, &payload);
            flow.sent = flow.sent.wrapping_add(len as u32);
            to_send -= len;
        }
        let wait = if len > 0 {
            Duration::ZERO
        } else {
            Duration::from_secs(10)
        };
        while let Some((header, payload)) =
            guest.receive(if len > 0 { Duration::ZERO } else { wait })
        {
            flow.taken = header.fwd_cnt;
            flow.received = flow.received.wrapping_add(payload.len() as u32);
            assert!(
                flow.received.wrapping_sub(flow.told) <= BUFFER,
                "the device keeps to our credit"
            );
            while expected.len() < payload.len() {
                let left = to_receive - expected.len();
                expected.extend(random.bytes(left.min(1 + random.clone().len(100_000))));
            }
            assert!(
                payload == expected[..payload.len()],
                "{to_receive} bytes before the end"
            );
            expected.drain(..payload.len());
            to_receive -= payload.len();
            if flow.received.wrapping_sub(flow.told) > BUFFER / 2 {
                let update = Header {
                    fwd_cnt: flow.received,
                    ..packet(Op::CreditUpdate, flow.host, 1024)
                };
                flow.told = flow.received;
                guest.send(&update, &[]);
            }
            if len == 0 {
                break;
            }
        }
    }
    writer.join().unwrap();
    reader.join().unwrap();
}

/// The bytes that the guest sends, in pieces of any length.
struct Source(Random, Vec<u8>);

impl Source {
    fn new() -> Self {
        Self(Random::new(23), Vec::new())
    }

    fn next(&mut self, len: usize) -> Vec<u8> {
        while self.1.len() < len {
            let chunk = self.0.bytes(1 << 16);
            self.1.extend(chunk);
        }
        self.1.drain(..len).collect()
    }
}

#[test]
fn sixty_four_mib_each_way_as_linux_does() {
    both_ways(
        Shape::Linux,
        features::EVENT_IDX | features::INDIRECT_DESC,
        64 << 20,
    );
}

#[test]
fn sixty_four_mib_each_way_in_any_shape() {
    both_ways(Shape::Random, features::EVENT_IDX, 64 << 20);
}

#[test]
fn without_event_index() {
    both_ways(Shape::Random, 0, 8 << 20);
}

#[test]
fn a_guest_without_buffers_stops_and_goes_on() {
    let mut guest = Guest::new(Shape::Linux);
    let (mut stream, _) = guest.connect(1024);
    let expected = Random::new(1).bytes(200_000);
    let copy = expected.clone();
    let writer = std::thread::spawn(move || stream.write_all(&copy).map(|()| stream));
    let mut got = Vec::new();
    while got.len() < expected.len() {
        // One buffer at a time, and idle between.
        guest.hold(1);
        while let Some((_, payload)) = guest.poll() {
            got.extend(payload);
        }
    }
    assert!(got == expected);
    drop(writer.join().unwrap().unwrap());
}

#[test]
fn a_program_that_does_not_read_stops_its_connection_only() {
    let mut guest = Guest::new(Shape::Random);
    let (mut deaf, deaf_host) = guest.connect(1024);
    let (mut other, other_host) = guest.connect(1024);
    let mut sent = Vec::new();
    let mut taken = 0;
    // Until the window is full: what the socket took is forwarded.
    loop {
        while let Some((header, _)) = guest.receive(Duration::from_millis(20)) {
            assert_eq!(Op::from_raw(header.op), Some(Op::CreditUpdate));
            taken = header.fwd_cnt as usize;
        }
        let room = WINDOW as usize - (sent.len() - taken);
        if room == 0 {
            break;
        }
        let chunk = guest.random.bytes(room.min(10_000));
        guest.send(&data(deaf_host, 1024, &chunk), &chunk);
        sent.extend(chunk);
    }
    guest.send(&data(other_host, 1024, b"through"), b"through");
    let mut bytes = [0; 7];
    other.read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"through");
    let mut read = vec![0; sent.len()];
    deaf.read_exact(&mut read).unwrap();
    assert!(read == sent);
    assert_eq!(guest.expect(Op::CreditUpdate).src_port, deaf_host);
}

#[test]
fn a_guest_without_credit_gets_nothing() {
    let mut guest = Guest::new(Shape::Linux);
    let (mut stream, host) = guest.connect(1024);
    let expected = Random::new(2).bytes(BUFFER as usize + 1000);
    let copy = expected.clone();
    let writer = std::thread::spawn(move || stream.write_all(&copy).map(|()| stream));
    let first = guest.expect_data(BUFFER as usize);
    guest.expect(Op::CreditRequest);
    guest.expect_silence();
    let update = Header {
        fwd_cnt: BUFFER,
        ..packet(Op::CreditUpdate, host, 1024)
    };
    guest.send(&update, &[]);
    let rest = guest.expect_data(1000);
    assert!([first, rest].concat() == expected);
    drop(writer.join().unwrap().unwrap());
}

#[test]
fn connections_share_the_guest_fairly() {
    let mut guest = Guest::new(Shape::Linux);
    let (mut greedy, _) = guest.connect(1024);
    let (mut modest, modest_host) = guest.connect(1024);
    let writer = std::thread::spawn(move || {
        let _ = greedy.write_all(&vec![0; 4 << 20]);
    });
    guest.expect_data(1000);
    modest.write_all(b"me too").unwrap();
    // Before the greedy one's credit of 256 KiB is used up, and whoever came first.
    let mut before = 0;
    loop {
        let (header, payload) = guest.receive(Duration::from_secs(5)).unwrap();
        if header.src_port == modest_host {
            assert_eq!(payload, b"me too");
            break;
        }
        before += payload.len();
    }
    assert!(before <= BUFFER as usize);
    drop(guest);
    writer.join().unwrap();
}
