//! A microVM's start, its exits and its memory, next to other VMMs that boot the
//! same kernel and initramfs.

mod kvm;
pub(crate) mod memory;
pub(crate) mod ours;
mod peers;

use std::path::PathBuf;

use anyhow::Result;
use bulkhead_e2e::node::Programs;
use clap::Args;

use crate::report::Report;

/// What is measured, and how often.
#[derive(Args)]
pub(crate) struct Options {
    /// Where the programs under test are, side by side.
    #[arg(long, env = "BULKHEAD_BIN_DIR")]
    bin_dir: PathBuf,
    /// Runs of each, taken in turn.
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=1000))]
    runs: u32,
    /// Memory of each guest, MiB.
    #[arg(long, default_value_t = 256)]
    memory_mib: u64,
    /// QEMU, for its microvm machine.
    #[arg(long, default_value = "/usr/bin/qemu-system-x86_64")]
    qemu: PathBuf,
    /// A Firecracker binary to measure as well.
    #[arg(long)]
    firecracker: Option<PathBuf>,
}

/// Measures all of them in turn.
pub(crate) async fn run(options: Options) -> Result<Report> {
    let programs = Programs::in_dir(&options.bin_dir)?;
    let memory_mib = options.memory_mib;

    kvm::mount_debugfs()?;
    let mut report = Report::new(format!(
        "{} runs in turn, {memory_mib} MiB guests",
        options.runs
    ));
    let guest = peers::Guest::prepare(&programs, memory_mib)?;
    let mut node = ours::start_node(&programs, memory_mib).await?;
    for run in 1..=options.runs {
        eprintln!("run {run} of {}", options.runs);
        ours::measure(&node, run, memory_mib, &mut report).await?;
        peers::qemu(&options.qemu, &guest, &mut report).await?;
        if let Some(firecracker) = &options.firecracker {
            peers::firecracker(firecracker, &guest, &mut report).await?;
        }
    }
    ours::measure_daemon(&node, &mut report)?;
    node.stop().await?;
    Ok(report)
}
