//! OCI specifications, as the agent completes them.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| bulkhead_agent::fuzz::oci_spec(data));
