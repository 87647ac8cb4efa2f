//! Layer tars into the EROFS writer.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| bulkhead_erofs::fuzz::archive(data));
