//! Imports an image into a store and says what it took:
//! `import STORE FILE [NAME]`.

// It is a program: it prints.
#![allow(clippy::print_stdout)]

use std::path::Path;
use std::process::ExitCode;

use bulkhead_image::{ImportOptions, Progress, Result, Store};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (store, file, name) = match &args[..] {
        [store, file] => (store, file, None),
        [store, file, name] => (store, file, Some(name.clone())),
        _ => {
            eprintln!("usage: import STORE FILE [NAME]");
            return ExitCode::from(2);
        }
    };
    match run(store, file, name) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{file}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(store: &str, file: &str, name: Option<String>) -> Result<()> {
    let store = Store::open(store)?;
    let report = store.import(Path::new(file), &ImportOptions { name }, &|event| {
        if !matches!(event, Progress::Layer { .. }) {
            println!("{event:?}");
        }
    })?;
    for image in &report.images {
        println!(
            "{} {:?} {} bytes",
            image.id, image.repo_tags, image.size_bytes
        );
    }
    // The kernel's own count of the peak, VmHWM in kB (proc_pid_status(5)).
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap_or("?")
        .trim();
    println!(
        "read {} bytes, wrote {} bytes in {:.3} s, peak memory {peak}",
        report.bytes_read,
        report.bytes_written,
        report.elapsed.as_secs_f64()
    );
    Ok(())
}
