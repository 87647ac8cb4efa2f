//! The command line: definitions in `args`, one file a command.
//!
//! Commands speak to the daemon's socket, CRI and operator service alike; none of
//! them touches pods behind the daemon's back. What a command is asked for goes to
//! standard output, everything else to standard error. An error says what was tried
//! and what to do next; exit statuses are listed in `EXIT_STATUS_HELP`.

pub mod args;
mod client;
mod completion;
mod config;
mod doctor;
mod exec;
mod image;
mod logfile;
mod logs;
mod names;
mod output;
mod process;
mod ps;
mod quantity;
mod resolv;
mod run;
mod terminal;
#[cfg(test)]
mod tests;
mod timings;
mod version;
mod yaml;

use std::io::{self, Write};

use clap::Parser;

use crate::config::{Config, ConfigError};
use args::{Cli, Command};

/// What the exit statuses mean, for help and manual page.
pub(crate) const EXIT_STATUS_HELP: &str = "\
Exit status:
  0    done
  1    the command failed; for doctor: pods can't run here
  2    the command line is wrong
  125  run, exec: bulkhead itself failed, the reason is on standard error
  126  run, exec: the command can't be executed
  127  run, exec: there is no such command
  141  whoever read the output has gone
  otherwise, for run and exec: the command's own, or 128 and its signal's number";

/// The command failed.
const FAILED: u8 = 1;
/// `run` and `exec` failed, as opposed to the command in the container.
const RUNTIME_FAILED: u8 = 125;
/// 128 + SIGPIPE, which is how others end when the reader has gone.
const READER_GONE: u8 = 141;

/// Why a command ends early.
#[derive(Debug)]
pub(crate) enum Failure {
    /// To be told, with this exit status.
    Told(anyhow::Error, u8),
    /// Exit with a status and say nothing more.
    Silent(u8),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        let broken_pipe = error
            .chain()
            .filter_map(|cause| cause.downcast_ref::<io::Error>())
            .any(|cause| cause.kind() == io::ErrorKind::BrokenPipe);
        if broken_pipe {
            Self::Silent(READER_GONE)
        } else {
            Self::Told(error, FAILED)
        }
    }
}

impl Failure {
    /// The same failure, reported as the runtime's and not the command's.
    fn of_runtime(self) -> Self {
        match self {
            Self::Told(error, FAILED) => Self::Told(error, RUNTIME_FAILED),
            other => other,
        }
    }
}

/// A command's outcome: its exit status.
pub(crate) type Outcome = Result<u8, Failure>;

/// Runs the command line of this process; returns its exit status.
pub fn main() -> u8 {
    let cli = Cli::parse();
    match dispatch(cli) {
        Ok(status) | Err(Failure::Silent(status)) => status,
        Err(Failure::Told(error, status)) => {
            // Nobody is left to tell if this fails.
            let _ = writeln!(io::stderr(), "bulkhead: {}", in_full(&error));
            status
        }
    }
}

/// An error with its causes, without those that it quotes already.
fn in_full(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn dispatch(cli: Cli) -> Outcome {
    match &cli.command {
        // These work without a usable configuration.
        Command::Completion(args) => return completion::completion(args.shell),
        Command::Man(args) => return completion::man(args.directory.as_deref()),
        Command::Doctor(args) => return doctor::doctor(&load(&cli), args.output),
        Command::Config(args) => return config::config(args.action, &cli),
        _ => {}
    }
    let mut config = load(&cli)?;
    if let Some(socket) = &cli.socket {
        config.paths.socket.clone_from(socket);
    }
    if let Command::Serve = cli.command {
        return Ok(crate::serve::main(config)?);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(on_daemon(cli.command, &config));
    // A read of standard input can't be cancelled and must not keep us.
    runtime.shutdown_background();
    outcome
}

fn load(cli: &Cli) -> Result<Config, ConfigError> {
    Config::load(cli.config.as_deref())
}

async fn on_daemon(command: Command, config: &Config) -> Outcome {
    let socket = &config.paths.socket;
    match command {
        Command::Run(args) => run::run(socket, args).await.map_err(Failure::of_runtime),
        Command::Exec(args) => exec::exec(socket, args).await.map_err(Failure::of_runtime),
        Command::Ps(args) => ps::ps(socket, args).await,
        Command::Logs(args) => logs::logs(socket, args).await,
        Command::Image(args) => image::image(socket, args).await,
        Command::Version(args) => version::version(socket, args.output).await,
        Command::Serve
        | Command::Doctor(_)
        | Command::Config(_)
        | Command::Completion(_)
        | Command::Man(_) => Ok(0),
    }
}
