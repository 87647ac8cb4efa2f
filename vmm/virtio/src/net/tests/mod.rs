//! The device behind a driver, with a socket or a real tap on the other side.

mod tap;

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::time::Duration;

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, recv, send, socketpair,
};

use super::header::HEADER;
use super::worker::{RX, TX};
use super::*;
use crate::device::Device;
use crate::features;
use crate::testing::{Piece, Random, Rig};

const ADDRESS: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PATIENCE: Duration = Duration::from_secs(10);

struct Card {
    rig: Rig<Net>,
    wire: OwnedFd,
    posted: HashMap<u16, Vec<Piece>>,
}

fn config(tap: OwnedFd) -> NetConfig {
    NetConfig {
        tap,
        mac: ADDRESS,
        mtu: 1500,
        check_source: false,
        index: 0,
    }
}

/// A card on a wire that keeps frames apart.
fn card(wanted: u64, check_source: bool) -> Card {
    let (tap, wire) = socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        SocketFlags::CLOEXEC,
        None,
    )
    .unwrap();
    rustix::net::sockopt::set_socket_timeout(
        &wire,
        rustix::net::sockopt::Timeout::Recv,
        Some(PATIENCE),
    )
    .unwrap();
    let device = Net::on_socket(NetConfig {
        check_source,
        ..config(tap)
    })
    .unwrap();
    Card {
        rig: Rig::new(
            device,
            wanted | features::EVENT_IDX | features::INDIRECT_DESC,
        ),
        wire,
        posted: HashMap::new(),
    }
}

/// A frame from the card's own address.
fn frame(len: usize, random: &mut Random) -> Vec<u8> {
    let mut frame = random.bytes(len);
    frame[6..12].copy_from_slice(&ADDRESS);
    frame
}

impl Card {
    /// Gives the card receive buffers of `len` bytes.
    fn post(&mut self, count: usize, len: usize, pieces: usize, random: &mut Random) {
        for _ in 0..count {
            let buffer = self.rig.arena.room_cut(len, pieces, random);
            let queue = &mut self.rig.queues[RX];
            let Some(head) = queue.add_indirect(&[], &buffer) else {
                break;
            };
            self.posted.insert(head, buffer);
        }
        self.rig.queues[RX].kick();
    }

    fn arrive(&self, frame: &[u8]) {
        let packet = [&[0; HEADER][..], frame].concat();
        assert_eq!(
            send(&self.wire, &packet, SendFlags::empty()),
            Ok(packet.len())
        );
    }

    fn leave(&self) -> Vec<u8> {
        let mut packet = vec![0; 70_000];
        let (_, len) =
            recv(&self.wire, &mut packet[..], RecvFlags::empty()).expect("a frame on the wire");
        packet.truncate(len);
        packet
    }

    fn silence_on_wire(&self) {
        std::thread::sleep(Duration::from_millis(20));
        assert!(recv(&self.wire, &mut [0; 8][..], RecvFlags::DONTWAIT).is_err());
    }

    /// A frame that the driver received: how many buffers, and its bytes.
    fn received(&mut self) -> (u16, Vec<u8>) {
        let mut bytes = Vec::new();
        let mut count = 1;
        let mut seen = 0;
        while seen < count {
            let (head, written) = self.rig.queues[RX].wait_used(PATIENCE).expect("a frame");
            let mut part = self.rig.arena.get(&self.posted.remove(&head).unwrap());
            part.truncate(written as usize);
            bytes.extend(part);
            if seen == 0 {
                count = u16::from_le_bytes([bytes[10], bytes[11]]);
            }
            seen += 1;
        }
        (count, bytes.split_off(HEADER))
    }

    fn transmit(&mut self, header: [u8; HEADER], frame: &[u8], pieces: usize, random: &mut Random) {
        let packet = [&header[..], frame].concat();
        let pieces = self.rig.arena.put_cut(&packet, pieces, random);
        assert_eq!(self.rig.request(TX, &pieces, &[]), 0);
    }
}

#[test]
fn the_configuration_space_describes_the_card() {
    let card = card(0, false);
    let mut space = [0; 14];
    card.rig.device.read_config(0, &mut space);
    assert_eq!(space, [2, 0, 0, 0, 0, 1, 1, 0, 1, 0, 0xdc, 5, 0, 0]);
    assert_eq!(card.rig.device.name(), "net 0");
}

