//! The device behind a driver.

use std::io::Read;

use super::{Console, ConsoleTail, TAIL};
use crate::device::Device;
use crate::features;
use crate::testing::{Random, Rig};

#[test]
fn output_is_kept_whatever_its_shape() {
    let tail = ConsoleTail::new();
    let mut rig = Rig::new(Console::new(tail.clone(), None), features::EVENT_IDX);
    let mut random = Random::new(5);
    let mut printed = Vec::new();
    for _ in 0..200 {
        let line = random.bytes(random.clone().len(2000) + 1);
        let pieces = rig.arena.put_cut(&line, 20, &mut random);
        assert_eq!(rig.request(1, &pieces, &[]), 0);
        printed.extend(line);
        assert_eq!(tail.total(), printed.len() as u64);
        assert_eq!(tail.bytes(), printed[printed.len().saturating_sub(TAIL)..]);
    }
    rig.restart();
    let piece = rig.arena.put(b"after");
    rig.request(1, &[piece], &[]);
    assert!(tail.bytes().ends_with(b"after"));
}

#[test]
fn one_huge_buffer_is_counted_whole() {
    let tail = ConsoleTail::new();
    let mut rig = Rig::new(Console::new(tail.clone(), None), 0);
    let data = Random::new(1).bytes(1 << 20);
    let piece = rig.arena.put(&data);
    rig.request(1, &[piece], &[]);
    assert_eq!(tail.total(), 1 << 20);
    assert_eq!(tail.bytes(), data[(1 << 20) - TAIL..]);
}

#[test]
fn the_echo_gets_the_same() {
    let (mut reader, writer) = std::io::pipe().unwrap();
    let mut rig = Rig::new(Console::new(ConsoleTail::new(), Some(writer.into())), 0);
    let pieces = [rig.arena.put(b"hello, "), rig.arena.put(b"world\n")];
    rig.request(1, &pieces, &[]);
    let mut seen = [0; 13];
    reader.read_exact(&mut seen).unwrap();
    assert_eq!(&seen, b"hello, world\n");
}

#[test]
fn last_words_are_kept_at_stop_and_input_stays_silent() {
    let tail = ConsoleTail::new();
    let mut rig = Rig::new(Console::new(tail.clone(), None), 0);
    let room = rig.arena.take(4096, 4096);
    rig.queues[0].add(&[], &[(room, 4096)]);
    rig.queues[0].kick();
    for _ in 0..60 {
        let piece = rig.arena.put(b"Kernel panic - not syncing\n");
        rig.queues[1].add(&[piece], &[]);
    }
    // No kick: the stop itself looks.
    let states = rig.device.stop();
    assert_eq!(tail.total(), 60 * 27);
    assert_eq!(states[0].unwrap().next_available, 0);
    assert_eq!(rig.queues[0].used(), None);
}
