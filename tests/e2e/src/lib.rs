//! What whole-node tests and benchmarks share: a node under test, the requests
//! kubelet would send it, images made on the spot, and a look at what is left.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout)] // conformance reports as it goes
#![cfg_attr(test, allow(clippy::unwrap_used))] // a failed unwrap is a failed test

pub mod collector;
pub mod conformance;
pub mod image;
pub mod node;
pub mod pod;
pub mod world;
