//! Puts the kernel and the initramfs into guest memory.
//!
//! linux-loader parses the ELF file and reads each loadable segment to its place.
//! Its source is a file read by offset: the daemon passes one open file to many VMMs,
//! which share its position, so it must not be moved.
//!
//! The image is copied, not mapped. A private mapping of the file would share pages
//! between VMs, but Linux patches almost every page of its text while it boots
//! (alternatives, retpolines, static calls), and each patched page then costs a page
//! fault for the copy and one for the nested page table. Measured in the test host,
//! mapped: 7 to 11 s to the end of init, copied: 2.3 to 4.3 s, for 3 MiB less of
//! resident memory.

#![allow(unsafe_code)] // reading into guest memory

use std::{
    fs::File,
    io::{self, Read, Seek, SeekFrom},
    os::{fd::AsRawFd, unix::fs::FileExt},
};

use linux_loader::loader::{Elf, KernelLoader};
use vm_memory::{
    Bytes, GuestAddress, GuestMemoryBackend, ReadVolatile, VolatileMemoryError, VolatileSlice,
    bitmap::BitmapSlice,
};

use crate::layout;

/// Why a kernel or an initramfs cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// Not an ELF file for this processor.
    #[error("the kernel is not an uncompressed x86-64 vmlinux (ELF64): {0}")]
    NotVmlinux(&'static str),
    /// linux-loader refused it, or it is cut short.
    #[error("cannot load the kernel into {memory_bytes} bytes of guest memory: {source}")]
    Kernel {
        /// RAM of the VM.
        memory_bytes: u64,
        /// What went wrong.
        source: linux_loader::loader::Error,
    },
    /// A segment or the entry point is outside RAM, or below 1 MiB.
    #[error("the kernel occupies or enters {0:#x}, outside the RAM that is left for it")]
    OutsideRam(u64),
    /// The initramfs does not fit beside the kernel.
    #[error(
        "an initramfs of {len} bytes does not fit beside the kernel in {memory_bytes} bytes of memory"
    )]
    InitramfsTooLarge {
        /// Its length.
        len: u64,
        /// RAM of the VM.
        memory_bytes: u64,
    },
    /// Reading a file failed.
    #[error("cannot read the {what}: {source}")]
    Read {
        /// "kernel" or "initramfs".
        what: &'static str,
        /// The error.
        source: io::Error,
    },
}

/// A kernel in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadedKernel {
    /// Where to begin execution.
    pub entry: u64,
    /// First byte after the kernel's image, bss included.
    pub end: u64,
}

/// Loads a vmlinux.
///
/// # Errors
/// [`LoadError`]
pub fn load<M: GuestMemoryBackend>(
    guest: &M,
    memory_bytes: u64,
    file: File,
) -> Result<LoadedKernel, LoadError> {
    check_header(&file)?;
    let mut source = SharedFile::new(file).map_err(|source| LoadError::Read {
        what: "kernel",
        source,
    })?;
    let lowest = GuestAddress(layout::HIGH_RAM_START);
    let loaded =
        Elf::load(guest, None, &mut source, Some(lowest)).map_err(|source| LoadError::Kernel {
            memory_bytes,
            source,
        })?;
    let ram = layout::HIGH_RAM_START..memory_bytes.min(layout::HOLE_START);
    let entry = loaded.kernel_load.0;
    if !ram.contains(&entry) {
        return Err(LoadError::OutsideRam(entry));
    }
    if loaded.kernel_end > ram.end {
        return Err(LoadError::OutsideRam(loaded.kernel_end));
    }
    Ok(LoadedKernel {
        entry,
        end: loaded.kernel_end,
    })
}

/// Loads an initramfs at the end of low RAM: its address and length.
///
/// # Errors
/// [`LoadError`]
pub fn load_initramfs<M: GuestMemoryBackend>(
    guest: &M,
    memory_bytes: u64,
    kernel_end: u64,
    file: File,
) -> Result<(u32, u32), LoadError> {
    let read = |source| LoadError::Read {
        what: "initramfs",
        source,
    };
    let mut source = SharedFile::new(file).map_err(read)?;
    let len = source.len;
    let too_large = LoadError::InitramfsTooLarge { len, memory_bytes };
    let Some(address) = layout::initramfs(memory_bytes, len, kernel_end) else {
        return Err(too_large);
    };
    let (Ok(address32), Ok(len32), Ok(count)) = (
        u32::try_from(address),
        u32::try_from(len),
        usize::try_from(len),
    ) else {
        return Err(too_large);
    };
    guest
        .read_exact_volatile_from(GuestAddress(address), &mut source, count)
        .map_err(|e| read(io::Error::other(e)))?;
    Ok((address32, len32))
}

