//! Benchmarks. They print a table on standard error and JSON on standard output,
//! and compare only what ran side by side in the same call.
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout, clippy::print_stderr)] // its output is its purpose
#![cfg_attr(test, allow(clippy::unwrap_used))] // a failed unwrap is a failed test

mod cri;
mod layers;
mod neighbours;
mod pull;
mod report;
mod start;
mod writer;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Benchmarks of Bulkhead, for the test host", version)]
struct Cli {
    /// Where the JSON goes; standard output without it.
    #[arg(long, global = true)]
    json: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// A microVM's start, its exits and its memory, next to other VMMs on the same
    /// kernel and initramfs.
    Start(start::Options),
    /// A load on any CRI runtime: life cycles, queries, execs, logs.
    Cri(cri::Options),
    /// What each layer of an image costs its pods.
    Layers(layers::Options),
    /// Pulls of images from a registry on the loopback.
    Pull(pull::Options),
    /// The writer of file systems alone, beside mkfs.erofs.
    Writer(writer::Options),
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let (report, columns) = match cli.command {
        Command::Start(options) => (start::run(options).await?, report::SPREAD),
        Command::Cri(options) => (cri::run(options).await?, report::PERCENTILES),
        Command::Layers(options) => (layers::run(options).await?, report::SPREAD),
        Command::Pull(options) => (pull::run(options).await?, report::SPREAD),
        Command::Writer(options) => (writer::run(&options)?, report::SPREAD),
    };
    eprintln!("{}", report.table(columns));
    let text = serde_json::to_string_pretty(&report)?;
    match cli.json {
        Some(path) => {
            std::fs::write(&path, text).with_context(|| format!("writing {}", path.display()))?
        }
        None => println!("{text}"),
    }
    Ok(())
}
