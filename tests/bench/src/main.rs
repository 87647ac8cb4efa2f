//! Benchmarks, run inside the test host.

fn main() {}
