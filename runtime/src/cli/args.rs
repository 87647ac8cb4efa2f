//! What can be said on the command line.
//!
//! Help, manual pages and shell completion all come from here.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum, ValueHint};
use clap_complete::Shell;

use super::quantity::{Cpus, Memory};

/// Runs Kubernetes pods, each in a virtual machine of its own.
#[derive(Debug, Parser)]
#[command(
    name = "bulkhead",
    version,
    after_help = super::EXIT_STATUS_HELP,
    disable_help_subcommand = true,
    arg_required_else_help = true
)]
pub struct Cli {
    /// Configuration file [default: /etc/bulkhead/config.toml, if there is one]
    #[arg(long, global = true, env = "BULKHEAD_CONFIG", value_name = "FILE",
          value_hint = ValueHint::FilePath)]
    pub config: Option<PathBuf>,

    /// The daemon's socket, in place of the configured one
    #[arg(long, global = true, env = "BULKHEAD_SOCKET", value_name = "PATH",
          value_hint = ValueHint::FilePath)]
    pub socket: Option<PathBuf>,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the node daemon: serve kubelet on the socket until told to end
    Serve,
    /// Run a command in a throw-away pod
    Run(RunArgs),
    /// List pods and their containers
    Ps(PsArgs),
    /// Run a further command in a running container
    Exec(ExecArgs),
    /// Print a container's output
    Logs(LogsArgs),
    /// Bring in, list and remove images
    Image(ImageArgs),
    /// Say what this host has and lacks to run pods, and how to mend it
    Doctor(OutputArgs),
    /// Print the versions of this program and of the daemon
    Version(OutputArgs),
    /// Print or check the configuration
    Config(ConfigArgs),
    /// Print a completion script for a shell
    Completion(CompletionArgs),
    /// Print the manual page
    Man(ManArgs),
}

/// How a list is printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Columns, for people
    #[default]
    Table,
    /// JSON
    Json,
    /// YAML
    Yaml,
}

/// `--output`, for commands that list.
#[derive(Debug, Clone, Copy, Args)]
pub struct OutputArgs {
    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,
}

/// `bulkhead run`
#[derive(Debug, Args)]
#[command(after_help = "\
The pod and everything in it is removed when the command ends, however it ends.
Ctrl-C goes to the command; a second one within two seconds ends the pod.

  bulkhead run busybox                        a shell, if that is what the image starts
  bulkhead run -e A=1 busybox env             a command in place of the image's own
  echo hello | bulkhead run -i busybox cat    with standard input
  bulkhead run --time busybox true            where the start's time goes")]
pub struct RunArgs {
    /// Keep standard input open [default: if there is a terminal]
    #[arg(short, long)]
    pub interactive: bool,

    /// Give the command a terminal [default: if there is one here]
    #[arg(short, long, overrides_with = "no_tty")]
    pub tty: bool,

    /// Give the command no terminal
    #[arg(long, overrides_with = "tty")]
    pub no_tty: bool,

    /// Remove the pod when the command ends: always so, accepted for habit's sake
    #[arg(long, hide = true)]
    pub rm: bool,

    /// Set an environment variable; without a value, pass on the one from here
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub env: Vec<String>,

    /// Memory of the pod, such as 256M or 2G [default: the configuration's]
    #[arg(short, long, value_name = "BYTES")]
    pub memory: Option<Memory>,

    /// CPUs of the pod, such as 2 or 0.5 [default: the configuration's]
    #[arg(long, value_name = "NUMBER")]
    pub cpus: Option<Cpus>,

    /// Program to run in place of the image's entry point
    #[arg(long, value_name = "PROGRAM")]
    pub entrypoint: Option<String>,

    /// Working directory in the container
    #[arg(short, long, value_name = "DIRECTORY")]
    pub workdir: Option<String>,

    /// User to run as: a name or a number, of the image
    #[arg(short, long)]
    pub user: Option<String>,

    /// Host name of the pod
    #[arg(long, value_name = "NAME")]
    pub hostname: Option<String>,

    /// Print how long each phase took when all is done
    #[arg(long)]
    pub time: bool,

    /// Image to run: a name, or the beginning of an id
    pub image: String,

    /// Command in place of the image's own, with its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    pub command: Vec<String>,
}

/// `bulkhead ps`
#[derive(Debug, Args)]
pub struct PsArgs {
    /// Also those that don't run
    #[arg(short, long)]
    pub all: bool,

    /// How to print it
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Format,

    /// Print how long each phase of a pod's start took, in place of the list
    #[arg(long, value_name = "POD")]
    pub timings: Option<String>,
}

/// `bulkhead exec`
#[derive(Debug, Args)]
pub struct ExecArgs {
    /// Keep standard input open
    #[arg(short, long)]
    pub interactive: bool,

    /// Give the command a terminal
    #[arg(short, long)]
    pub tty: bool,

    /// The container: its name, its id, or the beginning of its id
    pub container: String,

    /// The command with its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    pub command: Vec<String>,
}

/// `bulkhead logs`
#[derive(Debug, Args)]
pub struct LogsArgs {
    /// Go on as long as the container writes
    #[arg(short, long)]
    pub follow: bool,

