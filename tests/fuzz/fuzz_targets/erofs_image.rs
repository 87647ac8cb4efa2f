//! Damaged images into the EROFS reader.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| bulkhead_erofs::fuzz::image(data));
