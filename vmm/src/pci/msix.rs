//! MSI-X (PCI 3.0, section 6.8.2): a table of vectors, each an interrupt message that
//! can be masked, and an array of pending bits.
//!
//! A vector's message goes to KVM when the vector is first usable (MSI-X enabled,
//! function and vector unmasked) and again when it has changed. While it is masked,
//! interrupts are kept as its pending bit and sent when the mask goes.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
};

use serde::{Deserialize, Serialize};
use vmm_sys_util::eventfd::{EFD_CLOEXEC, EFD_NONBLOCK, EventFd};

use super::{read_registers, value};
use crate::irq::{Events, Gsi, Message};

/// Bytes of a table entry.
pub const ENTRY_SIZE: usize = 16;
/// Most vectors of one function: the table's room in the BAR.
pub const MAX_VECTORS: usize = 128;

const ENABLE: u16 = 1 << 15;
const FUNCTION_MASK: u16 = 1 << 14;

/// A vector as devices see it.
#[derive(Debug)]
pub struct Vector {
    fd: EventFd,
    masked: AtomicBool,
    pending: AtomicBool,
}

impl Vector {
    fn new() -> io::Result<Self> {
        Ok(Self {
            fd: EventFd::new(EFD_NONBLOCK | EFD_CLOEXEC)?,
            masked: AtomicBool::new(true),
            pending: AtomicBool::new(false),
        })
    }

    /// Sends the interrupt, or notes it while the vector is masked.
    pub fn trigger(&self) {
        if self.masked.load(SeqCst) {
            self.pending.store(true, SeqCst);
            // The mask may have gone in between, without seeing the pending bit.
            if self.masked.load(SeqCst) || !self.pending.swap(false, SeqCst) {
                return;
            }
        }
        // Fails only when 2^64 - 2 interrupts are waiting: one is as good as many.
        let _ = self.fd.write(1);
    }

    fn set_masked(&self, masked: bool) {
        self.masked.store(masked, SeqCst);
        if !masked && self.pending.swap(false, SeqCst) {
            let _ = self.fd.write(1);
        }
    }
}

/// One entry of the table, as the driver wrote it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    message: Message,
    masked: bool,
}

/// What of the table is saved.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MsixState {
    control: u16,
    entries: Vec<(Message, bool)>,
    pending: Vec<bool>,
}

/// The table of one function.
#[derive(Debug)]
pub struct Msix {
    events: Arc<dyn Events>,
    vectors: Vec<Arc<Vector>>,
    entries: Vec<Entry>,
    /// What KVM was told: the GSI and the message.
    routes: Vec<Option<(Gsi, Message)>>,
    enabled: bool,
    function_masked: bool,
}

