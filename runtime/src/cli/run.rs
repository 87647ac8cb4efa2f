//! `bulkhead run`: a command in a throw-away pod.
//!
//! ```text
//! RunPodSandbox ─ CreateContainer ─ Attach ─ StartContainer ─ talk … exit
//!        └──────────── whatever happens: StopPodSandbox, RemovePodSandbox
//! ```
//!
//! Attach comes before start, so that no output is missed.

use std::io::{self, IsTerminal, Write};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bulkhead_cri_api::operator::{AttachStart, ProcessExit};
use bulkhead_cri_api::v1::{
    ContainerConfig, ContainerMetadata, CreateContainerRequest, ImageSpec, Int64Value, KeyValue,
    LinuxContainerConfig, LinuxContainerResources, LinuxContainerSecurityContext,
    LinuxPodSandboxConfig, LinuxSandboxSecurityContext, NamespaceMode, NamespaceOption,
    PodSandboxConfig, PodSandboxMetadata, RemovePodSandboxRequest, RunPodSandboxRequest,
    StartContainerRequest, StopPodSandboxRequest,
};
use tonic::Code;

use super::args::RunArgs;
use super::client::{Daemon, in_words, refusal_code};
use super::process::{Connection, Ending, Signals, Streams};
use super::quantity::CPU_PERIOD_US;
use super::terminal::{RawMode, is_interactive, window};
use super::timings::{Phase, Stopwatch, of_pod, render};
use super::{Failure, Outcome, RUNTIME_FAILED, image, in_full, resolv};

/// Kubernetes namespace of such pods.
const NAMESPACE: &str = "bulkhead";
/// Their only container.
const CONTAINER: &str = "main";

/// What isn't a container's business in /proc and /sys: the list that kubelet sends.
const MASKED: [&str; 9] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/scsi",
    "/sys/firmware",
];
/// What it may look at, but not change.
const READ_ONLY: [&str; 5] = [
    "/proc/bus",
    "/proc/fs",
    "/proc/irq",
    "/proc/sys",
    "/proc/sysrq-trigger",
];

pub(super) async fn run(socket: &Path, args: RunArgs) -> Outcome {
    let mut daemon = Daemon::connect(socket).await?;
    let image = image::find(&mut daemon, &args.image).await?;
    // From here on signals are ours: what is begun must be removed.
    let mut signals = Signals::new()?;
    let pod_config = pod_config(&args)?;
    let mut watch = Stopwatch::start();

    let mut runtime = daemon.runtime.clone();
    let request = RunPodSandboxRequest {
        config: Some(pod_config.clone()),
        runtime_handler: String::new(),
    };
    let mut starting = tokio::spawn(async move { runtime.run_pod_sandbox(request).await });
    let mut interrupted = None;
    let answer = tokio::select! {
        answer = &mut starting => answer,
        signal = signals.next() => {
            interrupted = Some(signal);
            // Only its answer says what there is to remove.
            starting.await
        }
    };
    let answer = answer.context("the start of the pod was cut off")?;
    let pod = answer
        .map_err(|status| in_words(&status))?
        .into_inner()
        .pod_sandbox_id;
    watch.step("pod started");

    let mut outcome = match interrupted {
        Some(signal) => Err(Failure::Silent(128 + signal)),
        None => {
            let in_pod = InPod {
                daemon: &mut daemon,
                pod: &pod,
                pod_config,
                args: &args,
            };
            in_pod.run(image, &mut signals, &mut watch).await
        }
    };
    if outcome.is_err() {
        watch.step("failed");
    }
    let inside = if args.time {
        of_pod(&mut daemon, &pod).await
    } else {
        Ok(Vec::new())
    };
    if let Err(error) = remove(&mut daemon, &pod).await {
        let error = error.context(format!("cannot remove pod {pod}"));
        match outcome {
            // The command's own status is worth more, but this must be known.
            Ok(_) => writeln!(io::stderr(), "bulkhead: {}", in_full(&error))?,
            Err(_) => outcome = Err(Failure::Told(error, RUNTIME_FAILED)),
        }
    }
    watch.step("pod removed");
    if args.time {
        tell_times(&watch.finish(), inside)?;
    }
    outcome
}

