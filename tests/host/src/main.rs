//! The test host: a disposable machine with a usable KVM.

fn main() {}