impl Msix {
    /// A table of `count` masked vectors.
    ///
    /// # Errors
    /// When the host gives no eventfd, or `count` is 0 or above [`MAX_VECTORS`].
    pub fn new(count: usize, events: Arc<dyn Events>) -> io::Result<Self> {
        if count == 0 || count > MAX_VECTORS {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{count} MSI-X vectors, at most {MAX_VECTORS} fit"),
            ));
        }
        let masked = Entry {
            message: Message::default(),
            masked: true,
        };
        Ok(Self {
            events,
            vectors: (0..count)
                .map(|_| Vector::new().map(Arc::new))
                .collect::<io::Result<_>>()?,
            entries: vec![masked; count],
            routes: vec![None; count],
            enabled: false,
            function_masked: false,
        })
    }

    /// The body of the capability and what of it is writable.
    #[must_use]
    pub fn capability(&self, bar: u8, table: u32, pending: u32) -> ([u8; 10], [u8; 2]) {
        let size = u16::try_from(self.entries.len() - 1).unwrap_or(0);
        let mut body = [0; 10];
        body[..2].copy_from_slice(&size.to_le_bytes());
        body[2..6].copy_from_slice(&(table | u32::from(bar)).to_le_bytes());
        body[6..].copy_from_slice(&(pending | u32::from(bar)).to_le_bytes());
        (body, (ENABLE | FUNCTION_MASK).to_le_bytes())
    }

    /// A vector by number; `None` for "no vector" and numbers past the table.
    #[must_use]
    pub fn vector(&self, number: u16) -> Option<Arc<Vector>> {
        self.vectors.get(usize::from(number)).cloned()
    }

    /// Number of vectors.
    #[must_use]
    pub fn len(&self) -> u16 {
        u16::try_from(self.entries.len()).unwrap_or(u16::MAX)
    }

    /// Whether there is no vector; there always is one.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether the driver enabled MSI-X.
    #[must_use]
    pub fn enabled(&self) -> bool {
        self.enabled
    }

    /// The driver wrote the capability's control word.
    pub fn set_control(&mut self, control: u16) {
        self.enabled = control & ENABLE != 0;
        self.function_masked = control & FUNCTION_MASK != 0;
        for index in 0..self.entries.len() {
            self.update(index);
        }
    }

    /// The control word as the driver left it, without the read-only size.
    #[must_use]
    pub fn save_control(&self) -> u16 {
        (if self.enabled { ENABLE } else { 0 })
            | (if self.function_masked {
                FUNCTION_MASK
            } else {
                0
            })
    }

    /// Reads the table.
    pub fn read_table(&self, offset: usize, data: &mut [u8]) {
        let Some(entry) = self.entries.get(offset / ENTRY_SIZE) else {
            data.fill(0xff);
            return;
        };
        let mut bytes = [0; ENTRY_SIZE];
        bytes[..8].copy_from_slice(&entry.message.address.to_le_bytes());
        bytes[8..12].copy_from_slice(&entry.message.data.to_le_bytes());
        bytes[12..].copy_from_slice(&u32::from(entry.masked).to_le_bytes());
        read_registers(&bytes, offset % ENTRY_SIZE, data);
    }

    /// Writes the table: whole aligned words or double words only, as the
    /// specification demands of software; others are ignored.
    pub fn write_table(&mut self, offset: usize, data: &[u8]) {
        let index = offset / ENTRY_SIZE;
        let Some(entry) = self.entries.get_mut(index) else {
            return;
        };
        let word = |at: usize| u32::try_from(value(data.get(at..at + 4)?)).ok();
        let mut write = |at: usize, word: u32| {
            let address = entry.message.address;
            match at {
                0 => entry.message.address = address >> 32 << 32 | u64::from(word),
                4 => entry.message.address = u64::from(word) << 32 | address & 0xffff_ffff,
                8 => entry.message.data = word,
                _ => entry.masked = word & 1 != 0,
            }
        };
        match (offset % ENTRY_SIZE, data.len()) {
            (at @ (0 | 4 | 8 | 12), 4) | (at @ (0 | 8), 8) => {
                for (place, from) in [(at, 0), (at + 4, 4)] {
                    if let Some(word) = word(from) {
                        write(place, word);
                    }
                }
            }
            _ => return,
        }
        self.update(index);
    }

    /// Reads the pending bits.
    pub fn read_pending(&self, offset: usize, data: &mut [u8]) {
        let mut bits = [0u8; MAX_VECTORS / 8];
        for (index, vector) in self.vectors.iter().enumerate() {
            if vector.pending.load(SeqCst)
                && let Some(byte) = bits.get_mut(index / 8)
            {
                *byte |= 1 << (index % 8);
            }
        }
        read_registers(&bits, offset, data);
    }

    /// Brings one vector's route and mask in line with its entry.
    fn update(&mut self, index: usize) {
        let (Some(entry), Some(vector), Some(route)) = (
            self.entries.get(index),
            self.vectors.get(index),
            self.routes.get_mut(index),
        ) else {
            return;
        };
        let masked = !self.enabled || self.function_masked || entry.masked;
        if !masked && route.map(|(_, message)| message) != Some(entry.message) {
            let gsi = route.map(|(gsi, _)| gsi);
            match self.events.route(gsi, &vector.fd, entry.message) {
                Ok(gsi) => *route = Some((gsi, entry.message)),
                Err(error) => {
                    tracing::error!(index, %error, "cannot route an interrupt; it stays masked");
                    return;
                }
            }
        }
        vector.set_masked(masked);
    }

    /// What is needed to put the table back.
    #[must_use]
    pub fn save(&self) -> MsixState {
        MsixState {
            control: self.save_control(),
            entries: self.entries.iter().map(|e| (e.message, e.masked)).collect(),
            pending: self
                .vectors
                .iter()
                .map(|v| v.pending.load(SeqCst))
                .collect(),
        }
    }

    /// Puts a saved table back.
    ///
    /// # Errors
    /// `InvalidData` when it is of another size.
    pub fn restore(&mut self, state: &MsixState) -> io::Result<()> {
        if state.entries.len() != self.entries.len() || state.pending.len() != self.entries.len() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                format!(
                    "saved MSI-X table of {} vectors for a function of {}",
                    state.entries.len(),
                    self.entries.len()
                ),
            ));
        }
        for (entry, &(message, masked)) in self.entries.iter_mut().zip(&state.entries) {
            *entry = Entry { message, masked };
        }
        for (vector, &pending) in self.vectors.iter().zip(&state.pending) {
            vector.pending.store(pending, SeqCst);
        }
        self.set_control(state.control);
        Ok(())
    }
}