/// A pod that runs, and the wish to run a container in it.
struct InPod<'a> {
    daemon: &'a mut Daemon,
    pod: &'a str,
    pod_config: PodSandboxConfig,
    args: &'a RunArgs,
}

impl InPod<'_> {
    async fn run(self, image: String, signals: &mut Signals, watch: &mut Stopwatch) -> Outcome {
        let Self {
            daemon,
            pod,
            pod_config,
            args,
        } = self;
        let terminal = args.tty || (!args.no_tty && is_interactive());
        let stdin = args.interactive || (terminal && io::stdin().is_terminal());
        let streams = Streams { stdin, terminal };
        let config = container_config(args, image, streams)?;
        let preparing = async {
            let request = CreateContainerRequest {
                pod_sandbox_id: pod.to_owned(),
                config: Some(config),
                sandbox_config: Some(pod_config),
            };
            let answer = daemon.runtime.create_container(request).await;
            let container = answer
                .map_err(|status| in_words(&status))?
                .into_inner()
                .container_id;
            watch.step("container created");
            let start = AttachStart {
                container_id: container.clone(),
                stdin,
                window: window().filter(|_| terminal),
            };
            let connection = Connection::attach(daemon, start).await?;
            watch.step("streams connected");
            let request = StartContainerRequest {
                container_id: container,
            };
            let answer = daemon.runtime.start_container(request).await;
            answer.map_err(|status| cannot_execute(in_words(&status)))?;
            watch.step("container started");
            Ok::<_, Failure>(connection)
        };
        let connection = tokio::select! {
            connection = preparing => connection?,
            signal = signals.next() => return Err(Failure::Silent(128 + signal)),
        };
        let raw = if terminal && stdin {
            RawMode::enter()?
        } else {
            None
        };
        let mut first_output = None;
        let ending = connection
            .talk(streams, || first_output = Some(Instant::now()))
            .await;
        drop(raw);
        if let Some(at) = first_output {
            watch.step_at("first output", at);
        }
        watch.step("command ended");
        match ending? {
            Ending::Exited(exit) => {
                if exit.reason == "OOMKilled" {
                    writeln!(
                        io::stderr(),
                        "bulkhead: the command was killed because memory ran out; give the pod \
                         more with --memory"
                    )?;
                }
                Ok(exit_status(&exit))
            }
            Ending::Abandoned { signal } => Ok(128 + signal),
        }
    }
}

/// A command's exit status as this program's own.
#[must_use]
pub(super) fn exit_status(exit: &ProcessExit) -> u8 {
    u8::try_from(exit.code).unwrap_or(1)
}

/// Tells a command that can't be executed from a failure of the runtime, as shells do.
///
/// Both come as INVALID_ARGUMENT, since NOT_FOUND is about containers: the words tell.
pub(super) fn cannot_execute(error: anyhow::Error) -> Failure {
    let status = match refusal_code(&error) {
        Some(Code::InvalidArgument) if is_about_a_missing_file(&error.to_string()) => 127,
        Some(Code::InvalidArgument) => 126,
        _ => RUNTIME_FAILED,
    };
    Failure::Told(error, status)
}

/// The guest's words for a program that isn't there, in its search path or by its name.
fn is_about_a_missing_file(message: &str) -> bool {
    let message = message.to_ascii_lowercase();
    message.contains("executable file not found") || message.contains("no such file")
}

