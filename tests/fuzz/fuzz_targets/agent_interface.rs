//! Addresses, routes and neighbours from the daemon.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| bulkhead_agent::fuzz::interface(data));
