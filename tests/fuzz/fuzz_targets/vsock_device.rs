//! vsock packets in chains of any shape.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| bulkhead_virtio::fuzzing::vsock_device(data));
