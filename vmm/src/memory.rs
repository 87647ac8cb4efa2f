//! Guest RAM: private anonymous memory of this process, reserved but not committed.
//!
//! Each range begins on a 2 MiB boundary in host and guest alike, so the host may
//! back it by huge pages. Files can be mapped over parts of it ([`map_file`]): the
//! kernel image is then neither copied nor private to one VM, until the guest
//! writes to a page of it.

#![allow(unsafe_code)] // mmap, and wrapping what it returned

use std::{
    fs::File,
    io,
    os::fd::AsRawFd,
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

/// Replaces `len` bytes of guest RAM at the host address `target` by a private mapping
/// of `file` at `offset`. All three are whole pages.
///
/// The file must not be changed in place while the VM runs: replace it by rename.
///
/// # Errors
/// mmap's; `InvalidInput` for anything but whole pages.
///
/// # Safety
/// `target..target + len` must lie within memory from [`allocate`].
pub unsafe fn map_file(target: *mut u8, len: usize, file: &File, offset: u64) -> io::Result<()> {
    let page = layout::PAGE;
    let whole = (target.addr() as u64).is_multiple_of(page)
        && (len as u64).is_multiple_of(page)
        && offset.is_multiple_of(page);
    let Some(offset) = libc::off_t::try_from(offset).ok().filter(|_| whole) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    // SAFETY: by the caller's word this replaces pages of guest RAM, to which no Rust
    // reference ever points; contents change as if the guest had written them.
    let result = unsafe {
        libc::mmap(
            target.cast(),
            len,
            libc::PROT_READ | libc::PROT_WRITE,
            libc::MAP_PRIVATE | libc::MAP_FIXED | libc::MAP_NORESERVE,
            file.as_raw_fd(),
            offset,
        )
    };
    if result == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

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

    #[test]
    fn a_mapped_file_is_seen_and_not_written_through() {
        let memory = allocate(32 << 20).unwrap();
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[9; 8192]).unwrap();
        let target = memory.get_host_address(GuestAddress(4096)).unwrap();
        // SAFETY: two pages of the guest memory above.
        unsafe { map_file(target, 4096, &file, 4096) }.unwrap();
        assert_eq!(memory.read_obj::<u8>(GuestAddress(4096)).unwrap(), 9);
        memory.write_obj(1u8, GuestAddress(4096)).unwrap();
        let mut byte = [0];
        std::os::unix::fs::FileExt::read_exact_at(&file, &mut byte, 4096).unwrap();
        assert_eq!(byte, [9]);
        // SAFETY: refused before anything is mapped.
        assert!(unsafe { map_file(target, 100, &file, 0) }.is_err());
    }
}
