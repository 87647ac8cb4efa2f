//! Node daemon and command line of the Bulkhead container runtime.
#![forbid(unsafe_code)]

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(bulkhead::cli::main())
}
