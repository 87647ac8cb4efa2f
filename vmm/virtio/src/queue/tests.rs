//! The accessor against honest and malicious drivers.

use super::*;
use crate::testing::{DriverQueue, Random, cut, guest_memory};

const RINGS: u64 = 0x1000;
const BUFFERS: u64 = 0x10_0000;
const MEMORY: usize = 4 << 20;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
const INDIRECT: u16 = 4;

struct Pair {
    driver: DriverQueue,
    queue: Queue,
    memory: Memory,
    health: Health,
}

fn pair(size: u16, event_idx: bool) -> Pair {
    let memory = guest_memory(MEMORY);
    let driver = DriverQueue::new(memory.clone(), RINGS, size, event_idx);
    let health = Health::new("test");
    let features = if event_idx { features::EVENT_IDX } else { 0 };
    let queue = Queue::new(
        0,
        driver.active(),
        memory.clone(),
        features,
        size,
        health.clone(),
    )
    .unwrap();
    Pair {
        driver,
        queue,
        memory,
        health,
    }
}

fn refusal(change: impl FnOnce(&mut QueueState)) -> String {
    let memory = guest_memory(MEMORY);
    let mut active = DriverQueue::new(memory.clone(), RINGS, 16, false).active();
    change(&mut active.state);
    Queue::new(3, active, memory, 0, 256, Health::new("test"))
        .unwrap_err()
        .to_string()
}

#[test]
fn set_up_is_checked() {
    assert!(refusal(|state| state.size = 0).contains("power of two"));
    assert!(refusal(|state| state.size = 24).contains("power of two"));
    assert!(refusal(|state| state.size = 512).contains("at most 256"));
    assert!(refusal(|state| state.ready = false).contains("not enabled"));
    assert!(refusal(|state| state.descriptors += 8).contains("aligned to 16"));
    assert!(refusal(|state| state.available += 1).contains("aligned to 2"));
    assert!(refusal(|state| state.used += 2).contains("aligned to 4"));
    assert!(refusal(|state| state.used = 0).contains("null"));
    assert!(refusal(|state| state.used = MEMORY as u64 - 4).contains("not in guest memory"));
    assert!(refusal(|state| state.descriptors = !0xf).contains("not in guest memory"));
    assert!(refusal(|state| state.available = 3 << 30).contains("not in guest memory"));
    assert!(refusal(|state| state.next_available = 17).contains("17 chains in flight"));
    assert!(refusal(|state| state.next_used = 1).starts_with("queue 3: "));
}

#[test]
fn chains_of_any_shape_read_and_write_alike() {
    let mut random = Random::new(1);
    for round in 0..300 {
        let mut pair = pair(64, round % 2 == 0);
        let request = random.bytes(random.clone().len(5000));
        let room = random.len(5000);
        let mut next = BUFFERS;
        let mut place = |len: usize| {
            next += random.below(100) + len as u64;
            (next - len as u64, len as u32)
        };
        let mut shapes = Random::new(round);
        let mut rest = &request[..];
        let readable: Vec<_> = cut(request.len(), 20, &mut shapes)
            .into_iter()
            .map(|len| {
                let piece = place(len);
                pair.memory
                    .write_slice(&rest[..len], GuestAddress(piece.0))
                    .unwrap();
                rest = &rest[len..];
                piece
            })
            .collect();
        let writable: Vec<_> = cut(room, 20, &mut shapes)
            .into_iter()
            .map(&mut place)
            .collect();
        let head = if round % 3 == 0 {
            pair.driver.add_indirect(&readable, &writable)
        } else {
            pair.driver.add(&readable, &writable)
        };

        let chain = pair.queue.pop().unwrap();
        assert_eq!(Some(chain.head()), head);
        assert_eq!(
            (chain.readable_len(), chain.writable_len()),
            (request.len(), room)
        );
        let mut reader = chain.reader();
        let mut seen = Vec::new();
        while reader.remaining() > 0 {
            let mut part = vec![0; shapes.len(700) + 1];
            let len = reader.read(&mut part);
            seen.extend_from_slice(&part[..len]);
        }
        assert_eq!(seen, request);

        let answer = shapes.bytes(room);
        let middle = shapes.len(room + 1);
        let (mut first, mut second) = chain.writer().split_at(middle).unwrap();
        second.write_all(&answer[middle..]).unwrap();
        first.write_all(&answer[..middle]).unwrap();
        assert_eq!(first.write(b"no room"), 0);
        pair.queue.push(chain, room);
        assert_eq!(pair.driver.used(), Some((head.unwrap(), room as u32)));
        let mut got = Vec::new();
        for &(address, len) in &writable {
            let mut part = vec![0; len as usize];
            pair.memory
                .read_slice(&mut part, GuestAddress(address))
                .unwrap();
            got.extend(part);
        }
        assert_eq!(got, answer);
        assert_eq!(pair.health.failure(), None);
    }
}

