//! The configuration a VMM is started with.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| bulkhead_vmm::fuzzing::config(data));