/// Ends and removes the pod, patiently: nobody else will.
async fn remove(daemon: &mut Daemon, pod: &str) -> Result<()> {
    const ATTEMPTS: u32 = 3;
    const PAUSE: Duration = Duration::from_millis(500);
    for attempt in 1.. {
        let request = StopPodSandboxRequest {
            pod_sandbox_id: pod.to_owned(),
        };
        // Removing stops what this hasn't, and its error says as much.
        let _ = daemon.runtime.stop_pod_sandbox(request).await;
        let request = RemovePodSandboxRequest {
            pod_sandbox_id: pod.to_owned(),
        };
        match daemon.runtime.remove_pod_sandbox(request).await {
            Ok(_) => break,
            Err(status) if attempt == ATTEMPTS => return Err(in_words(&status)),
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
    Ok(())
}

fn tell_times(outside: &[Phase], inside: Result<Vec<Phase>>) -> io::Result<()> {
    let mut err = io::stderr().lock();
    write!(err, "\nSeen from here:\n{}", render(outside))?;
    match inside {
        Ok(phases) => write!(
            err,
            "\nThe pod's start, seen by the daemon:\n{}",
            render(&phases)
        ),
        Err(error) => writeln!(
            err,
            "\nbulkhead: no times of the pod's start: {}",
            in_full(&error)
        ),
    }
}

fn pod_config(args: &RunArgs) -> Result<PodSandboxConfig> {
    let mut random = [0; 16];
    rustix::rand::getrandom(&mut random, rustix::rand::GetRandomFlags::empty())
        .context("cannot draw random bytes")?;
    let hex: String = random.iter().map(|byte| format!("{byte:02x}")).collect();
    let name = format!("run-{}", hex.get(..8).unwrap_or_default());
    Ok(PodSandboxConfig {
        hostname: args.hostname.clone().unwrap_or_else(|| name.clone()),
        metadata: Some(PodSandboxMetadata {
            name,
            uid: hex,
            namespace: NAMESPACE.to_owned(),
            attempt: 0,
        }),
        dns_config: Some(resolv::of_host()),
        linux: Some(LinuxPodSandboxConfig {
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(namespaces()),
                ..Default::default()
            }),
            resources: Some(resources(args)),
            ..Default::default()
        }),
        ..Default::default()
    })
}

fn container_config(args: &RunArgs, image: String, streams: Streams) -> Result<ContainerConfig> {
    let (user, group, user_name) = user(args.user.as_deref().unwrap_or_default());
    Ok(ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: CONTAINER.to_owned(),
            attempt: 0,
        }),
        image: Some(ImageSpec {
            image,
            user_specified_image: args.image.clone(),
            ..Default::default()
        }),
        command: args.entrypoint.iter().cloned().collect(),
        args: args.command.clone(),
        working_dir: args.workdir.clone().unwrap_or_default(),
        envs: environment(&args.env, |name| std::env::var(name).ok())?,
        stdin: streams.stdin,
        stdin_once: streams.stdin,
        tty: streams.terminal,
        linux: Some(LinuxContainerConfig {
            resources: Some(resources(args)),
            security_context: Some(LinuxContainerSecurityContext {
                namespace_options: Some(namespaces()),
                run_as_user: user.map(|value| Int64Value { value }),
                run_as_group: group.map(|value| Int64Value { value }),
                run_as_username: user_name,
                masked_paths: MASKED.map(str::to_owned).to_vec(),
                readonly_paths: READ_ONLY.map(str::to_owned).to_vec(),
                ..Default::default()
            }),
        }),
        ..Default::default()
    })
}

/// What kubelet sends for a pod that asks for nothing special.
fn namespaces() -> NamespaceOption {
    NamespaceOption {
        network: NamespaceMode::Pod.into(),
        pid: NamespaceMode::Container.into(),
        ipc: NamespaceMode::Pod.into(),
        ..Default::default()
    }
}

fn resources(args: &RunArgs) -> LinuxContainerResources {
    LinuxContainerResources {
        memory_limit_in_bytes: args.memory.map_or(0, |memory| memory.0),
        cpu_period: args.cpus.map_or(0, |_| CPU_PERIOD_US),
        cpu_quota: args.cpus.map_or(0, |cpus| cpus.quota_us()),
        ..Default::default()
    }
}

/// `uid`, `uid:gid` by number; anything else is a name for the image to know.
fn user(text: &str) -> (Option<i64>, Option<i64>, String) {
    let number = |text: &str| text.parse::<u32>().ok().map(i64::from);
    match text.split_once(':') {
        None => match number(text) {
            Some(user) => (Some(user), None, String::new()),
            None => (None, None, text.to_owned()),
        },
        Some((user, group)) => match (number(user), number(group)) {
            (Some(user), Some(group)) => (Some(user), Some(group), String::new()),
            _ => (None, None, text.to_owned()),
        },
    }
}

/// Environment variables; one without a value is passed on if it is set here.
fn environment(wanted: &[String], here: impl Fn(&str) -> Option<String>) -> Result<Vec<KeyValue>> {
    let mut variables = Vec::new();
    for text in wanted {
        let (name, value) = match text.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (text.as_str(), here(text)),
        };
        anyhow::ensure!(
            !name.is_empty(),
            "--env {text:?} has no name; write NAME=VALUE"
        );
        if let Some(value) = value {
            variables.push(KeyValue {
                key: name.to_owned(),
                value: value.into_bytes().into(),
            });
        }
    }
    Ok(variables)
}

