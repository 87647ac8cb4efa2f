//! Output of the console.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| bulkhead_virtio::fuzzing::console(data));
