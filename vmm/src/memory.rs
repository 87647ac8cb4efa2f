//! Guest RAM: private anonymous memory of this process, reserved but not committed.
//!
//! Each range begins on a 2 MiB boundary in host and guest alike, so the host may
//! back it by huge pages.

#![allow(unsafe_code)] // mmap, and wrapping what it returned

use std::{
    io,
    ptr::{self, NonNull},
    sync::Arc,
};

use bulkhead_virtio::device::Memory;
use vm_memory::{GuestAddress, GuestMemoryMmap, GuestRegionMmap, MmapRegion};

use crate::layout;

const HUGE_PAGE: usize = 2 << 20;

/// Why guest memory cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum MemoryError {
    /// The host refused the address space.
    #[error("cannot reserve {bytes} bytes of guest memory: {source}")]
    Reserve {
        /// How much was asked for.
        bytes: u64,
        /// mmap's error.
        source: io::Error,
    },
    /// The pieces do not make a guest memory.
    #[error("cannot assemble guest memory: {0}")]
    Assemble(String),
}

/// Reserves `bytes` of guest RAM, laid out by [`layout::ram`]. It is never unmapped:
/// it lives as long as the process.
///
/// # Errors
/// [`MemoryError`]
pub fn allocate(bytes: u64) -> Result<Memory, MemoryError> {
    let mut regions = Vec::new();
    for (start, len) in layout::ram(bytes) {
        let size = usize::try_from(len).map_err(|e| MemoryError::Assemble(e.to_string()))?;
        let base = reserve(size).map_err(|source| MemoryError::Reserve { bytes: len, source })?;
        // SAFETY: `base` is a fresh private mapping of at least `size` bytes that nothing
        // else uses and that is never unmapped.
        let region = unsafe {
            MmapRegion::build_raw(
                base.as_ptr(),
                size,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            )
        }
        .map_err(|e| MemoryError::Assemble(e.to_string()))?;
        regions.push(
            GuestRegionMmap::new(region, GuestAddress(start))
                .ok_or_else(|| MemoryError::Assemble("a region wraps around".into()))?,
        );
    }
    let memory =
        GuestMemoryMmap::from_regions(regions).map_err(|e| MemoryError::Assemble(e.to_string()))?;
    Ok(Arc::new(memory))
}

/// Maps `size` bytes of anonymous memory on a huge page's boundary. The slack on both
/// sides stays reserved: address space only.
fn reserve(size: usize) -> io::Result<NonNull<u8>> {
    let padded = size
        .checked_add(HUGE_PAGE)
        .ok_or(io::ErrorKind::OutOfMemory)?;
    // SAFETY: a new mapping at an address that the kernel chooses.
    let address = unsafe {
        libc::mmap(
            ptr::null_mut(),
            padded,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE,
            -1,
            0,
        )
    };
    if address == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    let address = address.cast::<u8>();
    let aligned = address.map_addr(|a| a.next_multiple_of(HUGE_PAGE));
    NonNull::new(aligned).ok_or_else(|| io::ErrorKind::OutOfMemory.into())
}

#[cfg(test)]
mod tests {
    use vm_memory::{Bytes, GuestMemoryBackend, GuestMemoryRegion};

    use super::*;

    #[test]
    fn ram_is_zero_aligned_and_writable() {
        let memory = allocate(64 << 20).unwrap();
        let host = memory.get_host_address(GuestAddress(0)).unwrap();
        assert_eq!(host.addr() % HUGE_PAGE, 0);
        let last = GuestAddress((64 << 20) - 8);
        assert_eq!(memory.read_obj::<u64>(last).unwrap(), 0);
        memory.write_obj(7u64, last).unwrap();
        assert_eq!(memory.read_obj::<u64>(last).unwrap(), 7);
        assert!(memory.read_obj::<u64>(GuestAddress(64 << 20)).is_err());
    }

    #[test]
    fn much_memory_goes_around_the_hole() {
        let memory = allocate(4 << 30).unwrap();
        let starts: Vec<_> = memory.iter().map(|r| r.start_addr().0).collect();
        assert_eq!(starts, [0, layout::HOLE_END]);
    }
}