#[cfg(test)]
mod tests {
    use bulkhead_cri_api::operator::ProcessExit;
    use clap::Parser;
    use tonic::Status;

    use super::super::args::{Cli, Command};
    use super::*;

    fn args(words: &str) -> RunArgs {
        match Cli::try_parse_from(format!("bulkhead run {words}").split(' '))
            .unwrap()
            .command
        {
            Command::Run(args) => args,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn sizes_reach_pod_and_container() {
        let args = args("--memory 256M --cpus 0.5 x");
        let pod = pod_config(&args).unwrap();
        let resources = pod.linux.unwrap().resources.unwrap();
        assert_eq!(resources.memory_limit_in_bytes, 256 << 20);
        assert_eq!(
            (resources.cpu_quota, resources.cpu_period),
            (50_000, 100_000)
        );
    }

    #[test]
    fn every_pod_is_another() {
        let args = args("x");
        let one = pod_config(&args).unwrap().metadata.unwrap();
        let other = pod_config(&args).unwrap().metadata.unwrap();
        assert_ne!(one.uid, other.uid);
        assert!(
            one.name.starts_with("run-") && one.name.len() == 12,
            "{}",
            one.name
        );
    }

    #[test]
    fn the_command_replaces_the_images_arguments_not_its_entry_point() {
        let streams = Streams {
            stdin: true,
            terminal: false,
        };
        let config = container_config(&args("x ls -l"), "id".to_owned(), streams).unwrap();
        assert!(config.command.is_empty());
        assert_eq!(config.args, ["ls", "-l"]);
        assert!(config.stdin && config.stdin_once && !config.tty);
        let config =
            container_config(&args("--entrypoint sh x -c ls"), "id".to_owned(), streams).unwrap();
        assert_eq!(config.command, ["sh"]);
        assert_eq!(config.args, ["-c", "ls"]);
    }

    #[test]
    fn users_are_numbers_or_names() {
        assert_eq!(user("1000"), (Some(1000), None, String::new()));
        assert_eq!(user("1000:50"), (Some(1000), Some(50), String::new()));
        assert_eq!(user("nobody"), (None, None, "nobody".to_owned()));
        assert_eq!(user(""), (None, None, String::new()));
    }

    #[test]
    fn variables_may_be_passed_on() {
        let wanted = [
            "A=1".to_owned(),
            "B".to_owned(),
            "C".to_owned(),
            "D=".to_owned(),
        ];
        let here = |name: &str| (name == "B").then(|| "here".to_owned());
        let found: Vec<_> = environment(&wanted, here)
            .unwrap()
            .into_iter()
            .map(|variable| {
                (
                    variable.key,
                    String::from_utf8(variable.value.to_vec()).unwrap(),
                )
            })
            .collect();
        let expected = [("A", "1"), ("B", "here"), ("D", "")];
        assert_eq!(
            found,
            expected.map(|(name, value)| (name.to_owned(), value.to_owned()))
        );
        assert!(environment(&["=x".to_owned()], here).is_err());
    }

    #[test]
    fn exit_statuses_are_those_of_shells() {
        let exit = |code| {
            exit_status(&ProcessExit {
                code,
                ..Default::default()
            })
        };
        assert_eq!((exit(0), exit(3), exit(137), exit(-1)), (0, 3, 137, 1));
        let refused = |status: Status| match cannot_execute(in_words(&status)) {
            Failure::Told(_, status) => status,
            Failure::Silent(_) => panic!("silent"),
        };
        for (message, status) in [
            ("exec: \"x\": executable file not found in $PATH", 127),
            ("exec: \"/x\": No such file or directory", 127),
            ("exec: \"/x\": permission denied", 126),
        ] {
            assert_eq!(
                refused(Status::invalid_argument(message)),
                status,
                "{message}"
            );
        }
        assert_eq!(refused(Status::not_found("container a")), RUNTIME_FAILED);
        assert_eq!(refused(Status::internal("broken")), RUNTIME_FAILED);
    }
}
