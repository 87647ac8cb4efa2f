//! A log that a crash cut off.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| bulkhead_sandbox::fuzz::log_resume(data));
