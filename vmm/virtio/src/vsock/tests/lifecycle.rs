//! Connections come and go.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::time::{Duration, Instant};

use super::super::packet::{CLOSED, Header, NO_RECEIVE, NO_SEND, Op};
use super::super::{MAX_CONNECTIONS, PATIENCE, SMALL_WINDOW, WINDOW, WINDOWS};
use super::guest::{CID, Guest, Shape, data, packet, reply};
use crate::device::Device;

const SHAPES: [Shape; 2] = [Shape::Linux, Shape::Random];

fn shutdown(flags: u32, host: u32, guest: u32) -> Header {
    Header {
        flags,
        ..packet(Op::Shutdown, host, guest)
    }
}

#[test]
fn the_host_connects_and_both_talk() {
    for shape in SHAPES {
        let mut guest = Guest::new(shape);
        let (mut stream, host) = guest.connect(1024);
        stream.write_all(b"hello guest").unwrap();
        assert_eq!(guest.expect_data(11), b"hello guest");
        guest.send(&data(host, 1024, b"hello host"), b"hello host");
        let mut answer = [0; 10];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(&answer, b"hello host");
    }
}

#[test]
fn bytes_behind_the_line_wait_for_the_guest() {
    let mut guest = Guest::new(Shape::Random);
    let mut stream = guest.dial(7);
    stream.write_all(b"early").unwrap();
    let request = guest.expect(Op::Request);
    guest.expect_silence();
    guest.send(&reply(&request, Op::Response), &[]);
    assert_eq!(guest.expect_data(5), b"early");
}

#[test]
fn the_guest_connects_to_a_program_of_the_host() {
    for shape in SHAPES {
        let mut guest = Guest::new(shape);
        let listener = guest.listen(2048);
        guest.send(&packet(Op::Request, 2048, 5000), &[]);
        let response = guest.expect(Op::Response);
        assert_eq!((response.src_port, response.dst_port), (2048, 5000));
        assert_eq!(response.buf_alloc, WINDOW);
        let (mut stream, _) = listener.accept().unwrap();
        guest.send(&data(2048, 5000, b"ready"), b"ready");
        let mut bytes = [0; 5];
        stream.read_exact(&mut bytes).unwrap();
        assert_eq!(&bytes, b"ready");
        stream.write_all(b"go").unwrap();
        assert_eq!(guest.expect_data(2), b"go");
        // Another one, on the same port.
        guest.send(&packet(Op::Request, 2048, 5001), &[]);
        assert_eq!(guest.expect(Op::Response).dst_port, 5001);
    }
}

#[test]
fn a_port_without_a_program_is_refused() {
    let mut guest = Guest::new(Shape::Linux);
    guest.send(&packet(Op::Request, 9, 5000), &[]);
    let reset = guest.expect(Op::Reset);
    assert_eq!(
        (reset.src_port, reset.dst_port, reset.dst_cid),
        (9, 5000, CID)
    );
}

#[test]
fn a_port_that_the_guest_refuses_ends_the_stream() {
    let mut guest = Guest::new(Shape::Linux);
    let mut stream = guest.dial(1025);
    let request = guest.expect(Op::Request);
    guest.send(&reply(&request, Op::Reset), &[]);
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    guest.expect_silence();
}

#[test]
fn a_guest_that_does_not_answer_is_given_up() {
    let mut guest = Guest::new(Shape::Linux);
    let start = Instant::now();
    let mut stream = guest.dial(1024);
    let request = guest.expect(Op::Request);
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    assert!(start.elapsed() >= PATIENCE);
    let reset = guest.expect(Op::Reset);
    assert_eq!(reset.src_port, request.src_port);
    // Too late.
    guest.send(&reply(&request, Op::Response), &[]);
    guest.expect(Op::Reset);
}

#[test]
fn a_program_that_says_nothing_or_nonsense_is_dropped() {
    let guest = Guest::new(Shape::Linux);
    let connect = || {
        let stream = std::os::unix::net::UnixStream::connect(guest.path("vsock.sock")).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        stream
    };
    let start = Instant::now();
    let mut silent = connect();
    for nonsense in [&b"GET / HTTP/1.1\n"[..], &[b'x'; 100], b"CONNECT -1\n"] {
        let mut stream = connect();
        stream.write_all(nonsense).unwrap();
        assert_eq!(stream.read(&mut [0; 8]).unwrap_or(0), 0);
    }
    let mut half = connect();
    half.write_all(b"CONNECT 10").unwrap();
    half.shutdown(Shutdown::Write).unwrap();
    assert_eq!(half.read(&mut [0; 8]).unwrap_or(0), 0);
    assert_eq!(silent.read(&mut [0; 8]).unwrap(), 0);
    assert!(start.elapsed() >= PATIENCE);
}

