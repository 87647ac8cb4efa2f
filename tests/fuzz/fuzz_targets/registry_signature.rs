//! What lies beside a signature without a key.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| bulkhead_registry::fuzz::signature(data));
