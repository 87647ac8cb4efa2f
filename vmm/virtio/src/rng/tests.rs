//! The device behind a driver.

use super::Rng;
use crate::device::Device;
use crate::features;
use crate::testing::{Random, Rig};

#[test]
fn fills_buffers_of_any_shape() {
    for wanted in [0, features::EVENT_IDX] {
        let mut rig = Rig::new(Rng::new(), wanted);
        let mut random = Random::new(3);
        let mut all = Vec::new();
        for _ in 0..50 {
            let room = rig.arena.room_cut(64, 12, &mut random);
            assert_eq!(rig.request(0, &[], &room), 64);
            all.push(rig.arena.get(&room));
        }
        all.sort();
        all.dedup();
        assert_eq!(all.len(), 50, "entropy does not repeat");
    }
}

#[test]
fn a_request_is_bounded() {
    let mut rig = Rig::new(Rng::new(), features::EVENT_IDX);
    let address = rig.arena.take(1 << 20, 1);
    assert_eq!(rig.request(0, &[], &[(address, 1 << 20)]), 64 << 10);
    let beyond = rig.arena.get(&[(address + (64 << 10), 16)]);
    assert_eq!(beyond, [0; 16]);
    // Overlapping descriptors: more bytes than there is memory, were they all filled.
    assert_eq!(rig.request(0, &[], &[(address, 1 << 20); 15]), 64 << 10);
}

#[test]
fn a_readable_buffer_breaks_the_queue_and_a_reset_mends_it() {
    let mut rig = Rig::new(Rng::new(), features::EVENT_IDX);
    let piece = rig.arena.put(b"not for reading");
    rig.queues[0].add(&[piece], &[]);
    rig.queues[0].kick();
    while rig.device.failure().is_none() {
        std::thread::yield_now();
    }
    assert!(rig.device.failure().unwrap().contains("readable buffer"));
    rig.device.stop();
    let mut rig = Rig::new(rig.device, features::EVENT_IDX);
    assert_eq!(rig.device.failure(), None);
    let address = rig.arena.take(8, 8);
    assert_eq!(rig.request(0, &[], &[(address, 8)]), 8);
}

#[test]
fn queues_survive_a_save_and_a_restore() {
    let mut rig = Rig::new(Rng::new(), features::EVENT_IDX);
    for _ in 0..40 {
        let address = rig.arena.take(8, 8);
        assert_eq!(rig.request(0, &[], &[(address, 8)]), 8);
        rig.restart();
    }
    assert_eq!(rig.device.stop()[0].unwrap().next_used, 40);
    assert!(rig.device.stop().is_empty(), "inactive");
}
