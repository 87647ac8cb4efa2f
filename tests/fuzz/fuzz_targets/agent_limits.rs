//! Limits that a container is changed to.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| bulkhead_agent::fuzz::limits(data));
