//! Benchmarks. They print a table on standard error and JSON on standard output,
//! and compare only what ran side by side in the same call.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr)] // its output is its purpose
#![cfg_attr(test, allow(clippy::unwrap_used))] // a failed unwrap is a failed test

mod kvm;
mod memory;
mod ours;
mod peers;
mod report;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use bulkhead_e2e::node::Programs;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Benchmarks of Bulkhead, for the test host", version)]
struct Cli {
    /// Where the programs under test are, side by side.
    #[arg(long, env = "BULKHEAD_BIN_DIR")]
    bin_dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A microVM's start, its exits and its memory, next to other VMMs on the same
    /// kernel and initramfs.
    Start {
        /// Runs of each, taken in turn.
        #[arg(long, default_value_t = 10)]
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
        /// Where the JSON goes; standard output without it.
        #[arg(long)]
        json: Option<PathBuf>,
    },
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let Command::Start {
        runs,
        memory_mib,
        qemu,
        firecracker,
        json,
    } = cli.command;
    let programs = Programs::in_dir(&cli.bin_dir)?;
    anyhow::ensure!((1..=1000).contains(&runs), "--runs must be 1 to 1000");

    kvm::mount_debugfs()?;
    let mut report = report::Report::new(runs, memory_mib);
    let guest = peers::Guest::prepare(&programs, memory_mib)?;
    let mut node = ours::start_node(&programs, memory_mib).await?;
    for run in 1..=runs {
        eprintln!("run {run} of {runs}");
        ours::measure(&node, run, memory_mib, &mut report).await?;
        peers::qemu(&qemu, &guest, &mut report).await?;
        if let Some(firecracker) = &firecracker {
            peers::firecracker(firecracker, &guest, &mut report).await?;
        }
    }
    ours::measure_daemon(&node, &mut report)?;
    node.stop().await?;

    eprintln!("{}", report.table());
    let text = serde_json::to_string_pretty(&report)?;
    match json {
        Some(path) => {
            std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?
        }
        None => println!("{text}"),
    }
    Ok(())
}
