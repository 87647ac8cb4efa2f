//! Compressed layers, from their first byte to EROFS.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| bulkhead_image::fuzz::layer(data));
