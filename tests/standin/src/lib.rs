//! A VMM and an agent that keep the contracts without a virtual machine: the
//! "guest" is this process, its containers are shell commands of this machine.
//!
//! The daemon starts it like a VMM and can't tell the difference: control, ready
//! notice, agent calls and stdio streams come over the same unix sockets. It boots
//! in milliseconds and weighs little, so that tests can have thousands of pods. How
//! it misbehaves is asked for by a word on the kernel command line, `standin.…`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a daemon that breaks a contract ends it, and so fails the test"
)]

mod agent;
mod vmm;

/// Serves as the daemon's VMM until it is told to stop. `arguments` are the
/// program's, without its name.
pub fn serve(arguments: &[String]) -> ! {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(vmm::run(arguments))
}
