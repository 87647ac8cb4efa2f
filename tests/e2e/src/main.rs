//! Whole-node tests: a real daemon, real VMs, real clients.
//!
//! Runs as root on a machine it may make changes to: the test host. `demo` shows
//! the main job once; `test` runs every case (or those whose names contain a
//! given word) and ends with "N passed, N failed".
#![forbid(unsafe_code)]
#![allow(clippy::print_stdout)] // its output is its purpose
#![cfg_attr(test, allow(clippy::unwrap_used))] // a failed unwrap is a failed test

mod cases;
mod claims;
mod demo;
mod model;

use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::Result;
use bulkhead_e2e::{conformance, node};
use claims::Claims;
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Whole-node tests of Bulkhead, for the test host", version)]
struct Cli {
    /// Where the programs under test are, side by side.
    #[arg(long, env = "BULKHEAD_BIN_DIR")]
    bin_dir: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Runs the cases whose names contain one of the words; all without words.
    Test {
        /// Parts of names.
        words: Vec<String>,
        /// Only those that need no virtual machine.
        #[arg(long)]
        apart: bool,
        /// A directory that several runs share: each case is run by one of them. What
        /// passed stays marked there, and is not run again.
        #[arg(long, value_name = "DIR")]
        share: Option<PathBuf>,
    },
    /// Names the cases.
    List,
    /// Drives a node through a random sequence and compares it with a model.
    Model(model::Plan),
    /// Runs a two-container pod in its own microVM and shows what happens.
    Demo,
    /// Runs critest, Kubernetes' own tests of container runtimes.
    Conformance(conformance::Options),
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<ExitCode> {
    let cli = Cli::parse();
    match cli.command {
        Command::List => {
            for case in cases::all() {
                println!("{}", case.name);
            }
            Ok(ExitCode::SUCCESS)
        }
        Command::Demo => {
            demo::run(&node::Programs::in_dir(&cli.bin_dir)?).await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Model(plan) => {
            model::run(&node::Programs::in_dir(&cli.bin_dir)?, &plan, "").await?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Conformance(options) => {
            let programs = node::Programs::in_dir(&cli.bin_dir)?;
            let verdict = conformance::run(&programs, &options).await?;
            Ok(if verdict.is_good() {
                ExitCode::SUCCESS
            } else {
                ExitCode::FAILURE
            })
        }
        Command::Test {
            words,
            apart,
            share,
        } => {
            let programs = node::Programs::in_dir(&cli.bin_dir)?;
            let cases: Vec<_> = match apart {
                true => cases::APART.iter().collect(),
                false => cases::all().collect(),
            };
            test(&programs, cases, &words, Claims::new(share)).await
        }
    }
}

/// Far longer than any case takes, even in an emulated host with others at work.
const CASE_MAX: Duration = Duration::from_secs(900);

async fn test(
    programs: &node::Programs,
    cases: Vec<&'static cases::Case>,
    words: &[String],
    claims: Claims,
) -> Result<ExitCode> {
    let wanted: Vec<_> = cases
        .into_iter()
        .filter(|case| words.is_empty() || words.iter().any(|word| case.name.contains(word)))
        .collect();
    if wanted.is_empty() {
        println!("no case is named like that; `list` names them");
        return Ok(ExitCode::from(2));
    }
    let mut passed = 0;
    let mut failed = Vec::new();
    for case in wanted {
        if !claims.take(case.name)? {
            continue;
        }
        let began = Instant::now();
        println!("test {} ...", case.name);
        // One that hangs must not keep the others from being told.
        let run = tokio::time::timeout(CASE_MAX, (case.run)(programs)).await;
        match run.unwrap_or_else(|_| Err(anyhow::anyhow!("not done after {CASE_MAX:?}"))) {
            Ok(()) => {
                println!("test {} ... ok ({:.1?})", case.name, began.elapsed());
                claims.ended(case.name, true)?;
                passed += 1;
            }
            Err(error) => {
                println!(
                    "test {} ... FAILED ({:.1?}): {error:?}",
                    case.name,
                    began.elapsed()
                );
                claims.ended(case.name, false)?;
                failed.push(case.name);
            }
        }
    }
    if !failed.is_empty() {
        println!("failed: {}", failed.join(", "));
    }
    println!("{passed} passed, {} failed", failed.len());
    Ok(if failed.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}
