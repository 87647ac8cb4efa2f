//! Address space of this process that is put together, page by page, from pages of a file.

#![allow(unsafe_code)] // mmap at addresses that the window owns

use std::{
    fs::File,
    io,
    os::fd::AsRawFd as _,
    ptr::{self, NonNull},
};

/// Bytes of a page.
const PAGE: usize = 4096;

/// A range of address space, to be read only. It stays where it is for as long as the
/// process lives, whatever is mapped there: it may be a guest's memory.
#[derive(Debug)]
pub struct Window {
    base: NonNull<u8>,
    pages: usize,
}

// SAFETY: the window is a range of addresses. The kernel keeps changes of mappings apart.
unsafe impl Send for Window {}
// SAFETY: as above.
unsafe impl Sync for Window {}

impl Window {
    /// Reserves so many pages of address space. Nothing can be read there yet.
    ///
    /// # Errors
    /// mmap's.
    pub fn reserve(pages: usize) -> io::Result<Self> {
        let bytes = pages.checked_mul(PAGE).ok_or(io::ErrorKind::OutOfMemory)?;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        // SAFETY: a new mapping at an address that the kernel chooses.
        let base = unsafe { libc::mmap(ptr::null_mut(), bytes, libc::PROT_NONE, flags, -1, 0) };
        if base == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let base = NonNull::new(base.cast()).ok_or(io::ErrorKind::OutOfMemory)?;
        Ok(Self { base, pages })
    }

    /// From now on, `count` pages from `page` on show those of `file` from `from` on. Who
    /// reads meanwhile sees the old or the new.
    ///
    /// # Errors
    /// `InvalidInput` for pages outside of the window. Where mmap itself fails, the window
    /// may have a hole that another mapping could land in, for the guest to read: the
    /// process ends then.
    pub fn show(&self, page: usize, file: &File, from: usize, count: usize) -> io::Result<()> {
        let inside = page
            .checked_add(count)
            .is_some_and(|end| end <= self.pages && count > 0);
        let offset = from
            .checked_mul(PAGE)
            .and_then(|it| libc::off_t::try_from(it).ok());
        let (true, Some(offset)) = (inside, offset) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        // SAFETY: the range lies within the window, which nothing else in this process
        // uses; what is there of it may be unmapped.
        let mapped = unsafe {
            libc::mmap(
                self.base.as_ptr().add(page * PAGE).cast(),
                count * PAGE,
                libc::PROT_READ,
                libc::MAP_SHARED | libc::MAP_FIXED,
                file.as_raw_fd(),
                offset,
            )
        };
        if mapped == libc::MAP_FAILED {
            std::process::abort();
        }
        Ok(())
    }

    /// Where it begins in this process's address space.
    #[must_use]
    pub fn address(&self) -> u64 {
        self.base.addr().get() as u64
    }

    /// Its length in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        (self.pages * PAGE) as u64
    }

    /// What a guest would read of a page that is shown.
    #[cfg(any(test, feature = "fuzzing"))]
    pub fn read(&self, page: usize) -> [u8; PAGE] {
        assert!(page < self.pages);
        let mut bytes = [0; PAGE];
        for (at, byte) in bytes.iter_mut().enumerate() {
            // SAFETY: within the window; a page that isn't shown ends the test.
            *byte = unsafe { self.base.as_ptr().add(page * PAGE + at).read_volatile() };
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    #[test]
    fn pages_show_what_they_were_told_to_last() {
        let file = tempfile::tempfile().unwrap();
        file.write_all_at(&[1; PAGE], 0).unwrap();
        file.write_all_at(&[2; PAGE], PAGE as u64).unwrap();
        let window = Window::reserve(3).unwrap();
        assert_eq!(window.bytes(), 3 * PAGE as u64);
        window.show(0, &file, 0, 2).unwrap();
        window.show(2, &file, 0, 1).unwrap();
        assert_eq!([0, 1, 2].map(|page| window.read(page)[7]), [1, 2, 1]);
        window.show(0, &file, 1, 1).unwrap();
        assert_eq!([0, 1, 2].map(|page| window.read(page)[7]), [2, 2, 1]);
        // What is written to the file is seen.
        file.write_all_at(&[3; 8], PAGE as u64).unwrap();
        assert_eq!((window.read(0)[7], window.read(0)[8]), (3, 2));
    }

    #[test]
    fn nothing_outside_is_touched() {
        let file = tempfile::tempfile().unwrap();
        let window = Window::reserve(2).unwrap();
        for (page, from, count) in [
            (2, 0, 1),
            (1, 0, 2),
            (0, 0, 0),
            (usize::MAX, 0, 2),
            (0, usize::MAX, 1),
        ] {
            let error = window.show(page, &file, from, count).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        }
    }
}