#[test]
fn bounds_of_reader_and_writer() {
    let mut pair = pair(16, false);
    pair.driver
        .add(&[(BUFFERS, 3), (BUFFERS + 10, 2)], &[(BUFFERS + 20, 2)]);
    let chain = pair.queue.pop().unwrap();
    let mut reader = chain.reader();
    assert_eq!(
        reader.read_obj::<u64>(),
        Err(crate::chain::OutOfBounds { wanted: 8, left: 5 })
    );
    assert!(reader.skip(6).is_err());
    assert!(reader.split_at(6).is_err());
    reader.skip(1).unwrap();
    assert_eq!(reader.read_obj::<u32>(), Ok(0));
    assert_eq!(reader.remaining(), 0);
    let mut writer = chain.writer();
    assert!(writer.write_obj(7u32).is_err());
    assert_eq!(writer.remaining(), 2);
    writer.write_obj(7u16).unwrap();
}

#[test]
fn what_breaks_a_queue() {
    type Malice = fn(&Pair);
    let cases: &[(&str, Malice)] = &[
        ("is no chain", |pair| {
            pair.driver.raw().descriptor(0, BUFFERS, 8, NEXT, 0)
        }),
        ("is no chain", |pair| {
            pair.driver.raw().descriptor(0, BUFFERS, 8, NEXT, 1);
            pair.driver.raw().descriptor(1, BUFFERS, 8, NEXT, 0);
        }),
        ("is no chain", |pair| {
            pair.driver.raw().descriptor(0, BUFFERS, 8, NEXT, 16)
        }),
        ("is no chain", |pair| pair.driver.raw().available(0, 16)),
        ("readable descriptor after a writable", |pair| {
            pair.driver.raw().descriptor(0, BUFFERS, 8, NEXT | WRITE, 1);
            pair.driver.raw().descriptor(1, BUFFERS, 8, 0, 0);
        }),
        ("outside of guest memory", |pair| {
            pair.driver.raw().descriptor(0, 1 << 40, 8, 0, 0)
        }),
        ("outside of guest memory", |pair| {
            pair.driver.raw().descriptor(0, MEMORY as u64 - 4, 8, 0, 0)
        }),
        ("outside of guest memory", |pair| {
            pair.driver.raw().descriptor(0, u64::MAX - 4, 8, 0, 0)
        }),
        ("more than 16777216 bytes", |pair| {
            pair.driver.raw().descriptor(0, BUFFERS, u32::MAX, 0, 0)
        }),
        ("more than 16777216 bytes", |pair| {
            for index in 0..15 {
                pair.driver
                    .raw()
                    .descriptor(index, BUFFERS, 3 << 20, NEXT, index + 1);
            }
        }),
        // Indirect tables: not whole, out of memory, nested, empty, longer than the queue.
        ("is no chain", |pair| {
            pair.driver.raw().descriptor(0, BUFFERS, 17, INDIRECT, 0)
        }),
        ("is no chain", |pair| {
            pair.driver.raw().descriptor(0, 1 << 40, 32, INDIRECT, 0)
        }),
        ("is no chain", |pair| {
            pair.driver.raw().descriptor(0, BUFFERS, 0, INDIRECT, 0)
        }),
        ("is no chain", |pair| {
            pair.driver.raw().descriptor(0, BUFFERS, 16, INDIRECT, 0);
            pair.driver
                .raw()
                .descriptor_in(BUFFERS, 0, BUFFERS, 16, INDIRECT, 0);
        }),
        ("is no chain", |pair| {
            pair.driver
                .raw()
                .descriptor(0, BUFFERS, 16 * 100, INDIRECT, 0);
            for index in 0..100 {
                pair.driver
                    .raw()
                    .descriptor_in(BUFFERS, index, BUFFERS, 8, NEXT, index + 1);
            }
        }),
    ];
    for (at, (reason, malice)) in cases.iter().enumerate() {
        let mut pair = pair(16, false);
        pair.driver.raw().available(0, 0);
        malice(&pair);
        pair.driver.raw().available_index(1);
        assert!(pair.queue.pop().is_none(), "case {at}");
        let failure = pair.health.failure().unwrap();
        assert!(failure.contains(reason), "case {at}: {failure}");
        // Latched: an honest chain comes too late, and nothing asks for more.
        pair.driver.raw().descriptor(0, BUFFERS, 8, 0, 0);
        assert!(pair.queue.pop().is_none(), "case {at}");
        assert!(!pair.queue.enable_kicks(), "case {at}");
        assert!(pair.queue.failed());
    }
}

