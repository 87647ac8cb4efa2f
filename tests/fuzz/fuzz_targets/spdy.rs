//! A SPDY connection.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| bulkhead_streaming::fuzz::spdy(data));
