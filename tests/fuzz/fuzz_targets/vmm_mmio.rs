//! What a guest does to the PCI bus and its devices' registers.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| bulkhead_vmm::fuzzing::mmio(data));
