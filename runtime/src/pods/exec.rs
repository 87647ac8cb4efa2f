//! Running a command in a container.

use std::time::Duration;

use bulkhead_sandbox::{ExecSpec, ProcessId, WindowSize};

use super::{
    Pods,
    model::Container,
    session::{Ended, Event, Running, Session, Target, Wanted},
    start::exec_error,
    state::reason,
    stop::SIGKILL,
};
use crate::{
    error::{Error, Kind, Result},
    ids,
    store::ContainerPhase,
};

/// Most output kept of one exec, both streams together, bytes: what fits into an
/// answer that kubelet accepts. The rest is read and dropped (CVE-2022-1708).
pub const OUTPUT_MAX: usize = bulkhead_cri_api::MESSAGE_BYTES_MAX - 64 * 1024;

/// How long a command whose time is up may take to be killed before the caller is
/// answered all the same.
const KILLING: Duration = Duration::from_secs(1);

/// What a command left behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Captured {
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: Vec<u8>,
    /// Exit status, or 128 + signal.
    pub code: i32,
}

/// A command to run.
#[derive(Clone, Debug, Default)]
pub(crate) struct Command {
    /// The program and its arguments.
    pub(crate) args: Vec<String>,
    /// Whether it has a terminal.
    pub(crate) terminal: bool,
    /// Whether it has a stdin.
    pub(crate) stdin: bool,
    /// Initial size of its terminal.
    pub(crate) window: Option<WindowSize>,
}

impl Pods {
    /// Runs a command and returns its output, complete up to [`OUTPUT_MAX`].
    ///
    /// # Errors
    /// [`Kind::DeadlineExceeded`] when `timeout` passed: the command and all that it
    /// started are dead then. [`Kind::InvalidArgument`] when it can't be run.
    pub async fn exec_sync(
        &self,
        id: &str,
        command: Vec<String>,
        timeout: Option<Duration>,
    ) -> Result<Captured> {
        let container = self.inner.model.container(id)?;
        let command = Command {
            args: command,
            ..Command::default()
        };
        let run = async {
            let target = self.exec_target(&container, &command)?;
            let capture = async {
                let session = begin(target.clone(), command).await?;
                capture(session).await
            };
            let Some(timeout) = timeout else {
                return capture.await;
            };
            match tokio::time::timeout(timeout, capture).await {
                Ok(result) => result,
                Err(_) => {
                    // At once, but not waiting for a guest that hangs: whatever is
                    // left is killed when it is forgotten.
                    let kill = target.sandbox.signal(&target.process, SIGKILL, true);
                    let _ = tokio::time::timeout(KILLING, kill).await;
                    Err(Error::new(
                        Kind::DeadlineExceeded,
                        format!("the command did not end within {timeout:?} and was killed"),
                    ))
                }
            }
        };
        run.await
            .map_err(|error| error.while_(attempted(&container)))
    }

    /// Runs a command that is connected to the caller.
    ///
    /// # Errors
    /// [`Kind::FailedPrecondition`] when the container doesn't run,
    /// [`Kind::InvalidArgument`] when the command can't be run.
    pub(crate) async fn exec(&self, id: &str, command: Command) -> Result<Session> {
        let container = self.inner.model.container(id)?;
        let run = async {
            let target = self.exec_target(&container, &command)?;
            begin(target, command).await
        };
        run.await
            .map_err(|error| error.while_(attempted(&container)))
    }

    /// The sandbox of a running container, and a name for a new process in it.
    fn exec_target(&self, container: &Container, command: &Command) -> Result<Target> {
        if command.args.first().is_none_or(String::is_empty) {
            return Err(Error::invalid("the command is empty"));
        }
        if container.record().phase != ContainerPhase::Running {
            return Err(Error::precondition("the container is not running"));
        }
        let sandbox = self
            .inner
            .model
            .pod(&container.key.pod_id)?
            .ready_sandbox()?;
        let exec_id = ids::new_id()?.chars().take(16).collect();
        let process = ProcessId {
            container_id: container.id.clone(),
            exec_id,
        };
        Ok(Target { sandbox, process })
    }
}

fn attempted(container: &Container) -> String {
    format!("exec in container {}", container.id)
}

async fn begin(target: Target, command: Command) -> Result<Session> {
    // Forgotten however this ends, also when the client hangs up.
    let running = Running(target.clone());
    let Command {
        args,
        terminal,
        stdin,
        window,
    } = command;
    let spec = ExecSpec {
        process: target.process.clone(),
        args,
        env: None,
        cwd: None,
        terminal,
        stdin,
        window,
    };
    target.sandbox.exec(spec).await.map_err(exec_error)?;
    let exit = {
        let Target { sandbox, process } = target.clone();
        async move {
            let exit = sandbox.wait(&process).await?;
            let word = match exit {
                _ if exit.oom_killed => reason::OOM_KILLED,
                _ if exit.code == 0 => reason::COMPLETED,
                _ => reason::ERROR,
            };
            Ok(Ended {
                code: exit.code,
                reason: word.to_owned(),
                message: String::new(),
            })
        }
    };
    Session::open(target, Wanted { stdin, terminal }, exit, Some(running)).await
}

async fn capture(mut session: Session) -> Result<Captured> {
    let mut captured = Captured::default();
    loop {
        let room = OUTPUT_MAX - captured.stdout.len() - captured.stderr.len();
        match session.next().await {
            Event::Stdout(piece) => keep(&mut captured.stdout, &piece, room),
            Event::Stderr(piece) => keep(&mut captured.stderr, &piece, room),
            Event::End(ended) => {
                captured.code = ended?.code;
                return Ok(captured);
            }
        }
    }
}

fn keep(kept: &mut Vec<u8>, piece: &[u8], room: usize) {
    kept.extend_from_slice(&piece[..piece.len().min(room)]);
}
