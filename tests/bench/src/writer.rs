//! The writer of file systems alone: a layer's archive in a file becomes an image in a file,
//! by our writer and by `mkfs.erofs --tar=f`, each a process of its own, in turn. Nobody
//! hashes and nobody syncs.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use nix::sys::resource::{UsageWho, getrusage};

use crate::{
    pull::layer,
    report::{Report, mib},
};

/// What is written, and by whom.
#[derive(Args)]
pub(crate) struct Options {
    /// Our writer as a program (the example tar2erofs of bulkhead-erofs).
    #[arg(long, value_name = "PROGRAM")]
    ours: PathBuf,
    /// A mkfs.erofs that reads tar archives (tests/bench/mkfs.sh).
    #[arg(long, value_name = "PROGRAM")]
    mkfs: PathBuf,
    /// Images of each layer.
    #[arg(long, default_value_t = 10)]
    runs: u32,
}

/// A kind of layer: its name, and how many files of how many bytes.
const KINDS: [(&str, u32, usize); 3] = [
    ("4 x 8 MiB", 4, 8 << 20),
    ("2000 x 4 KiB", 2000, 4 << 10),
    ("5000 x 64 KiB", 5000, 64 << 10),
];

pub(crate) fn run(options: &Options) -> Result<Report> {
    let conditions = format!("{} images of each layer, in turn", options.runs);
    let mut report = Report::new(conditions);
    let directory = std::env::temp_dir().join(format!("bulkhead-bench.{}", std::process::id()));
    fs::create_dir_all(&directory)?;
    let measured = measure(options, &directory, &mut report);
    fs::remove_dir_all(&directory)?;
    measured.map(|()| report)
}

fn measure(options: &Options, directory: &Path, report: &mut Report) -> Result<()> {
    let archive = directory.join("layer.tar");
    for (kind, files, bytes) in KINDS {
        eprintln!("{kind}");
        fs::write(&archive, layer(1, files, bytes)?)?;
        for run in 0..options.runs {
            for name in ["bulkhead", "mkfs.erofs --tar"] {
                let image = directory.join(format!("{run}.erofs"));
                let mut command;
                if name == "bulkhead" {
                    command = Command::new(&options.ours);
                    command.args([&archive, &image]);
                } else {
                    command = Command::new(&options.mkfs);
                    command.args(["--tar=f", "--quiet"]);
                    command.args([&image, &archive]);
                }
                let (began, cpu) = (Instant::now(), cpu_ms()?);
                let output = command.output().with_context(|| format!("{command:?}"))?;
                let took = began.elapsed();
                let said = String::from_utf8_lossy(&output.stderr);
                ensure!(output.status.success(), "{command:?}: {said}");
                report.add(name, &format!("{kind}: ms"), took.as_secs_f64() * 1e3);
                report.add(name, &format!("{kind}: CPU, ms"), cpu_ms()? - cpu);
                let size = fs::metadata(&image)?.len();
                report.add(name, &format!("{kind}: image, MiB"), mib(size));
                fs::remove_file(&image)?;
            }
        }
    }
    Ok(())
}

/// Of all processes that have ended, milliseconds.
fn cpu_ms() -> Result<f64> {
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let times = [usage.user_time(), usage.system_time()];
    let ms = |time: nix::sys::time::TimeVal| {
        let micros = i32::try_from(time.tv_usec()).unwrap_or(0);
        let seconds = i32::try_from(time.tv_sec()).unwrap_or(i32::MAX);
        f64::from(seconds) * 1e3 + f64::from(micros) / 1e3
    };
    Ok(times.into_iter().map(ms).sum())
}
