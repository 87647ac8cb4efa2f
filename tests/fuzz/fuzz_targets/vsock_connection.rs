//! The state machine of one vsock connection.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| bulkhead_virtio::fuzzing::vsock_connection(data));
