//! Text files of the kernel that become figures.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| bulkhead_agent::fuzz::statistics(data));
