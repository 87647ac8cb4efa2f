//! How fast output gets into a log: `log_rate DIRECTORY [MIB]`.
//!
//! Lines of 100 bytes, in batches as large as a connection reads at most. Prints
//! MB of output per second of wall clock and of CPU.
#![allow(clippy::print_stdout)] // it is a program

use std::{error::Error, path::PathBuf, time::Instant};

use bulkhead_sandbox::{LogTarget, Stream, log::ContainerLog};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let directory: PathBuf = args.next().ok_or("a directory is needed")?.into();
    let mib: usize = args.next().map_or(Ok(512), |arg| arg.parse())?;
    let target = LogTarget {
        directory: directory.clone(),
        path: "rate.log".into(),
    };
    let mut log = ContainerLog::create(target, directory.join("checkpoint"))?;
    let mut line = vec![b'x'; 99];
    line.push(b'\n');
    let piece = line.repeat(655);
    let (began, cpu) = (Instant::now(), cpu_seconds());
    let mut bytes = 0;
    while bytes < mib << 20 {
        log.append(Stream::Stdout, [&piece[..], &piece, &piece, &piece], 1);
        bytes += 4 * piece.len();
    }
    let (wall, cpu) = (began.elapsed().as_secs_f64(), cpu_seconds() - cpu);
    let megabytes = f64::from(u32::try_from(bytes >> 10)?) * 1.024e-3;
    println!(
        "{:.0} MB/s of wall clock, {:.0} MB/s of CPU",
        megabytes / wall,
        megabytes / cpu
    );
    std::fs::remove_file(directory.join("rate.log"))?;
    Ok(())
}

fn cpu_seconds() -> f64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let micros = now.tv_sec * 1_000_000 + now.tv_nsec / 1000;
    f64::from(u32::try_from(micros).unwrap_or(u32::MAX)) * 1e-6
}
