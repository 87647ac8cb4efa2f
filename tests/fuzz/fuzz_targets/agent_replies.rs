//! What a hostile guest answers the daemon.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| bulkhead_sandbox::fuzz::agent_replies(data));