#[test]
fn frames_go_out_whatever_their_shape() {
    let mut card = card(u64::MAX, true);
    let mut random = Random::new(1);
    for _ in 0..200 {
        let frame = frame(14 + random.clone().len(60_000), &mut random);
        card.transmit([0; HEADER], &frame, 1 + random.clone().len(30), &mut random);
        let packet = card.leave();
        assert_eq!(packet[..HEADER], [0; HEADER]);
        assert!(packet[HEADER..] == frame);
    }
}

#[test]
fn offloads_are_passed_on_and_bad_ones_dropped() {
    let mut card = card(u64::MAX, false);
    let mut random = Random::new(2);
    let big = frame(40_000, &mut random);
    let tso = [1, 1, 54, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0];
    card.transmit(tso, &big, 9, &mut random);
    assert_eq!(card.leave()[..HEADER], tso);
    for bad in [
        [1, 3, 54, 0, 0xa8, 5, 34, 0, 16, 0, 0, 0],
        [1, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0, 0],
        [0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
    ] {
        card.transmit(bad, &big, 5, &mut random);
    }
    card.transmit([0; HEADER], &[0; 13], 2, &mut random);
    card.transmit([0; HEADER], &vec![0; MAX_FRAME + 1], 2, &mut random);
    card.silence_on_wire();
    card.transmit([0; HEADER], &big, 5, &mut random);
    assert!(card.leave()[HEADER..] == big);
    assert_eq!(card.rig.device.failure(), None);
}

#[test]
fn a_false_source_address_is_dropped() {
    let mut card = card(u64::MAX, true);
    let mut random = Random::new(3);
    let mut spoofed = frame(100, &mut random);
    spoofed[11] ^= 1;
    card.transmit([0; HEADER], &spoofed, 3, &mut random);
    card.silence_on_wire();
}

#[test]
fn large_frames_fill_merged_buffers() {
    let mut card = card(u64::MAX, false);
    let mut random = Random::new(4);
    for round in 0..100 {
        let frame = frame(14 + random.clone().len(65_000), &mut random);
        let len = 12 + random.len(3000);
        let enough = (12 + MAX_FRAME).div_ceil(len).min(256);
        if enough == 256 {
            continue;
        }
        card.post(
            enough.saturating_sub(card.posted.len()),
            len,
            3,
            &mut random,
        );
        while card
            .posted
            .values()
            .flatten()
            .map(|&(_, len)| len as usize)
            .sum::<usize>()
            < 12 + MAX_FRAME
        {
            card.post(1, 1536, 1, &mut random);
        }
        card.arrive(&frame);
        let (count, got) = card.received();
        assert!(got == frame, "round {round}");
        assert!(count as usize <= 256);
    }
}

#[test]
fn each_merged_buffer_is_filled_before_the_next() {
    let mut card = card(u64::MAX, false);
    let mut random = Random::new(5);
    card.post(60, 1536, 1, &mut random);
    let sent = frame(4000, &mut random);
    card.arrive(&sent);
    let (count, got) = card.received();
    assert_eq!(count, 3);
    assert!(got == sent);
    // The next frame starts in the next buffer.
    let sent = frame(60, &mut random);
    card.arrive(&sent);
    assert_eq!(card.received(), (1, sent));
}

#[test]
fn without_merging_a_frame_is_one_buffer() {
    for wanted in [GUEST_CSUM | GUEST_TSO4, 0] {
        let mut card = card(wanted, false);
        let mut random = Random::new(6);
        let room = if wanted == 0 { 1530 } else { 12 + MAX_FRAME };
        card.post(20, room, 18, &mut random);
        for len in [60, 1514, if wanted == 0 { 700 } else { 60_000 }] {
            let frame = frame(len, &mut random);
            card.arrive(&frame);
            assert_eq!(card.received(), (1, frame));
        }
    }
}

#[test]
fn reception_stalls_without_buffers_and_goes_on() {
    let mut card = card(MRG_RXBUF, false);
    let mut random = Random::new(7);
    let frames: Vec<_> = (0..50).map(|_| frame(1000, &mut random)).collect();
    // The tap first: no buffer at all.
    for frame in &frames[..25] {
        card.arrive(frame);
    }
    assert_eq!(card.rig.queues[RX].used(), None);
    for expected in &frames[..25] {
        card.post(1, 2000, 2, &mut random);
        assert_eq!(card.received(), (1, expected.clone()));
    }
    // The buffers first: the tap is empty, and then full again.
    for expected in &frames[25..] {
        card.post(2, 1536, 2, &mut random);
        card.arrive(expected);
        assert_eq!(&card.received().1, expected);
    }
}

/// CVE-2020-16843 of another VMM: tap and ring both full, and never again a frame.
#[test]
fn a_full_ring_and_a_full_tap_recover() {
    let mut card = card(u64::MAX, false);
    let mut random = Random::new(8);
    let expected = frame(1400, &mut random);
    let packet = [&[0; HEADER][..], &expected].concat();
    let mut sent = 0;
    // Until the wire takes no more.
    while send(&card.wire, &packet, SendFlags::DONTWAIT).is_ok() {
        sent += 1;
    }
    std::thread::sleep(Duration::from_millis(10));
    let mut got = 0;
    while got < sent {
        card.post(50, 1536, 1, &mut random);
        std::thread::sleep(Duration::from_micros(100));
        while let Some((head, _)) = card.rig.queues[RX].used() {
            let bytes = card.rig.arena.get(&card.posted.remove(&head).unwrap());
            assert!(bytes[HEADER..packet.len()] == expected);
            got += 1;
        }
    }
    card.arrive(&expected);
    card.post(50, 1536, 1, &mut random);
    assert_eq!(card.received().1, expected);
}

#[test]
fn a_full_tap_keeps_the_drivers_frames() {
    let mut card = card(u64::MAX, false);
    let mut random = Random::new(9);
    let expected: Vec<_> = (0..250).map(|_| frame(9000, &mut random)).collect();
    for frame in &expected {
        let pieces = [card.rig.arena.put(&[0; HEADER]), card.rig.arena.put(frame)];
        card.rig.queues[TX].add_indirect(&pieces, &[]).unwrap();
    }
    card.rig.queues[TX].kick();
    std::thread::sleep(Duration::from_millis(20));
    for frame in &expected {
        assert!(card.leave()[HEADER..] == *frame);
    }
    for _ in 0..expected.len() {
        card.rig.queues[TX].wait_used(PATIENCE).unwrap();
    }
}

#[test]
fn a_ring_too_small_for_the_largest_frame_gets_the_others() {
    let mut card = card(u64::MAX, false);
    let mut random = Random::new(10);
    // All 256 buffers are not 64 KiB together.
    card.post(256, 200, 1, &mut random);
    let small = frame(500, &mut random);
    card.arrive(&small);
    assert_eq!(card.received(), (3, small));
    card.arrive(&frame(60_000, &mut random));
    card.post(3, 200, 1, &mut random);
    let small = frame(100, &mut random);
    card.arrive(&small);
    assert_eq!(
        card.received(),
        (1, small),
        "the large one was dropped whole"
    );
}

#[test]
fn buffers_survive_a_restart() {
    let mut card = card(u64::MAX, false);
    let mut random = Random::new(11);
    card.post(100, 1536, 1, &mut random);
    for _ in 0..5 {
        let frame = frame(3000, &mut random);
        card.arrive(&frame);
        assert_eq!(card.received().1, frame);
        card.rig.restart();
        card.transmit([0; HEADER], &frame, 4, &mut random);
        assert!(card.leave()[HEADER..] == frame);
    }
    let states = card.rig.device.stop();
    let rx = states[RX].unwrap();
    assert_eq!(rx.next_available, rx.next_used, "no buffer is held");
}

#[test]
fn a_receive_buffer_without_room_breaks_the_queue_only() {
    let mut card = card(u64::MAX, false);
    let mut random = Random::new(12);
    let address = card.rig.arena.take(8, 1);
    card.rig.queues[RX].add(&[], &[(address, 8)]).unwrap();
    card.rig.queues[RX].kick();
    while card.rig.device.failure().is_none() {
        std::thread::yield_now();
    }
    assert!(card.rig.device.failure().unwrap().contains("queue 0"));
    let frame = frame(100, &mut random);
    card.transmit([0; HEADER], &frame, 3, &mut random);
    assert!(card.leave()[HEADER..] == frame);
}
