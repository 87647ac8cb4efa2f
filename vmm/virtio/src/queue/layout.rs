//! What a queue's set-up must satisfy before a worker may use it.

use virtio_queue::{Queue as Ring, QueueT};
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use crate::device::QueueState;

/// Why a queue cannot be used as the driver set it up.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadLayout {
    #[error("it is not enabled")]
    NotReady,
    #[error("size {size} is not a power of two of at most {max}")]
    Size { size: u16, max: u16 },
    #[error("the {part} at {address:#x} is null or not aligned to {alignment} bytes")]
    Alignment {
        part: &'static str,
        address: u64,
        alignment: u64,
    },
    #[error("the {part} at {address:#x}, {len} bytes, is not in guest memory")]
    Memory {
        part: &'static str,
        address: u64,
        len: usize,
    },
    #[error("{in_flight} chains in flight are more than its size")]
    InFlight { in_flight: u16 },
    #[error("the ring refuses it: {0}")]
    Ring(String),
}

/// Checks `state` and makes it a ring; with it, how many chains are in flight (none, but
/// for a queue that had failed before it was saved).
pub(super) fn ring(
    state: &QueueState,
    memory: &GuestMemoryMmap<()>,
    max_size: u16,
    event_idx: bool,
) -> Result<(Ring, u16), BadLayout> {
    if !state.ready {
        return Err(BadLayout::NotReady);
    }
    let size = state.size;
    if !size.is_power_of_two() || size > max_size {
        return Err(BadLayout::Size {
            size,
            max: max_size,
        });
    }
    // Sizes and alignments: 2.7. Each ring ends in two bytes for the event index (2.7.6, 2.7.8).
    let entries = usize::from(size);
    check(
        memory,
        "descriptor table",
        state.descriptors,
        16,
        16 * entries,
    )?;
    check(
        memory,
        "available ring",
        state.available,
        2,
        6 + 2 * entries,
    )?;
    check(memory, "used ring", state.used, 4, 6 + 8 * entries)?;

    let in_flight = state.next_available.wrapping_sub(state.next_used);
    if in_flight > size {
        return Err(BadLayout::InFlight { in_flight });
    }

    let refused = |error: virtio_queue::Error| BadLayout::Ring(error.to_string());
    let mut ring = Ring::new(max_size).map_err(refused)?;
    ring.try_set_size(size).map_err(refused)?;
    ring.try_set_desc_table_address(GuestAddress(state.descriptors))
        .map_err(refused)?;
    ring.try_set_avail_ring_address(GuestAddress(state.available))
        .map_err(refused)?;
    ring.try_set_used_ring_address(GuestAddress(state.used))
        .map_err(refused)?;
    ring.set_event_idx(event_idx);
    ring.set_next_avail(state.next_available);
    ring.set_next_used(state.next_used);
    ring.set_ready(true);
    Ok((ring, in_flight))
}

fn check(
    memory: &GuestMemoryMmap<()>,
    part: &'static str,
    address: u64,
    alignment: u64,
    len: usize,
) -> Result<(), BadLayout> {
    if address == 0 || !address.is_multiple_of(alignment) {
        return Err(BadLayout::Alignment {
            part,
            address,
            alignment,
        });
    }
    // One region: a ring is never split between two mappings.
    memory
        .get_slice(GuestAddress(address), len)
        .map(|_| ())
        .map_err(|_| BadLayout::Memory { part, address, len })
}
