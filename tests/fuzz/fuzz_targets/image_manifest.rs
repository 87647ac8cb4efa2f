//! Image indexes, manifests and configurations.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| bulkhead_image::fuzz::manifests(data));
