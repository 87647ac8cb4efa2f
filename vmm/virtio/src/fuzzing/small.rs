//! The entropy device and the console.

use super::input::{Input, driver, offer};
use crate::console::{ConsoleTail, TAIL};
use crate::queue::{Health, Queue};

/// Buffers of any shape to fill.
pub fn rng(data: &[u8]) {
    let mut input = Input::new(data);
    let (memory, mut driver) = driver(data, true);
    let features = crate::features::EVENT_IDX;
    let mut queue = Queue::new(
        0,
        driver.active(),
        memory,
        features,
        16,
        Health::new("fuzz"),
    )
    .unwrap();
    while !input.is_empty() {
        let readable = if input.byte() == 0 {
            input.pieces(2, 100)
        } else {
            Vec::new()
        };
        let writable = input.pieces(8, 100);
        offer(&mut input, &mut driver, &readable, &writable);
        crate::rng::fuzzing::serve(&mut queue);
        while driver.try_used().is_some() {}
    }
    assert!(queue.failed() || queue.in_flight() == 0);
}

/// Output of any shape.
pub fn console(data: &[u8]) {
    let mut input = Input::new(data);
    let (memory, mut driver) = driver(data, true);
    let (_, silent) = super::input::driver(&[], true);
    let features = crate::features::EVENT_IDX;
    let health = Health::new("fuzz");
    let queues = vec![
        Queue::new(
            0,
            silent.active(),
            memory.clone(),
            features,
            16,
            health.clone(),
        )
        .unwrap(),
        Queue::new(1, driver.active(), memory, features, 16, health).unwrap(),
    ];
    let tail = ConsoleTail::new();
    let mut bench = crate::console::fuzzing::Bench::new(queues, tail.clone());
    while !input.is_empty() {
        let readable = input.pieces(8, 4000);
        let writable = input.pieces(1, 10);
        offer(&mut input, &mut driver, &readable, &writable);
        bench.serve();
        while driver.try_used().is_some() {}
    }
    let kept = tail.bytes().len();
    assert!(kept <= TAIL);
    assert_eq!(kept as u64, tail.total().min(TAIL as u64));
}
