//! The virtual machine monitor: one process per pod.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use bulkhead_vmm::{
    config::Fd,
    machine,
    timings::{Milestone, Timings},
};
use bulkhead_vmm_api::{CONFIG_FD_FLAG, ExitReason};

fn main() -> ExitCode {
    let timings = Timings::default();
    timings.reached(Milestone::Main);
    tracing_subscriber::fmt()
        .with_writer(std::io::stderr)
        .with_ansi(false)
        .with_target(false)
        .with_max_level(level())
        .init();
    end_on_panic();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let config = match arguments.as_slice() {
        [flag, number] if *flag == CONFIG_FD_FLAG => number.parse().ok(),
        ["--version"] => {
            eprintln!("bulkhead-vmm {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        _ => None,
    };
    let reason = match config {
        Some(number) => machine::run(Fd(number), timings),
        None => {
            eprintln!(
                "usage: bulkhead-vmm {CONFIG_FD_FLAG} N\n\
                 Runs the virtual machine whose configuration (a serialised VmConfig) is at \
                 descriptor N. The node daemon starts it; it is of no use by hand."
            );
            ExitReason::BadConfig
        }
    };
    // Without unwinding threads and destructors: devices are stopped, and the kernel
    // takes the rest.
    std::process::exit(i32::from(reason as u8))
}

/// How much to log: `RUST_LOG`, one level's name; "info" without it.
fn level() -> tracing::Level {
    let wanted = std::env::var("RUST_LOG").unwrap_or_default();
    wanted.parse().unwrap_or(tracing::Level::INFO)
}

/// A bug in any thread ends the VM: what is inconsistent must not go on serving a
/// hostile guest.
fn end_on_panic() {
    let print = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        print(info);
        std::process::exit(i32::from(ExitReason::Internal as u8));
    }));
}
