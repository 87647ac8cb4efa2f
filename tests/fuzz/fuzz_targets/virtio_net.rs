//! Frames and chains of the network card.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| bulkhead_virtio::fuzzing::net(data));