impl Drop for Msix {
    fn drop(&mut self) {
        for (vector, route) in self.vectors.iter().zip(&self.routes) {
            if let Some((gsi, _)) = route {
                self.events.unroute(*gsi, &vector.fd);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Call, RecordedEvents};

    fn table(count: usize) -> (Msix, Arc<RecordedEvents>) {
        let events = Arc::new(RecordedEvents::default());
        (Msix::new(count, events.clone()).unwrap(), events)
    }

    fn program(msix: &mut Msix, index: usize, data: u32) {
        let at = index * ENTRY_SIZE;
        msix.write_table(at, &0xfee0_0000u32.to_le_bytes());
        msix.write_table(at + 4, &0u32.to_le_bytes());
        msix.write_table(at + 8, &data.to_le_bytes());
        msix.write_table(at + 12, &0u32.to_le_bytes());
    }

    fn fired(msix: &Msix, index: u16) -> bool {
        msix.vector(index).unwrap().fd.read().is_ok()
    }

    #[test]
    fn a_vector_is_routed_once_it_is_usable() {
        let (mut msix, events) = table(3);
        program(&mut msix, 1, 0x41);
        assert_eq!(events.take(), []);
        msix.set_control(ENABLE);
        let message = Message {
            address: 0xfee0_0000,
            data: 0x41,
        };
        assert_eq!(events.take(), [Call::Route(None, message)]);
        // Masking and unmasking without a change asks nothing of KVM.
        msix.write_table(ENTRY_SIZE + 12, &1u32.to_le_bytes());
        msix.write_table(ENTRY_SIZE + 12, &0u32.to_le_bytes());
        assert_eq!(events.take(), []);
        msix.write_table(ENTRY_SIZE + 8, &0x42u32.to_le_bytes());
        assert!(matches!(
            events.take()[..],
            [Call::Route(Some(_), Message { data: 0x42, .. })]
        ));
        drop(msix);
        assert!(matches!(events.take()[..], [Call::Unroute(_)]));
    }

    #[test]
    fn a_masked_interrupt_is_pending_until_the_mask_goes() {
        let (mut msix, _) = table(2);
        program(&mut msix, 0, 1);
        msix.set_control(ENABLE | FUNCTION_MASK);
        msix.vector(0).unwrap().trigger();
        assert!(!fired(&msix, 0));
        let mut bits = [0; 8];
        msix.read_pending(0, &mut bits);
        assert_eq!(bits[0], 1);
        msix.set_control(ENABLE);
        assert!(fired(&msix, 0));
        msix.read_pending(0, &mut bits);
        assert_eq!(bits[0], 0);
        msix.vector(0).unwrap().trigger();
        assert!(fired(&msix, 0));
    }

    #[test]
    fn entries_read_as_written_in_both_widths() {
        let (mut msix, _) = table(2);
        msix.write_table(16, &0x1_2345_6789u64.to_le_bytes());
        msix.write_table(24, &0x0000_0001_0000_0055u64.to_le_bytes());
        let mut entry = [0; 16];
        msix.read_table(16, &mut entry);
        assert_eq!(entry[..8], 0x1_2345_6789u64.to_le_bytes());
        assert_eq!(entry[8..], [0x55, 0, 0, 0, 1, 0, 0, 0]);
        let mut past = [0; 4];
        msix.read_table(32, &mut past);
        assert_eq!(past, [0xff; 4]);
        msix.write_table(17, &[1, 2, 3, 4]);
        msix.write_table(usize::MAX, &[1, 2, 3, 4]);
        let mut again = [0; 16];
        msix.read_table(16, &mut again);
        assert_eq!(entry, again);
    }

    #[test]
    fn a_saved_table_is_routed_again() {
        let (mut msix, _) = table(2);
        program(&mut msix, 1, 0x77);
        msix.set_control(ENABLE | FUNCTION_MASK);
        msix.vector(1).unwrap().trigger();
        let saved = msix.save();
        let (mut restored, events) = table(2);
        restored.restore(&saved).unwrap();
        assert_eq!(events.take(), []);
        assert_eq!(restored.save(), saved);
        restored.set_control(ENABLE);
        assert_eq!(events.take().len(), 1);
        assert!(fired(&restored, 1));
        assert!(table(3).0.restore(&saved).is_err());
    }

    #[test]
    fn sizes_are_bounded() {
        let events = Arc::new(RecordedEvents::default());
        assert!(Msix::new(0, events.clone()).is_err());
        assert!(Msix::new(MAX_VECTORS + 1, events).is_err());
    }
}