#[test]
fn a_line_in_pieces_is_read() {
    let mut guest = Guest::new(Shape::Linux);
    let mut stream = std::os::unix::net::UnixStream::connect(guest.path("vsock.sock")).unwrap();
    for piece in ["CONN", "ECT 10", "24", "\n"] {
        stream.write_all(piece.as_bytes()).unwrap();
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(guest.expect(Op::Request).dst_port, 1024);
}

#[test]
fn the_host_half_closes_and_still_reads() {
    for shape in SHAPES {
        let mut guest = Guest::new(shape);
        let (mut stream, host) = guest.connect(1024);
        stream.write_all(b"request").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        assert_eq!(guest.expect_data(7), b"request");
        assert_eq!(guest.expect(Op::Shutdown).flags, NO_SEND);
        guest.send(&data(host, 1024, b"response"), b"response");
        guest.send(&shutdown(CLOSED, host, 1024), &[]);
        guest.expect(Op::Reset);
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, "response");
    }
}

#[test]
fn the_guest_half_closes_and_still_reads() {
    let mut guest = Guest::new(Shape::Random);
    let (mut stream, host) = guest.connect(1024);
    guest.send(&data(host, 1024, b"last words"), b"last words");
    guest.send(&shutdown(NO_SEND, host, 1024), &[]);
    let mut words = String::new();
    stream.read_to_string(&mut words).unwrap();
    assert_eq!(words, "last words");
    stream.write_all(b"heard").unwrap();
    assert_eq!(guest.expect_data(5), b"heard");
    drop(stream);
    assert_eq!(guest.expect(Op::Shutdown).flags, CLOSED);
    guest.send(&packet(Op::Reset, host, 1024), &[]);
    guest.expect_silence();
}

#[test]
fn a_guest_that_reads_no_more_stops_the_program() {
    let mut guest = Guest::new(Shape::Linux);
    let (mut stream, host) = guest.connect(1024);
    guest.send(&shutdown(NO_RECEIVE, host, 1024), &[]);
    let start = Instant::now();
    while stream.write_all(b"anyone?").is_ok() {
        assert!(start.elapsed() < Duration::from_secs(5));
        std::thread::sleep(Duration::from_millis(1));
    }
    guest.send(&data(host, 1024, b"still here"), b"still here");
    let mut bytes = [0; 10];
    stream.read_exact(&mut bytes).unwrap();
    drop(stream);
    assert_eq!(guest.expect(Op::Shutdown).flags, CLOSED);
}

#[test]
fn a_program_that_leaves_is_told_and_then_reset() {
    let mut guest = Guest::new(Shape::Linux);
    let (mut stream, host) = guest.connect(1024);
    stream.write_all(b"bye").unwrap();
    let start = Instant::now();
    drop(stream);
    assert_eq!(guest.expect_data(3), b"bye");
    let told = guest.expect(Op::Shutdown);
    // The end may be seen before the hang-up.
    if told.flags == NO_SEND {
        assert_eq!(guest.expect(Op::Shutdown).flags, CLOSED);
    }
    // The guest does not answer.
    let reset = guest.expect(Op::Reset);
    assert!(start.elapsed() >= PATIENCE);
    assert_eq!(reset.src_port, host);
}

#[test]
fn a_program_that_closed_its_ear_is_told_to_the_guest() {
    let mut guest = Guest::new(Shape::Linux);
    let (mut stream, host) = guest.connect(1024);
    stream.shutdown(Shutdown::Read).unwrap();
    guest.send(&data(host, 1024, b"lost"), b"lost");
    assert_eq!(guest.expect(Op::Shutdown).flags, NO_RECEIVE);
    stream.write_all(b"but I talk").unwrap();
    assert_eq!(guest.expect_data(10), b"but I talk");
}

