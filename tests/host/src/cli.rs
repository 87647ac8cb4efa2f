//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};

use crate::accel::Wish;
use crate::client::Command;
use crate::instance::Options;

/// A disposable machine with a usable KVM, over this machine's own root file
/// system: read-only, with a writable overlay in memory.
#[derive(Debug, Parser)]
#[command(name = "testhost", version)]
pub(crate) struct Cli {
    /// Which test host: several can be up at once.
    #[arg(long, global = true, default_value = "default", env = "TESTHOST_NAME")]
    pub(crate) name: String,
    #[command(subcommand)]
    pub(crate) action: Action,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Action {
    /// Boot a test host; it stays until `down`.
    Up {
        #[command(flatten)]
        boot: Boot,
    },
    /// Run a command in a test host that is up; output and exit status are its.
    Exec {
        #[command(flatten)]
        command: Invocation,
    },
    /// A shell in a test host that is up.
    Shell,
    /// Boot a test host of its own for one command, and switch it off.
    Run {
        #[command(flatten)]
        boot: Boot,
        #[command(flatten)]
        command: Invocation,
    },
    /// Switch a test host off.
    Down,
    /// Say whether a test host is up; the exit status is 1 if it is not.
    Status,
    /// Inside the test host: run commands for `exec`.
    #[command(hide = true)]
    Serve {
        #[arg(long)]
        token_file: PathBuf,
        #[arg(long)]
        port: u16,
        #[arg(long)]
        netns: PathBuf,
    },
}

/// How a test host is made.
#[derive(Debug, Args)]
pub(crate) struct Boot {
    /// Hardware KVM or software emulation.
    #[arg(long, value_enum, default_value = "auto", env = "TESTHOST_ACCEL")]
    accel: Wish,
    /// Processors.
    #[arg(long, value_name = "N", default_value_t = 2)]
    cpus: u32,
    /// Memory, in MiB.
    #[arg(long, value_name = "MIB", default_value_t = 6144)]
    memory: u32,
    /// A directory to be writable in the test host, under the same path; may be
    /// given several times.
    #[arg(long, value_name = "DIR")]
    share: Vec<PathBuf>,
    /// How long the boot may take, in seconds.
    #[arg(long, value_name = "S", default_value_t = 120)]
    boot_timeout: u64,
}

impl Boot {
    pub(crate) fn options(&self) -> Options {
        Options {
            accel: self.accel,
            cpus: self.cpus,
            memory_mib: self.memory,
            shares: self.share.clone(),
            boot_timeout: Duration::from_secs(self.boot_timeout),
        }
    }
}

/// How a command is run.
#[derive(Debug, Args)]
pub(crate) struct Invocation {
    /// End the command after so many seconds; the exit status is then 124.
    #[arg(long, value_name = "S")]
    timeout: Option<u64>,
    /// Working directory; the current one, if the test host has it.
    #[arg(long, value_name = "DIR")]
    cwd: Option<PathBuf>,
    /// Set a variable, or with its name alone pass ours on.
    #[arg(long, value_name = "NAME[=VALUE]")]
    env: Vec<String>,
    /// Send standard input.
    #[arg(long, short = 'i')]
    stdin: bool,
    /// The command and its arguments.
    #[arg(required = true, trailing_var_arg = true, value_name = "CMD")]
    argv: Vec<String>,
}

impl Invocation {
    pub(crate) fn command(self) -> Result<Command> {
        let cwd = match self.cwd {
            Some(directory) => directory,
            None => std::env::current_dir().context("the current directory")?,
        };
        Ok(Command {
            argv: self.argv,
            env: self
                .env
                .into_iter()
                .filter_map(|word| variable(&word))
                .collect(),
            cwd: cwd.to_string_lossy().into_owned(),
            stdin: self.stdin,
            terminal: false,
            timeout: self.timeout.map(Duration::from_secs),
        })
    }
}

/// An interactive login shell.
pub(crate) fn shell() -> Result<Command> {
    let cwd = std::env::current_dir().context("the current directory")?;
    Ok(Command {
        argv: vec!["bash".into(), "-l".into()],
        env: variable("TERM").into_iter().collect(),
        cwd: cwd.to_string_lossy().into_owned(),
        stdin: true,
        terminal: true,
        timeout: None,
    })
}

/// `NAME=VALUE`, or `NAME` with the value it has here; nothing if it has none.
fn variable(word: &str) -> Option<(String, String)> {
    match word.split_once('=') {
        Some((name, value)) => Some((name.into(), value.into())),
        None => Some((word.into(), std::env::var(word).ok()?)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_commands_own_options_are_left_to_it() {
        let cli = Cli::parse_from([
            "testhost",
            "exec",
            "--timeout",
            "5",
            "--",
            "ls",
            "--name",
            "-i",
        ]);
        let Action::Exec { command } = cli.action else {
            panic!()
        };
        let command = command.command().unwrap();
        assert_eq!(command.argv, ["ls", "--name", "-i"]);
        assert_eq!(command.timeout, Some(Duration::from_secs(5)));
        assert!(!command.stdin);
    }

    #[test]
    fn variables_are_given_or_passed_on() {
        assert_eq!(variable("A=b=c"), Some(("A".into(), "b=c".into())));
        assert_eq!(variable("PATH").unwrap().1, std::env::var("PATH").unwrap());
        assert_eq!(variable("TESTHOST_NO_SUCH_VARIABLE"), None);
    }
}
