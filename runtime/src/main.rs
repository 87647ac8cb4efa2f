//! Node daemon and command line of the Bulkhead container runtime.

fn main() {}
