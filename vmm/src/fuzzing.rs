//! Entry points for fuzzers: what a guest, the daemon's configuration and a handover
//! can feed this process. None may panic, hang or allocate without bound.

use std::sync::{Arc, OnceLock};

use crate::{
    config::Config,
    handover, layout,
    pci::{Devfn, Ecam, PciBus, VirtioFunction, virtio::Surroundings},
    testing::{FakeDevice, surroundings},
};

/// Most accesses of one run.
const MAX_ACCESSES: usize = 512;

/// A serialised `VmConfig`.
pub fn config(bytes: &[u8]) {
    let _ = Config::parse(bytes);
}

/// A handover message of `bytes` with `descriptors` descriptors.
pub fn handover(bytes: &[u8], descriptors: u8) {
    handover::fuzz_message(bytes, descriptors);
}

/// One for all inputs: a window is never unmapped, and a process's mappings run out.
fn shown() -> Option<&'static Arc<Ecam>> {
    static SHOWN: OnceLock<Option<Arc<Ecam>>> = OnceLock::new();
    SHOWN
        .get_or_init(|| Ecam::new().map(Arc::new).ok())
        .as_ref()
}

/// Accesses of a guest to a bus with two virtio functions: 12 bytes each, of which
/// the first says where and how wide, three are an offset and eight the value.
pub fn mmio(bytes: &[u8]) {
    let bus = PciBus::default();
    let Some(ecam) = shown() else {
        return;
    };
    for devfn in [Devfn(8), Devfn(9)] {
        let surroundings = Surroundings {
            ecam: Some(ecam.clone()),
            ..surroundings().0
        };
        let device = FakeDevice::named(&devfn.to_string()).0;
        if let Ok(function) = VirtioFunction::new(devfn, Box::new(device), surroundings) {
            bus.add(function);
        }
    }
    for access in bytes.chunks_exact(12).take(MAX_ACCESSES) {
        let &[what, low, middle, high, ref value @ ..] = access else {
            return;
        };
        let offset = u64::from(u32::from_le_bytes([low, middle, high, 0]));
        let base = match what & 7 {
            0 => layout::ECAM + 8 * layout::PAGE,
            1 => layout::ECAM + 9 * layout::PAGE,
            2 => layout::ECAM,
            3 => layout::bar(8),
            4 => layout::bar(9),
            5 => layout::PCI_WINDOW,
            6 => layout::HOLE_START,
            _ => u64::MAX - (1 << 24),
        };
        let width = 1usize << (what >> 3 & 3);
        let mut data: Vec<u8> = value.iter().copied().take(width).collect();
        if what & 0x80 != 0 {
            bus.mmio_write(base + offset, &data);
        } else {
            bus.mmio_read(base + offset, &mut data);
        }
    }
    // What is memory to the guest's reads is what exits would have told it. (The header:
    // one of the capabilities has a window into the BAR.)
    for devfn in [8, 9] {
        let shown = ecam.window().read(devfn);
        let page = layout::ECAM + layout::PAGE * devfn as u64;
        for (at, word) in (page..).step_by(4).zip(shown.chunks_exact(4)).take(16) {
            let mut read = [0; 4];
            bus.mmio_read(at, &mut read);
            assert_eq!(read, word, "{at:#x}");
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn arbitrary_accesses_are_survived(bytes in prop::collection::vec(any::<u8>(), 0..4096)) {
            mmio(&bytes);
        }

        #[test]
        fn arbitrary_handovers_are_survived(
            bytes in prop::collection::vec(any::<u8>(), 0..40),
            descriptors in 0u8..4,
        ) {
            handover(&bytes, descriptors);
        }
    }
}