#[test]
fn the_available_index_may_not_jump() {
    let mut pair = pair(16, true);
    pair.driver.raw().available_index(17);
    assert!(pair.queue.pop().is_none());
    assert!(
        pair.health
            .failure()
            .unwrap()
            .contains("the rings cannot be used")
    );
}

#[test]
fn no_more_chains_than_descriptors_are_in_flight() {
    let mut pair = pair(4, false);
    pair.driver.raw().descriptor(0, BUFFERS, 8, 0, 0);
    pair.driver.raw().available_index(4);
    let held: Vec<_> = std::iter::from_fn(|| pair.queue.pop()).collect();
    assert_eq!(held.len(), 4);
    assert_eq!(pair.queue.in_flight(), 4);
    assert_eq!(pair.health.failure(), None);
    // The same head again, while four chains are out.
    pair.driver.raw().available_index(5);
    assert!(pair.queue.pop().is_none());
    assert!(pair.health.failure().unwrap().contains("more chains than"));
}

#[test]
fn a_chain_may_cross_regions_and_have_empty_descriptors() {
    let memory: Memory = Arc::new(
        vm_memory::GuestMemoryMmap::from_ranges(&[
            (GuestAddress(0), 1 << 20),
            (GuestAddress(1 << 20), 1 << 20),
        ])
        .unwrap(),
    );
    let mut driver = DriverQueue::new(memory.clone(), RINGS, 16, false);
    let health = Health::new("test");
    let mut queue = Queue::new(0, driver.active(), memory.clone(), 0, 16, health.clone()).unwrap();
    memory
        .write_slice(b"across", GuestAddress((1 << 20) - 3))
        .unwrap();
    driver.add(
        &[(0x8000, 0), ((1 << 20) - 3, 6), (0x8000, 0)],
        &[(0x9000, 0)],
    );
    let chain = queue.pop().unwrap();
    let mut bytes = [0; 6];
    chain.reader().read_exact(&mut bytes).unwrap();
    assert_eq!(&bytes, b"across");
    assert_eq!(chain.writable_len(), 0);
    assert_eq!(health.failure(), None);
}

