//! Configuration spaces as memory that the guest reads.
//!
//! A scan of the bus reads some hundreds of registers. They would be an exit to this
//! process each; instead the guest is shown memory at the ECAM's address:
//!
//! ```text
//!   guest     ECAM, a page for each function of bus 0
//!               │  KVM: read-only memory; writes are exits
//!   Window    256 pages of this process's address space
//!               │  mmap
//!   memfd     8 pages of ones │ page of function 0 │ page of function 1 │ …
//! ```
//!
//! Where there is no function, the window shows ones. A function appears and disappears
//! by one change of a mapping, so that a scan finds it whole or not at all. What a write
//! changes is changed in its page before the vCPU goes on.
//!
//! One register can't be memory: the data of virtio's PCI access capability (virtio 1.3,
//! section 4.1.4.9) is another register of the device, read at that moment. Firmware uses
//! it, Linux doesn't. A guest that does has its reads exit from then on
//! ([`Ecam::give_up`]).

use std::{
    fs::File,
    io,
    os::unix::fs::FileExt as _,
    sync::{Mutex, PoisonError, atomic::Ordering},
};

use rustix::fs::{MemfdFlags, memfd_create};
use vm_memory::{Bytes as _, FileOffset, MmapRegion, VolatileMemory as _};

use super::{Devfn, config_space::SIZE};
use crate::window::Window;

const FUNCTIONS: usize = 256;
const PAGE: usize = 4096;
/// Pages of ones at the file's beginning: as many as a device has functions, so that an
/// empty bus is made of 32 mappings.
const ONES: usize = 8;

/// Takes the memory away from the guest again.
pub type Withdraw = Box<dyn FnOnce() -> io::Result<()> + Send>;

/// What the guest reads of bus 0.
pub struct Ecam {
    file: File,
    /// The functions' pages of the file, to be written.
    pages: MmapRegion,
    window: Window,
    withdraw: Mutex<Option<Withdraw>>,
}

impl std::fmt::Debug for Ecam {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ecam")
            .field("window", &self.window)
            .finish_non_exhaustive()
    }
}

impl Ecam {
    /// An empty bus, which no guest sees yet.
    ///
    /// # Errors
    /// When the host gives no memory.
    pub fn new() -> io::Result<Self> {
        let file = File::from(memfd_create(c"ecam", MemfdFlags::CLOEXEC)?);
        file.set_len(((ONES + FUNCTIONS) * PAGE) as u64)?;
        file.write_all_at(&[0xff; ONES * PAGE], 0)?;
        let functions = FileOffset::new(file.try_clone()?, (ONES * PAGE) as u64);
        let pages = MmapRegion::from_file(functions, FUNCTIONS * PAGE).map_err(io::Error::other)?;
        let window = Window::reserve(FUNCTIONS)?;
        for device in (0..FUNCTIONS).step_by(ONES) {
            window.show(device, &file, 0, ONES)?;
        }
        Ok(Self {
            file,
            pages,
            window,
            withdraw: Mutex::default(),
        })
    }

    /// The memory that a guest is to be shown.
    #[must_use]
    pub fn window(&self) -> &Window {
        &self.window
    }

    /// A guest is shown the window; this is how to take it away.
    pub fn shown(&self, withdraw: Withdraw) {
        *self.lock() = Some(withdraw);
    }

    /// Makes a function appear.
    pub fn appear(&self, devfn: Devfn, registers: &[u8; SIZE]) {
        let index = usize::from(devfn.0);
        self.write(devfn, registers);
        self.or_give_up(self.window.show(index, &self.file, ONES + index, 1));
    }

    /// A function's registers have changed.
    pub fn write(&self, devfn: Devfn, registers: &[u8; SIZE]) {
        let page = usize::from(devfn.0) * PAGE;
        let written = self.pages.get_slice(page, SIZE).map(|page| {
            for (at, register) in registers.chunks_exact(4).enumerate() {
                let value = <[u8; 4]>::try_from(register).map(u32::from_ne_bytes);
                // Nobody sees half of a register.
                let _ = page.store(value.unwrap_or_default(), at * 4, Ordering::Release);
            }
        });
        self.or_give_up(written.map_err(io::Error::other));
    }

    /// Makes a function disappear.
    pub fn disappear(&self, devfn: Devfn) {
        self.or_give_up(self.window.show(usize::from(devfn.0), &self.file, 0, 1));
    }

    /// From now on the guest's reads are exits. Not for a vCPU's thread: its filter
    /// doesn't let it change the guest's memory.
    pub fn give_up(&self) {
        let Some(withdraw) = self.lock().take() else {
            return;
        };
        match withdraw() {
            Ok(()) => tracing::info!("configuration space is read by exits from now on"),
            Err(error) => tracing::error!(%error, "cannot withdraw the configuration space"),
        }
    }

    fn or_give_up(&self, outcome: io::Result<()>) {
        if let Err(error) = outcome {
            tracing::warn!(%error, "cannot show the guest a configuration space");
            self.give_up();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Withdraw>> {
        self.withdraw.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering::SeqCst},
    };

    use super::*;

    #[test]
    fn functions_appear_and_disappear_whole() {
        let ecam = Ecam::new().unwrap();
        assert!((0..FUNCTIONS).all(|page| ecam.window.read(page) == [0xff; PAGE]));
        let mut registers = [7; SIZE];
        ecam.appear(Devfn(9), &registers);
        let page = ecam.window.read(9);
        assert_eq!(page[..SIZE], registers);
        assert_eq!(page[SIZE..], [0; PAGE - SIZE], "no extended capabilities");
        registers[4..8].copy_from_slice(&[1, 2, 3, 4]);
        ecam.write(Devfn(9), &registers);
        assert_eq!(ecam.window.read(9)[..SIZE], registers);
        assert_eq!(ecam.window.read(8), [0xff; PAGE]);
        assert_eq!(ecam.window.read(10), [0xff; PAGE]);
        ecam.disappear(Devfn(9));
        assert_eq!(ecam.window.read(9), [0xff; PAGE]);
        ecam.appear(Devfn(255), &registers);
        assert_eq!(ecam.window.read(255)[..SIZE], registers);
    }

    #[test]
    fn it_is_withdrawn_once() {
        let ecam = Ecam::new().unwrap();
        ecam.give_up();
        let count = Arc::new(AtomicU32::new(0));
        let counted = count.clone();
        ecam.shown(Box::new(move || {
            counted.fetch_add(1, SeqCst);
            Ok(())
        }));
        ecam.give_up();
        ecam.give_up();
        assert_eq!(count.load(SeqCst), 1);
    }
}
