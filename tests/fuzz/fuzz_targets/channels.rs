//! Messages of a WebSocket with channels.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| bulkhead_streaming::fuzz::channels(data));