#[test]
fn undo_gives_the_same_chain_again() {
    let mut pair = pair(8, true);
    let first = pair.driver.add(&[(BUFFERS, 1)], &[]).unwrap();
    let second = pair.driver.add(&[(BUFFERS, 2)], &[]).unwrap();
    let one = pair.queue.pop().unwrap();
    let two = pair.queue.pop().unwrap();
    pair.queue.undo(two);
    pair.queue.undo(one);
    assert_eq!(pair.queue.in_flight(), 0);
    assert_eq!(pair.queue.pop().unwrap().head(), first);
    assert_eq!(pair.queue.pop().unwrap().head(), second);
}

#[test]
fn chains_can_be_put_back_after_the_queue_broke() {
    let mut pair = pair(8, false);
    pair.driver.add(&[(BUFFERS, 1)], &[]).unwrap();
    let held = pair.queue.pop().unwrap();
    pair.driver.raw().available(1, 99);
    pair.driver.raw().available_index(2);
    assert!(pair.queue.pop().is_none());
    assert!(pair.queue.failed());
    pair.queue.undo(held);
    assert_eq!(
        (pair.queue.in_flight(), pair.queue.state().next_available),
        (0, 0)
    );
}

#[test]
fn interrupts_are_suppressed_both_ways() {
    for event_idx in [false, true] {
        let mut pair = pair(8, event_idx);
        for _ in 0..4 {
            pair.driver.add(&[(BUFFERS, 1)], &[]).unwrap();
        }
        let chain = pair.queue.pop().unwrap();
        pair.queue.push(chain, 0);
        pair.queue.notify();
        assert_eq!(pair.driver.interrupts(), 1);
        // Nothing new, no interrupt.
        pair.queue.notify();
        assert_eq!(pair.driver.interrupts(), 1);
        // The driver looks by itself.
        pair.driver.used().unwrap();
        pair.driver.disable_interrupts();
        let chain = pair.queue.pop().unwrap();
        pair.queue.push(chain, 0);
        pair.queue.notify();
        assert_eq!(pair.driver.interrupts(), 1);
    }
}

#[test]
fn kicks_are_suppressed_both_ways() {
    for event_idx in [false, true] {
        let mut pair = pair(8, event_idx);
        pair.driver.add(&[(BUFFERS, 1)], &[]).unwrap();
        pair.driver.kick();
        assert_eq!(pair.driver.kicks(), 1, "the first chain is announced");
        pair.queue.disable_kicks();
        pair.driver.add(&[(BUFFERS, 1)], &[]).unwrap();
        pair.driver.kick();
        assert_eq!(pair.driver.kicks(), 1);
        while let Some(chain) = pair.queue.pop() {
            pair.queue.push(chain, 0);
        }
        assert!(!pair.queue.enable_kicks());
        pair.driver.add(&[(BUFFERS, 1)], &[]).unwrap();
        assert!(
            pair.queue.enable_kicks(),
            "a chain that came before kicks were wanted is seen"
        );
        pair.driver.kick();
        pair.queue.pop().unwrap();
        assert!(!pair.queue.enable_kicks());
        pair.driver.add(&[(BUFFERS, 1)], &[]).unwrap();
        let before = pair.driver.kicks();
        pair.driver.kick();
        assert_eq!(pair.driver.kicks(), before + 1);
    }
}

#[test]
fn a_long_run_wraps_the_indices() {
    let mut pair = pair(4, true);
    for round in 0..70_000u32 {
        let head = pair.driver.add(&[(BUFFERS, 1)], &[(BUFFERS, 4)]).unwrap();
        let chain = pair.queue.pop().unwrap();
        pair.queue.push(chain, 4);
        pair.queue.notify();
        assert_eq!(
            pair.driver.wait_used(std::time::Duration::ZERO),
            Some((head, 4)),
            "{round}"
        );
    }
    let state = pair.queue.state();
    assert_eq!(state.next_available, (70_000u32 % 65_536) as u16);
    assert_eq!(state.next_available, state.next_used);
}
