//! Whole-node tests, run inside the test host.

fn main() {}