#[test]
fn bytes_of_a_closed_connection_still_reach_the_program() {
    let mut guest = Guest::new(Shape::Random);
    let (mut stream, host) = guest.connect(1024);
    let mut sent = Vec::new();
    // More than the socket takes: the backlog has the rest when the guest closes.
    while sent.len() < WINDOW as usize {
        let chunk = guest.random.bytes(32 << 10);
        guest.send(&data(host, 1024, &chunk), &chunk);
        sent.extend(chunk);
    }
    guest.send(&shutdown(CLOSED, host, 1024), &[]);
    while guest.expect_any(&[Op::Reset, Op::CreditUpdate]) != Op::Reset {}
    // The ports are free again at once.
    let mut read = Vec::new();
    stream.read_to_end(&mut read).unwrap();
    assert!(read == sent);
}

#[test]
fn many_connections_have_their_own_bytes_and_windows() {
    let mut guest = Guest::new(Shape::Linux);
    let count = (WINDOWS / u64::from(WINDOW)) as u32 + 4;
    let mut streams: Vec<_> = (0..count).map(|_| guest.connect(1024)).collect();
    for (index, (stream, _)) in streams.iter_mut().enumerate() {
        stream.write_all(&(index as u64).to_le_bytes()).unwrap();
    }
    let mut seen = std::collections::HashMap::new();
    while seen.len() < streams.len() {
        let (header, payload) = guest.receive(Duration::from_secs(5)).unwrap();
        assert_eq!(payload.len(), 8);
        seen.insert(
            header.src_port,
            (
                u64::from_le_bytes(payload.try_into().unwrap()),
                header.buf_alloc,
            ),
        );
    }
    for (index, (stream, host)) in streams.iter_mut().enumerate() {
        let (number, window) = seen[host];
        assert_eq!(number, index as u64);
        assert_eq!(window, if index < 128 { WINDOW } else { SMALL_WINDOW });
        let bytes = number.to_be_bytes();
        guest.send(&data(*host, 1024, &bytes), &bytes);
        let mut answer = [0; 8];
        stream.read_exact(&mut answer).unwrap();
        assert_eq!(answer, bytes);
    }
}

#[test]
fn a_restored_guest_hears_that_its_connections_are_gone() {
    let mut guest = Guest::new(Shape::Linux);
    assert_eq!(guest.event(), None, "not at the start");
    let (mut stream, host) = guest.connect(1024);
    guest.rig.restart();
    assert_eq!(stream.read(&mut [0; 1]).unwrap_or(0), 0);
    assert_eq!(guest.event(), Some(0));
    guest.send(&data(host, 1024, b"x"), b"x");
    guest.expect(Op::Reset);
    let (mut stream, _) = guest.connect(1024);
    stream.write_all(b"again").unwrap();
    assert_eq!(guest.expect_data(5), b"again");
    assert_eq!(guest.rig.device.failure(), None);
}

#[test]
fn places_are_given_back() {
    let mut guest = Guest::new(Shape::Linux);
    // More than there are places, one after the other.
    for round in 0..MAX_CONNECTIONS as u32 + 50 {
        let (mut stream, host) = guest.connect(1024);
        guest.send(&shutdown(CLOSED, host, 1024), &[]);
        guest.expect(Op::Reset);
        assert_eq!(stream.read(&mut [0; 1]).unwrap(), 0, "{round}");
    }
}

#[test]
fn a_full_table_refuses_the_guest_and_lets_the_host_wait() {
    let mut guest = Guest::new(Shape::Linux);
    let listener = guest.listen(7);
    let mut kept = Vec::new();
    for port in 0..MAX_CONNECTIONS as u32 {
        guest.send(&packet(Op::Request, 7, port), &[]);
        guest.expect(Op::Response);
        kept.push(listener.accept().unwrap());
    }
    guest.send(&packet(Op::Request, 7, 1 << 20), &[]);
    guest.expect(Op::Reset);
    let mut waiting = guest.dial(1024);
    guest.expect_silence();
    // One leaves, the waiting one comes in.
    guest.send(&shutdown(CLOSED, 7, 0), &[]);
    let mut seen = [
        guest.receive(PATIENCE).unwrap().0,
        guest.receive(PATIENCE).unwrap().0,
    ];
    seen.sort_by_key(|header| header.op);
    assert_eq!(
        (seen[0].op, seen[1].op),
        (Op::Request as u16, Op::Reset as u16)
    );
    guest.send(&reply(&seen[0], Op::Response), &[]);
    let mut line = [0; 3];
    waiting.read_exact(&mut line).unwrap();
    assert_eq!(&line, b"OK ");
}
