//! Guest agent: PID 1 of a pod's microVM.

fn main() {}
