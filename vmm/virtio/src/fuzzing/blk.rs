//! The request parser, and the requests on a file.

use std::cell::RefCell;
use std::fs::File;

use super::input::{Input, driver, offer};
use crate::blk::fuzzing::Bench;
use crate::queue::{Health, Queue};

/// Bytes of the disk.
const DISK: u64 = 8 << 10;

thread_local! {
    static FILE: RefCell<Option<File>> = const { RefCell::new(None) };
}

/// Requests of any kind, length and shape.
pub fn blk(data: &[u8]) {
    let mut input = Input::new(data);
    let file = FILE.with_borrow_mut(|file| {
        let file = file.get_or_insert_with(|| {
            rustix::fs::memfd_create("disk", rustix::fs::MemfdFlags::CLOEXEC)
                .unwrap()
                .into()
        });
        file.set_len(DISK).unwrap();
        file.try_clone().unwrap()
    });
    let read_only = input.byte().is_multiple_of(4);
    let mut bench = Bench::new(file, read_only);
    let (memory, mut driver) = driver(data, true);
    let features = crate::features::EVENT_IDX;
    let mut queue = Queue::new(
        0,
        driver.active(),
        memory.clone(),
        features,
        16,
        Health::new("fuzz"),
    )
    .unwrap();
    let mut header = crate::testing::Arena::new(memory, 0x7000, 0x8000);
    while !input.is_empty() {
        let kind = u32::from(input.byte() % 16);
        let sector = if input.byte() == 0 {
            input.u64()
        } else {
            u64::from(input.byte() % 20)
        };
        let bytes = [&kind.to_le_bytes()[..], &[0; 4], &sector.to_le_bytes()].concat();
        let mut readable = vec![header.put(&bytes)];
        match kind {
            11 | 13 => {
                for _ in 0..input.below(4) {
                    let range = [
                        &u64::from(input.byte() % 20).to_le_bytes()[..],
                        &u32::from(input.byte() % 20).to_le_bytes(),
                        &u32::from(input.byte() % 3).to_le_bytes(),
                    ];
                    readable.push(header.put(&range.concat()));
                }
            }
            _ => readable.extend(input.pieces(6, 1500)),
        }
        let writable = input.pieces(6, 1500);
        offer(&mut input, &mut driver, &readable, &writable);
        bench.serve(&mut queue);
        while driver_used(&mut driver).is_some() {}
    }
}

/// What the device gave back, unless malice made the driver lose track.
fn driver_used(driver: &mut crate::testing::DriverQueue) -> Option<()> {
    driver.try_used().map(|_| ())
}
