//! SPDY header blocks.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| bulkhead_streaming::fuzz::spdy_headers(data));
