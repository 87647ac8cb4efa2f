//! Frames of a process's streams.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| drop(bulkhead_agent_api::stdio::Frame::decode(data)));
