//! Converts a layer archive into an EROFS image and says what it took:
//! `convert LAYER.tar IMAGE`, or `convert - IMAGE` to read standard input.

// It is a program: it prints.
#![allow(clippy::print_stdout)]

use std::fs::File;
use std::io::{Read, stdin};
use std::process::ExitCode;
use std::time::Instant;

use bulkhead_erofs::{Options, convert};

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let [layer, image] = &args[..] else {
        eprintln!("usage: convert LAYER.tar|- IMAGE");
        return ExitCode::from(2);
    };
    match run(layer, image) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{layer}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(layer: &str, image: &str) -> Result<(), Box<dyn std::error::Error>> {
    let input: Box<dyn Read> = if layer == "-" {
        Box::new(stdin().lock())
    } else {
        Box::new(File::open(layer)?)
    };
    let start = Instant::now();
    let report = convert(input, File::create(image)?, &Options::default())?;
    let seconds = start.elapsed().as_secs_f64();
    // The kernel's own count of the peak, VmHWM in kB (proc_pid_status(5)).
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap_or("?")
        .trim();
    println!("{report:?}");
    println!("{seconds:.3} s, peak memory {peak}");
    Ok(())
}
