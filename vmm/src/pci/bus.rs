//! Bus 0: which function is where, and the dispatch of what vCPUs access.

use std::sync::{Arc, PoisonError, RwLock};

use super::{Devfn, VirtioFunction};
use crate::{
    kvm::Exit,
    layout::{self, Region},
};

/// Device 0 stays free, where a host bridge would be.
const FIRST: usize = 1 << 3;

/// Why a function cannot be added or removed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SlotError {
    /// All functions are taken.
    #[error("the bus is full: 31 devices of 8 functions")]
    Full,
    /// No function has this name.
    #[error("there is no {0}")]
    Unknown(String),
    /// Its driver still runs it.
    #[error("the guest's driver still runs {0}; remove it from the guest's bus first")]
    InUse(String),
}

/// The bus.
#[derive(Debug)]
pub struct PciBus {
    functions: RwLock<Vec<Option<Arc<VirtioFunction>>>>,
}

impl Default for PciBus {
    fn default() -> Self {
        Self {
            functions: RwLock::new(vec![None; 256]),
        }
    }
}

impl PciBus {
    /// The place that [`Self::add`] would fill next: the lowest free one. A scan looks
    /// at functions 1 to 7 of a device only if function 0 is there; the lowest place
    /// first means that function 0 is never the one missing for a newcomer.
    ///
    /// # Errors
    /// [`SlotError::Full`]
    pub fn next_free(&self) -> Result<Devfn, SlotError> {
        let functions = self.read();
        (FIRST..functions.len())
            .find(|&index| functions.get(index).is_some_and(Option::is_none))
            .and_then(|index| u8::try_from(index).ok())
            .map(Devfn)
            .ok_or(SlotError::Full)
    }

    /// Makes a function visible to the guest's next scan.
    pub fn add(&self, function: Arc<VirtioFunction>) {
        let index = usize::from(function.devfn().0);
        if let Some(place) = self.write().get_mut(index) {
            *place = Some(function.clone());
        }
        // Last: whoever sees it may write to it at once.
        function.appear();
    }

    /// Takes the function of the device `name` off the bus, if its driver let go.
    ///
    /// # Errors
    /// [`SlotError`]; the function then stays.
    pub fn remove(&self, name: &str) -> Result<(), SlotError> {
        let function = self
            .functions()
            .into_iter()
            .find(|function| function.name() == name)
            .ok_or_else(|| SlotError::Unknown(name.to_owned()))?;
        if !function.release() {
            return Err(SlotError::InUse(name.to_owned()));
        }
        function.disappear();
        if let Some(place) = self.write().get_mut(usize::from(function.devfn().0)) {
            *place = None;
        }
        // A driver that bound to it between the two steps finds its device gone.
        function.shut_down();
        Ok(())
    }

