//! Running a command in a container to its end.

use std::{sync::Arc, time::Duration};

use bulkhead_sandbox::{ErrorKind, ExecSpec, ProcessId, Sandbox, Stream};
use tokio::sync::mpsc;

use super::{Pods, model::Container, start::exec_error, stop::SIGKILL};
use crate::{
    error::{Error, Kind, Result},
    ids,
    store::ContainerPhase,
};

/// Most output kept of one exec, both streams together, bytes: what fits into an
/// answer that kubelet accepts. The rest is read and dropped (CVE-2022-1708).
pub const OUTPUT_MAX: usize = bulkhead_cri_api::MESSAGE_BYTES_MAX - 64 * 1024;

/// How long the streams of a command that has ended may stay silent before they
/// are given up: its children may hold them open for ever.
const QUIET: Duration = Duration::from_secs(2);

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
        let attempted = format!("exec in container {}", container.id);
        let run = async {
            if command.first().is_none_or(String::is_empty) {
                return Err(Error::invalid("the command is empty"));
            }
            let (sandbox, process) = self.begin_exec(&container)?;
            let spec = ExecSpec {
                process: process.clone(),
                args: command,
                env: None,
                cwd: None,
                terminal: false,
                stdin: false,
                window: None,
            };
            // Forgotten however this ends, also when the client hangs up.
            let _running = Running {
                sandbox: Arc::clone(&sandbox),
                process: process.clone(),
            };
            let capture = capture(sandbox.as_ref(), spec);
            let Some(timeout) = timeout else {
                return capture.await;
            };
            match tokio::time::timeout(timeout, capture).await {
                Ok(result) => result,
                Err(_) => {
                    // At once, but not waiting for a guest that hangs: whatever is
                    // left is killed when it is forgotten.
                    let kill = sandbox.signal(&process, SIGKILL, true);
                    let _ = tokio::time::timeout(KILLING, kill).await;
                    Err(Error::new(
                        Kind::DeadlineExceeded,
                        format!("the command did not end within {timeout:?} and was killed"),
                    ))
                }
            }
        };
        run.await.map_err(|error| error.while_(attempted))
    }

    /// The sandbox of a running container, and a name for a new process in it.
    pub(crate) fn begin_exec(
        &self,
        container: &Container,
    ) -> Result<(Arc<dyn Sandbox>, ProcessId)> {
        if container.record().phase != ContainerPhase::Running {
            return Err(Error::precondition("the container is not running"));
        }
        let sandbox = self
            .inner
            .model
            .pod(&container.key.pod_id)?
            .ready_sandbox()?;
        let exec_id = ids::new_id()?.chars().take(16).collect();
        Ok((
            sandbox,
            ProcessId {
                container_id: container.id.clone(),
                exec_id,
            },
        ))
    }
}

/// Forgets an exec, killing what is left of it, when dropped.
pub(crate) struct Running {
    pub(crate) sandbox: Arc<dyn Sandbox>,
    pub(crate) process: ProcessId,
}

impl Drop for Running {
    fn drop(&mut self) {
        let (sandbox, process) = (Arc::clone(&self.sandbox), self.process.clone());
        let forget = async move {
            if let Err(error) = sandbox.forget_exec(&process).await
                && !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::SandboxDead)
            {
                tracing::warn!(container = %process.container_id, %error, "exec is left behind");
            }
        };
        // No runtime: the process is ending, and the next daemon forgets it.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(forget);
        }
    }
}

async fn capture(sandbox: &dyn Sandbox, spec: ExecSpec) -> Result<Captured> {
    let process = spec.process.clone();
    sandbox.exec(spec).await.map_err(exec_error)?;
    let mut stdout = sandbox.open_output(&process, Stream::Stdout).await?;
    let mut stderr = sandbox.open_output(&process, Stream::Stderr).await?;
    let mut captured = Captured::default();
    let exit = {
        let wait = sandbox.wait(&process);
        tokio::pin!(wait);
        loop {
            tokio::select! {
                exit = &mut wait => break exit?,
                open = captured.take(&mut stdout, &mut stderr) => if !open {
                    break wait.await?;
                }
            }
        }
    };
    captured.code = exit.code;
    // What the command wrote before it ended is on its way.
    while let Ok(true) = tokio::time::timeout(QUIET, captured.take(&mut stdout, &mut stderr)).await
    {
    }
    Ok(captured)
}

impl Captured {
    /// Takes the next piece of either stream. `false`: both have ended.
    async fn take(
        &mut self,
        stdout: &mut mpsc::Receiver<Vec<u8>>,
        stderr: &mut mpsc::Receiver<Vec<u8>>,
    ) -> bool {
        let room = OUTPUT_MAX - self.stdout.len() - self.stderr.len();
        // A stream that has ended yields None, which disables its branch.
        tokio::select! {
            Some(piece) = stdout.recv() => keep(&mut self.stdout, &piece, room),
            Some(piece) = stderr.recv() => keep(&mut self.stderr, &piece, room),
            else => return false,
        }
        true
    }
}

fn keep(kept: &mut Vec<u8>, piece: &[u8], room: usize) {
    kept.extend_from_slice(&piece[..piece.len().min(room)]);
}