/// What linux-loader does not look at: class, machine, and that it is a program.
fn check_header(file: &File) -> Result<(), LoadError> {
    const EM_X86_64: u16 = 62;
    const ELFCLASS64: u8 = 2;
    let mut header = [0u8; 20];
    file.read_exact_at(&mut header, 0)
        .map_err(|_| LoadError::NotVmlinux("it is shorter than an ELF header"))?;
    if header[..4] != *b"\x7fELF" {
        return Err(LoadError::NotVmlinux(
            "it has no ELF magic; a bzImage must be unpacked first",
        ));
    }
    if header[4] != ELFCLASS64 {
        return Err(LoadError::NotVmlinux("it is a 32-bit ELF file"));
    }
    if u16::from_le_bytes([header[18], header[19]]) != EM_X86_64 {
        return Err(LoadError::NotVmlinux("it is for another processor"));
    }
    Ok(())
}

/// A file whose position others may move: read by offset.
struct SharedFile {
    file: File,
    len: u64,
    position: u64,
}

impl SharedFile {
    fn new(file: File) -> io::Result<Self> {
        let len = file.metadata()?.len();
        Ok(Self {
            file,
            len,
            position: 0,
        })
    }
}

impl Read for SharedFile {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buf, self.position)?;
        self.position += read as u64;
        Ok(read)
    }
}

impl Seek for SharedFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(offset) => Some(offset),
            SeekFrom::Current(offset) => self.position.checked_add_signed(offset),
            SeekFrom::End(offset) => self.len.checked_add_signed(offset),
        };
        self.position = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.position)
    }
}

