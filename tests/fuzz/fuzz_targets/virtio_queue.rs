//! The queue accessor over arbitrary guest memory.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| bulkhead_virtio::fuzzing::queue(data));