    /// Begin with the last lines, this many
    #[arg(short = 'n', long, value_name = "LINES")]
    pub tail: Option<usize>,

    /// Print when each line was written
    #[arg(short, long)]
    pub timestamps: bool,

    /// The container: its name, its id, or the beginning of its id
    pub container: String,
}

/// `bulkhead image`
#[derive(Debug, Args)]
pub struct ImageArgs {
    /// What to do with images.
    #[command(subcommand)]
    pub action: ImageAction,
}

/// The commands on images.
#[derive(Debug, Subcommand)]
pub enum ImageAction {
    /// Bring in an image: an OCI layout or archive, or a docker archive
    Import {
        /// File or directory, or - for standard input
        #[arg(value_hint = ValueHint::AnyPath)]
        file: PathBuf,

        /// Name to give to an archive that holds one image
        #[arg(short, long, value_name = "NAME")]
        name: Option<String>,

        /// Don't tell what is being done
        #[arg(short, long)]
        quiet: bool,
    },
    /// Write images to a file that other tools take in: an OCI archive
    Export {
        /// Names, ids, or beginnings of ids
        #[arg(required = true)]
        images: Vec<String>,

        /// File to write; standard output without
        #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
        output: Option<PathBuf>,

        /// Don't tell what is being done
        #[arg(short, long)]
        quiet: bool,
    },
    /// Pull images from their registries, or mirrors of them
    Pull(PullArgs),
    /// List the images on this node
    Ls(OutputArgs),
    /// Remove images
    Rm {
        /// Names, ids, or beginnings of ids
        #[arg(required = true)]
        images: Vec<String>,
    },
    /// Show all that is known of images
    Inspect {
        /// Names, ids, or beginnings of ids
        #[arg(required = true)]
        images: Vec<String>,

        /// JSON where no other form is asked for
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show how an image was built, the last step first
    History {
        /// Name, id, or beginning of an id
        image: String,

        /// How to print it
        #[command(flatten)]
        output: OutputArgs,
    },
    /// Show what images take on disk, and what they share
    Du(OutputArgs),
    /// Remove the images that no container uses
    Prune {
        /// Only say which
        #[arg(long)]
        dry_run: bool,
    },
    /// Read all images, and compare them with what was written
    Check {
        /// Take what is damaged out of the store: the next pull fetches it anew
        #[arg(long)]
        repair: bool,

        /// How to print it
        #[command(flatten)]
        output: OutputArgs,
    },
}

/// `bulkhead image pull`
#[derive(Debug, Args)]
pub struct PullArgs {
    /// Names, as in a pod's specification
    #[arg(required = true)]
    pub images: Vec<String>,

    /// User name at the registry; its password is asked for, or read from standard input
    #[arg(short, long, value_name = "NAME")]
    pub username: Option<String>,

    /// Don't tell what is being done
    #[arg(short, long)]
    pub quiet: bool,
}

/// `bulkhead config`
#[derive(Debug, Args)]
pub struct ConfigArgs {
    /// What to do with the configuration.
    #[command(subcommand)]
    pub action: ConfigAction,
}

/// The commands on the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Subcommand)]
pub enum ConfigAction {
    /// Print the default configuration with every key explained
    Default,
    /// Say whether the configuration is usable, and where not
    Check,
    /// Print the configuration in effect: what the file sets and the defaults
    Show,
}

/// `bulkhead completion`
#[derive(Debug, Args)]
pub struct CompletionArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

/// `bulkhead man`
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Write a page for each command into this directory instead
    #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
    pub directory: Option<PathBuf>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(words: &str) -> Command {
        Cli::try_parse_from(words.split(' ')).unwrap().command
    }

    #[test]
    fn the_definition_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn everything_after_the_image_is_the_command() {
        let Command::Run(args) = parse("bulkhead run --time -e A=1 busybox ls -l --time -e B")
        else {
            panic!("not run");
        };
        assert!(args.time);
        assert_eq!(args.env, ["A=1"]);
        assert_eq!(args.image, "busybox");
        assert_eq!(args.command, ["ls", "-l", "--time", "-e", "B"]);
    }

    #[test]
    fn flags_may_be_joined_and_the_last_tty_flag_counts() {
        let Command::Exec(args) = parse("bulkhead exec -it abc sh -c true") else {
            panic!("not exec");
        };
        assert!(args.interactive && args.tty);
        assert_eq!(args.command, ["sh", "-c", "true"]);
        let Command::Run(args) = parse("bulkhead run --tty --no-tty x") else {
            panic!("not run");
        };
        assert!(args.no_tty && !args.tty);
    }

    #[test]
    fn global_options_go_anywhere() {
        for words in ["bulkhead --socket /s ps -a", "bulkhead ps --socket /s -a"] {
            let cli = Cli::try_parse_from(words.split(' ')).unwrap();
            assert_eq!(cli.socket.as_deref(), Some(std::path::Path::new("/s")));
        }
    }

    #[test]
    fn exec_without_a_command_is_refused() {
        assert!(Cli::try_parse_from(["bulkhead", "exec", "abc"]).is_err());
    }
}
