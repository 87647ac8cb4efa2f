//! Headers of a registry's answers.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| bulkhead_registry::fuzz::headers(data));
