//! The queue accessor and the chains that come out of it, over arbitrary guest memory.

use super::input::{Input, MEMORY, soup};
use crate::device::{ActiveQueue, QueueState};
use crate::features;
use crate::queue::{Health, Queue};
use crate::testing::TestInterrupt;
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// Rings anywhere, holding anything, changing while they are used.
pub fn queue(data: &[u8]) {
    let mut input = Input::new(data);
    let mut address = |alignment: u64| match input.byte() {
        0 => input.u64(),
        _ => u64::from(input.u16()) / alignment * alignment,
    };
    let (descriptors, available, used) = (address(16), address(2), address(4));
    let state = QueueState {
        size: 1 << (input.byte() % 10),
        ready: input.byte() != 0,
        descriptors,
        available,
        used,
        next_available: input.u16() % 4,
        next_used: 0,
    };
    let negotiated = if input.byte().is_multiple_of(2) {
        features::EVENT_IDX
    } else {
        0
    };
    let memory = soup(data);
    let active = ActiveQueue {
        state,
        kick: EventFd::new(EFD_NONBLOCK).unwrap(),
        interrupt: TestInterrupt::new(),
    };
    let health = Health::new("fuzz");
    let Ok(queue) = Queue::new(0, active, memory.clone(), negotiated, 256, health.clone()) else {
        return;
    };
    let mut queue = queue.with_max_bytes(MEMORY);
    // The available index starts where the device is; what lies behind it is as it comes.
    let _ = memory.write_obj(
        state.next_available.wrapping_add(input.u16() % 300),
        GuestAddress(available + 2),
    );
    let mut held = Vec::new();
    for _ in 0..200 {
        match input.byte() % 8 {
            0 => {
                let _ = memory.write_slice(input.slice(16), GuestAddress(input.u16().into()));
            }
            1 => {
                if let Some(chain) = held.pop() {
                    queue.push(chain, input.u32() as usize);
                }
            }
            2 => {
                let _ = queue.enable_kicks();
            }
            3 => queue.disable_kicks(),
            4 => queue.notify(),
            5 => {
                if let Some(chain) = queue.pop() {
                    queue.undo(chain);
                }
            }
            _ => {
                let Some(chain) = queue.pop() else { continue };
                assert!(chain.readable_len() + chain.writable_len() <= MEMORY);
                let mut reader = chain.reader();
                let mut part = vec![0; usize::from(input.byte())];
                let read = reader.read(&mut part);
                assert_eq!(reader.remaining() + read, chain.readable_len());
                let middle = usize::from(input.u16());
                assert_eq!(
                    reader.split_at(middle).is_ok(),
                    middle <= reader.remaining()
                );
                let mut writer = chain.writer();
                let wrote = writer.write(&part);
                assert_eq!(writer.remaining() + wrote, chain.writable_len());
                held.push(chain);
            }
        }
        assert!(queue.in_flight() <= queue.size());
        assert_eq!(queue.failed(), health.failure().is_some());
    }
    assert_eq!(queue.state().size, state.size);
}
