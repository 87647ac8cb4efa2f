//! Seccomp profiles, compiled to BPF.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| bulkhead_agent::fuzz::seccomp_profile(data));
