//! Requests to the entropy source.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| bulkhead_virtio::fuzzing::rng(data));