impl ReadVolatile for SharedFile {
    /// Fills the slice, or reads to the end of the file.
    fn read_volatile<B: BitmapSlice>(
        &mut self,
        buf: &mut VolatileSlice<'_, B>,
    ) -> Result<usize, VolatileMemoryError> {
        let failed = VolatileMemoryError::IOError;
        let guard = buf.ptr_guard_mut();
        let mut done = 0;
        while done < buf.len() {
            let offset = libc::off_t::try_from(self.position)
                .map_err(|_| failed(io::ErrorKind::InvalidInput.into()))?;
            // SAFETY: `done` is below the slice's length, and the kernel writes at most
            // the rest of it. Guest memory is never behind a Rust reference.
            let read = unsafe {
                libc::pread(
                    self.file.as_raw_fd(),
                    guard.as_ptr().add(done).cast(),
                    buf.len() - done,
                    offset,
                )
            };
            match usize::try_from(read) {
                Ok(0) => break,
                Ok(read) => {
                    done += read;
                    self.position += read as u64;
                }
                Err(_) => match io::Error::last_os_error() {
                    error if error.kind() == io::ErrorKind::Interrupted => {}
                    error => return Err(failed(error)),
                },
            }
        }
        buf.bitmap().mark_dirty(0, done);
        Ok(done)
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;
    use crate::memory;

    const RAM: u64 = 32 << 20;

    /// An ELF64 file with one segment of `data` for `paddr`, at file offset 4096.
    fn vmlinux(paddr: u64, entry: u64, memsz: u64, data: &[u8]) -> File {
        let mut elf = vec![0u8; 4096];
        elf[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\x00");
        elf[16..20].copy_from_slice(&[2, 0, 62, 0]);
        elf[24..32].copy_from_slice(&entry.to_le_bytes());
        elf[32..40].copy_from_slice(&64u64.to_le_bytes());
        elf[52..58].copy_from_slice(&[64, 0, 56, 0, 1, 0]);
        elf[64..72].copy_from_slice(&[1, 0, 0, 0, 7, 0, 0, 0]);
        let fields = [4096, paddr, paddr, data.len() as u64, memsz, 4096];
        for (at, value) in (72..).step_by(8).zip(fields) {
            elf[at..at + 8].copy_from_slice(&value.to_le_bytes());
        }
        elf.extend_from_slice(data);
        file(&elf)
    }

    fn file(bytes: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(bytes).unwrap();
        file
    }

    #[test]
    fn a_kernel_is_where_its_headers_say() {
        let memory = memory::allocate(RAM).unwrap();
        let data: Vec<u8> = (0..10_000u32).map(|n| n.to_le_bytes()[0] | 1).collect();
        let file = vmlinux(16 << 20, (16 << 20) + 16, 20_000, &data);
        let loaded = load(memory.as_ref(), RAM, file).unwrap();
        assert_eq!(loaded.entry, (16 << 20) + 16);
        assert_eq!(loaded.end, (16 << 20) + 20_000);
        let mut seen = vec![0; 20_000];
        memory
            .read_slice(&mut seen, GuestAddress(16 << 20))
            .unwrap();
        assert_eq!(seen[..10_000], data);
        assert!(seen[10_000..].iter().all(|&b| b == 0), "bss is not zero");
    }

    #[test]
    fn an_unaligned_segment_is_fine() {
        let memory = memory::allocate(RAM).unwrap();
        let file = vmlinux((16 << 20) + 8, 16 << 20, 5000, &[7; 5000]);
        load(memory.as_ref(), RAM, file).unwrap();
        let last = GuestAddress((16 << 20) + 8 + 4999);
        assert_eq!(memory.read_obj::<u8>(last).unwrap(), 7);
    }

    #[test]
    fn a_shared_position_is_left_alone() {
        let memory = memory::allocate(RAM).unwrap();
        let mut file = vmlinux(16 << 20, 16 << 20, 64, &[1; 64]);
        file.seek(SeekFrom::Start(17)).unwrap();
        let shared = file.try_clone().unwrap();
        load(memory.as_ref(), RAM, shared).unwrap();
        assert_eq!(file.stream_position().unwrap(), 17);
    }

    #[test]
    fn bad_kernels_are_refused_by_name() {
        let memory = memory::allocate(RAM).unwrap();
        let load = |file| load(memory.as_ref(), RAM, file).unwrap_err();
        assert!(matches!(load(file(b"MZ")), LoadError::NotVmlinux(_)));
        assert!(matches!(load(file(&[0; 64])), LoadError::NotVmlinux(_)));
        let mut other = vec![0; 64];
        other[..5].copy_from_slice(b"\x7fELF\x01");
        assert!(matches!(load(file(&other)), LoadError::NotVmlinux(_)));
        // Entry below 1 MiB, a segment past RAM, bss past RAM, a wrapping size.
        let data = [1; 64];
        assert!(matches!(
            load(vmlinux(16 << 20, 4096, 64, &data)),
            LoadError::Kernel { .. }
        ));
        assert!(matches!(
            load(vmlinux(RAM, 16 << 20, 64, &data)),
            LoadError::Kernel { .. }
        ));
        assert!(matches!(
            load(vmlinux(16 << 20, 16 << 20, RAM, &data)),
            LoadError::OutsideRam(_)
        ));
        assert!(matches!(
            load(vmlinux(16 << 20, 16 << 20, u64::MAX, &data)),
            LoadError::Kernel { .. }
        ));
        assert!(matches!(
            load(vmlinux(16 << 20, RAM + 1, 64, &data)),
            LoadError::OutsideRam(_)
        ));
    }

    #[test]
    fn an_initramfs_ends_low_memory() {
        let memory = memory::allocate(RAM).unwrap();
        let (address, len) =
            load_initramfs(memory.as_ref(), RAM, 20 << 20, file(&[5; 5000])).unwrap();
        assert_eq!((u64::from(address), len), (RAM - 8192, 5000));
        assert_eq!(
            memory
                .read_obj::<u8>(GuestAddress(RAM - 8192 + 4999))
                .unwrap(),
            5
        );
        let big = tempfile::tempfile().unwrap();
        big.set_len(RAM).unwrap();
        assert!(matches!(
            load_initramfs(memory.as_ref(), RAM, 20 << 20, big),
            Err(LoadError::InitramfsTooLarge { .. })
        ));
    }
}
