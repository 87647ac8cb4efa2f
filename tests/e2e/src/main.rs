//! Whole-node tests: a real daemon, real VMs, real clients.
//!
//! Runs as root on a machine it may make changes to: the test host. `demo` shows
//! the main job once; `test` runs every case (or those whose names contain a
//! given word) and ends with "N passed, N failed".
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout)] // its output is its purpose

mod cases;
mod demo;

use std::{process::ExitCode, time::Instant};

use anyhow::Result;
use bulkhead_e2e::node;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Whole-node tests of Bulkhead, for the test host", version)]
struct Cli {
    /// Where the programs under test are, side by side.
    #[arg(long, env = "BULKHEAD_BIN_DIR")]
    bin_dir: std::path::PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the cases whose names contain one of the words; all without words.
    Test {
        /// Parts of names.
        words: Vec<String>,
    },
    /// Names the cases.
    List,
    /// Runs a two-container pod in its own microVM and shows what happens.
    Demo,
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    match cli.command {
        Command::List => {
            for case in cases::ALL {
                println!("{}", case.name);
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Demo => {
            demo::run(&node::Programs::in_dir(&cli.bin_dir)?).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Test { words } => {
            let programs = node::Programs::in_dir(&cli.bin_dir)?;
            Ok(test(&programs, &words).await)
        }
    }
}

async fn test(programs: &node::Programs, words: &[String]) -> ExitCode {
    let wanted: Vec<_> = cases::ALL
        .iter()
        .filter(|case| words.is_empty() || words.iter().any(|word| case.name.contains(word)))
        .collect();
    let mut failed = Vec::new();
    for case in &wanted {
        let began = Instant::now();
        println!("test {} ...", case.name);
        match (case.run)(programs).await {
            Ok(()) => println!("test {} ... ok ({:.1?})", case.name, began.elapsed()),
            Err(error) => {
                println!(
                    "test {} ... FAILED ({:.1?}): {error:?}",
                    case.name,
                    began.elapsed()
                );
                failed.push(case.name);
            }
        }
    }
    if wanted.is_empty() {
        println!("no case is named like that; `list` names them");
        return ExitCode::from(2);
    }
    if !failed.is_empty() {
        println!("failed: {}", failed.join(", "));
    }
    println!(
        "{} passed, {} failed",
        wanted.len() - failed.len(),
        failed.len()
    );
    if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