    /// All functions, by place.
    #[must_use]
    pub fn functions(&self) -> Vec<Arc<VirtioFunction>> {
        self.read().iter().flatten().cloned().collect()
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Vec<Option<Arc<VirtioFunction>>>> {
        self.functions
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Vec<Option<Arc<VirtioFunction>>>> {
        self.functions
            .write()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn function(&self, devfn: u8) -> Option<Arc<VirtioFunction>> {
        self.read().get(usize::from(devfn)).cloned().flatten()
    }

    /// The function whose BAR answers at `base`: in its own slot as a rule.
    fn function_with_bar(&self, base: u64) -> Option<Arc<VirtioFunction>> {
        let functions = self.read();
        let answers = |function: &&Arc<VirtioFunction>| function.answers(base);
        let slot = usize::try_from((base - layout::PCI_WINDOW) / layout::BAR_SIZE).ok()?;
        let own = functions.get(slot).and_then(Option::as_ref).filter(answers);
        own.or_else(|| functions.iter().flatten().find(answers))
            .cloned()
    }

    /// A vCPU reads `data.len()` bytes at a guest-physical address outside RAM. What
    /// nothing answers reads as all ones.
    pub fn mmio_read(&self, address: u64, data: &mut [u8]) -> Exit {
        match layout::region(address) {
            Region::Ecam { devfn, offset } => match self.function(devfn) {
                Some(function) => {
                    function.config_read(usize::try_from(offset).unwrap_or(usize::MAX), data)
                }
                None => {
                    data.fill(0xff);
                    Exit::EcamRead
                }
            },
            Region::Bar { base, offset } => match self.function_with_bar(base) {
                Some(function) => function.bar_read(offset, data),
                None => {
                    data.fill(0xff);
                    Exit::MmioUnknownRead
                }
            },
            Region::Unknown => {
                data.fill(0xff);
                Exit::MmioUnknownRead
            }
        }
    }

    /// A vCPU writes at a guest-physical address outside RAM.
    pub fn mmio_write(&self, address: u64, data: &[u8]) -> Exit {
        match layout::region(address) {
            Region::Ecam { devfn, offset } => match self.function(devfn) {
                Some(function) => {
                    function.config_write(usize::try_from(offset).unwrap_or(usize::MAX), data)
                }
                None => Exit::EcamWrite,
            },
            Region::Bar { base, offset } => match self.function_with_bar(base) {
                Some(function) => function.bar_write(offset, data),
                None => Exit::MmioUnknownWrite,
            },
            Region::Unknown => Exit::MmioUnknownWrite,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;
    use crate::{
        layout::ECAM,
        pci::{Ecam, virtio::Surroundings},
        testing::{FakeDevice, function_at, surroundings},
    };

    fn vendor(bus: &PciBus, devfn: u64) -> u32 {
        let mut data = [0; 4];
        bus.mmio_read(ECAM + devfn * 4096, &mut data);
        u32::from_le_bytes(data)
    }

    fn fill(bus: &PciBus, count: usize) {
        for _ in 0..count {
            let devfn = bus.next_free().unwrap();
            bus.add(function_at(devfn, &format!("blk {devfn}")));
        }
    }

    #[test]
    fn functions_are_packed_and_places_reused() {
        let bus = PciBus::default();
        fill(&bus, 10);
        assert_eq!(bus.next_free(), Ok(Devfn(0x12)));
        assert_eq!(vendor(&bus, 0), u32::MAX);
        assert_eq!(vendor(&bus, 8), 0x1042_1af4);
        assert_eq!(vendor(&bus, 0x11), 0x1042_1af4);
        assert_eq!(vendor(&bus, 0x12), u32::MAX);
        bus.remove("blk 00:01.0").unwrap();
        assert_eq!(vendor(&bus, 8), u32::MAX);
        assert_eq!(bus.next_free(), Ok(Devfn(8)));
        assert_eq!(
            bus.remove("blk 00:01.0"),
            Err(SlotError::Unknown("blk 00:01.0".into()))
        );
    }

    #[test]
    fn the_bus_is_full_at_last() {
        let bus = PciBus::default();
        fill(&bus, crate::config::MAX_DEVICES);
        assert_eq!(bus.next_free(), Err(SlotError::Full));
    }

    #[test]
    fn a_moved_bar_is_found_where_it_went() {
        let bus = PciBus::default();
        fill(&bus, 2);
        let queues = |base: u64| {
            let mut data = [0; 2];
            bus.mmio_read(base + 0x12, &mut data);
            u16::from_le_bytes(data)
        };
        assert_eq!(
            (queues(layout::bar(8)), queues(layout::bar(0))),
            (2, 0xffff)
        );
        let config = ECAM + 8 * 4096;
        bus.mmio_write(config + 4, &[0, 0]);
        assert_eq!(queues(layout::bar(8)), 0xffff, "memory accesses are off");
        bus.mmio_write(config + 0x10, &4u32.to_le_bytes());
        bus.mmio_write(config + 4, &[2, 0]);
        assert_eq!(
            (queues(layout::bar(8)), queues(layout::bar(0))),
            (0xffff, 2)
        );
        assert_eq!(queues(layout::bar(9)), 2);
    }

    /// A bus whose functions tell an [`Ecam`].
    fn shown() -> (PciBus, Arc<Ecam>) {
        let ecam = Arc::new(Ecam::new().unwrap());
        let bus = PciBus::default();
        for devfn in [Devfn(8), Devfn(9)] {
            let surroundings = Surroundings {
                ecam: Some(ecam.clone()),
                ..surroundings().0
            };
            let device = FakeDevice::named(&format!("blk {devfn}")).0;
            bus.add(VirtioFunction::new(devfn, Box::new(device), surroundings).unwrap());
        }
        (bus, ecam)
    }

    /// What exits would read of all functions, and what is shown of them.
    fn both(bus: &PciBus, ecam: &Ecam) -> [Vec<u8>; 2] {
        let mut read = vec![0; 256 * 4096];
        for (address, bytes) in (ECAM..).step_by(8).zip(read.chunks_exact_mut(8)) {
            bus.mmio_read(address, bytes);
        }
        let shown = (0..256).flat_map(|page| ecam.window().read(page)).collect();
        [read, shown]
    }

    #[test]
    fn what_is_shown_is_what_reads_would_give() {
        let (bus, ecam) = shown();
        let same = |what: &str| {
            let [read, shown] = both(&bus, &ecam);
            assert!(read == shown, "{what}");
        };
        same("at first");
        let config = ECAM + 9 * 4096;
        bus.mmio_write(config + 0x10, &[0xff; 4]);
        same("a BAR being sized");
        bus.mmio_write(config + 0x10, &layout::bar(200).to_le_bytes());
        bus.mmio_write(config + 4, &[6, 4]);
        bus.mmio_write(config + 0x3c, &[11]);
        bus.mmio_write(config, &[0; 8]);
        same("a BAR that moved");
        let functions = bus.functions();
        let saved = functions[1].save();
        bus.mmio_write(config + 4, &[0, 0]);
        functions[1].restore(&saved).unwrap();
        same("restored");
        bus.remove("blk 00:01.1").unwrap();
        same("removed");
        assert_eq!(ecam.window().read(9), [0xff; 4096]);
    }

    #[test]
    fn a_guest_that_uses_the_access_capability_reads_by_exits() {
        let (bus, ecam) = shown();
        let withdrawn = Arc::new(AtomicU32::new(0));
        let counted = withdrawn.clone();
        ecam.shown(Box::new(move || {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(())
        }));
        let config = ECAM + 8 * 4096;
        let byte = |at: u64| {
            let mut data = [0];
            bus.mmio_read(config + at, &mut data);
            u64::from(data[0])
        };
        // Vendor capabilities by their types (virtio 1.3, section 4.1.4): 5 is access.
        let mut at = byte(0x34);
        while (byte(at), byte(at + 3)) != (9, 5) {
            bus.mmio_write(config + at, &[0; 4]);
            at = byte(at + 1);
            assert_ne!(at, 0, "no such capability");
        }
        assert_eq!(withdrawn.load(Ordering::SeqCst), 0);
        bus.mmio_write(config + at + 8, &0x12u32.to_le_bytes());
        bus.mmio_write(config + at + 12, &1u32.to_le_bytes());
        assert_eq!(withdrawn.load(Ordering::SeqCst), 1);
        assert_eq!(byte(at + 16), 2, "the number of queues");
    }

    #[test]
    fn every_width_and_place_answers() {
        let bus = PciBus::default();
        fill(&bus, 1);
        for address in [
            0xc000_0000,
            ECAM,
            ECAM + 8 * 4096 + 0xffd,
            layout::bar(8) + 0x3fff,
            layout::bar(8) + 0x13,
            layout::bar(9),
            u64::MAX,
        ] {
            for width in [1usize, 2, 4, 8] {
                let mut data = vec![0; width];
                bus.mmio_read(address, &mut data);
                bus.mmio_write(address, &data);
            }
        }
        let mut data = [0; 8];
        bus.mmio_read(layout::bar(9), &mut data);
        assert_eq!(data, [0xff; 8]);
    }
}
