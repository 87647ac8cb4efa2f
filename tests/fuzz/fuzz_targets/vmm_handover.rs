//! Messages that hand descriptors to a running VMM.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: (u8, Vec<u8>)| bulkhead_vmm::fuzzing::handover(&data.1, data.0 % 4));
