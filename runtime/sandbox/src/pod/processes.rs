//! Execs, streams, waiting, and what is known of the pod.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use bulkhead_agent_api::agent;
use serde_json::json;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::{AbortHandle, JoinSet},
};
use tracing::{debug, instrument};

use super::{Place, Pod, containers::Input, lock, requests};
use crate::{
    agent::Agent,
    error::{Error, ErrorKind, Result},
    paths::check_id,
    spec::{ExecSpec, Exit, ProcessId, Stream},
    stdio::{
        input,
        output::{self, CHANNEL, ExitWatch},
    },
};

/// SIGKILL.
const KILL: u32 = 9;
/// Between two attempts to end a process without an owner.
const DISOWN_PAUSE: Duration = Duration::from_secs(5);

/// A further process in a container.
#[derive(Debug)]
pub(super) struct Exec {
    exit: ExitWatch,
    terminal: bool,
    opened: Mutex<HashSet<Stream>>,
    /// Its streams' pumps and its watcher; ended with the entry.
    tasks: Mutex<JoinSet<()>>,
}

impl Exec {
    fn has(&self, stream: Stream) -> bool {
        stream == Stream::Stdout || !self.terminal
    }
}

impl<P: Place> Pod<P> {
    #[instrument(name = "exec", skip_all, fields(pod = %self.record.pod_id,
        container = %spec.process.container_id, exec = %spec.process.exec_id))]
    pub(super) async fn start_exec(&self, spec: ExecSpec) -> Result<()> {
        check_id("exec id", &spec.process.exec_id)?;
        let kept = {
            let state = self.state.lock().await;
            let containers = &state.get().containers;
            containers.get(&spec.process.container_id).cloned()
        };
        let kept = kept.ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!(
                    "pod {} has no container {}",
                    self.record.pod_id, spec.process.container_id
                ),
            )
        })?;
        let request = requests::exec(&spec, &kept)?;
        self.ask_for_exec(request, spec.process.clone()).await?;
        let (tell, exit) = watch::channel(None);
        let mut tasks = JoinSet::new();
        let agent = Arc::clone(&self.agent);
        tasks.spawn(output::watch_exit(agent, spec.process.clone(), tell));
        let exec = Exec {
            exit,
            terminal: spec.terminal,
            opened: Mutex::default(),
            tasks: Mutex::new(tasks),
        };
        lock(&self.execs).insert(spec.process, Arc::new(exec));
        Ok(())
    }

    /// Asks the agent to run it. In a task of its own: whoever waits may give up
    /// while the request is under way, or the answer may come too late, and the
    /// process that runs then has no owner.
    async fn ask_for_exec(&self, request: agent::ExecRequest, process: ProcessId) -> Result<()> {
        let agent = Arc::clone(&self.agent);
        let (tell, told) = oneshot::channel();
        tokio::spawn(async move {
            let result = agent.exec(&request).await;
            let in_doubt = matches!(&result, Err(e) if e.kind() == ErrorKind::DeadlineExceeded);
            let unheard = tell.send(result).is_err_and(|result| result.is_ok());
            if in_doubt || unheard {
                disown(&agent, &process).await;
            }
        });
        match told.await {
            Ok(result) => result,
            // The runtime is shutting down: nothing goes on from here.
            Err(_) => std::future::pending().await,
        }
    }

    fn exec_entry(&self, process: &ProcessId) -> Result<Arc<Exec>> {
        lock(&self.execs).get(process).cloned().ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!(
                    "container {} has no process {}",
                    process.container_id, process.exec_id
                ),
            )
        })
    }

    pub(super) async fn end_exec(&self, process: &ProcessId) -> Result<()> {
        let Some(exec) = lock(&self.execs).remove(process) else {
            return Ok(());
        };
        let running = exec.exit.borrow().is_none();
        if running {
            match self.agent.signal(process, KILL, true).await {
                Err(e) if e.kind() == ErrorKind::SandboxDead => return Ok(()),
                // It may have ended just now.
                Err(e) => debug!(exec = %process.exec_id, "cannot kill: {e}"),
                Ok(()) => {}
            }
            let mut exit = exec.exit.clone();
            let ended = exit.wait_for(Option::is_some);
            let _ = tokio::time::timeout(std::time::Duration::from_secs(5), ended).await;
        }
        match self.agent.forget(process).await {
            Err(e) if matches!(e.kind(), ErrorKind::NotFound | ErrorKind::SandboxDead) => Ok(()),
            other => other,
        }
    }

    /// An exec whose client went with the daemon before this one: it runs on, its
    /// output goes nowhere, and it is forgotten when it has ended.
    pub(super) fn run_unheard(&self, process: ProcessId) {
        let agent = Arc::clone(&self.agent);
        tokio::spawn(async move {
            let (tell, exit) = watch::channel(None);
            let drain = |stream| {
                let task = output::pump_exec(
                    Arc::clone(&agent),
                    process.clone(),
                    stream,
                    None,
                    exit.clone(),
                );
                AbortOnDrop(tokio::spawn(task).abort_handle())
            };
            let _drains = [drain(Stream::Stdout), drain(Stream::Stderr)];
            output::watch_exit(Arc::clone(&agent), process.clone(), tell).await;
            let _ = agent.forget(&process).await;
        });
    }

    pub(super) async fn wait_for(&self, process: &ProcessId) -> Result<Exit> {
        let (mut exit, container) = if process.exec_id.is_empty() {
            let container = self.container(&process.container_id)?;
            (container.exit.clone(), Some(container))
        } else {
            (self.exec_entry(process)?.exit.clone(), None)
        };
        let result = match exit.wait_for(Option::is_some).await {
            Ok(known) => known.clone(),
            // The watcher is gone with its container.
            Err(_) => None,
        };
        let result = result.ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("container {} was removed", process.container_id),
            )
        })?;
        let exit = result.map_err(|e| Error::new(e.kind(), e.to_string()))?;
        if let Some(container) = container {
            container.output.completed().await;
        }
        Ok(exit)
    }

    pub(super) fn follow_output(
        &self,
        process: &ProcessId,
        stream: Stream,
    ) -> Result<mpsc::Receiver<Vec<u8>>> {
        if process.exec_id.is_empty() {
            let container = self.container(&process.container_id)?;
            return Ok(container.output.follow(stream));
        }
        let exec = self.exec_entry(process)?;
        let (sender, receiver) = mpsc::channel(CHANNEL);
        if !exec.has(stream) {
            return Ok(receiver);
        }
        if !lock(&exec.opened).insert(stream) {
            return Err(Error::new(
                ErrorKind::FailedPrecondition,
                format!("{stream:?} of {} has a reader already", process.exec_id),
            ));
        }
        lock(&exec.tasks).spawn(output::pump_exec(
            Arc::clone(&self.agent),
            process.clone(),
            stream,
            Some(sender),
            exec.exit.clone(),
        ));
        Ok(receiver)
    }

    pub(super) async fn feed_input(&self, process: &ProcessId) -> Result<mpsc::Sender<Vec<u8>>> {
        let open = |once| input::open(Arc::clone(&self.agent), process.clone(), once);
        if !process.exec_id.is_empty() {
            self.exec_entry(process)?;
            return open(true).await;
        }
        let container = self.container(&process.container_id)?;
        let mut input = container.input.lock().await;
        match input.as_ref() {
            // Closed: its writer could not reach the process; a new one is told why.
            Some(Input::Kept(sender)) if !sender.is_closed() => return Ok(sender.clone()),
            Some(Input::Once(sender)) => {
                // What its last holder wrote may still be on its way: nobody may come
                // behind that.
                return sender.upgrade().ok_or_else(|| {
                    Error::new(
                        ErrorKind::FailedPrecondition,
                        "stdin was closed when the last who wrote to it went (stdin_once)",
                    )
                });
            }
            _ => {}
        }
        let sender = open(container.stdin_once).await?;
        *input = Some(match container.stdin_once {
            true => Input::Once(sender.downgrade()),
            false => Input::Kept(sender.clone()),
        });
        Ok(sender)
    }

    /// Free-form facts for verbose status.
    pub(super) async fn describe(&self) -> serde_json::Value {
        let disks: Vec<serde_json::Value> = {
            let state = self.state.lock().await;
            let disks = state.get().disks.iter();
            disks
                .map(|(serial, blob)| json!({"serial": serial, "blob": blob}))
                .collect()
        };
        let outputs: Vec<_> = lock(&self.containers)
            .iter()
            .map(|(id, container)| (id.clone(), Arc::clone(container)))
            .collect();
        let mut containers = serde_json::Map::new();
        for (id, container) in outputs {
            let dropped = container.output.dropped().await;
            containers.insert(id, json!({"droppedLogBytes": dropped}));
        }
        let mut facts = json!({
            "sandbox": self.record.place,
            "pod": self.record.pod_id,
            "cgroup": self.record.cgroup,
            "runDir": self.paths.dir(),
            "kernel": self.facts.kernel_release,
            "agentVersion": self.facts.version,
            "layers": disks,
            "containers": containers,
            "exit": *self.exited.borrow(),
        });
        if let serde_json::Value::Object(fields) = &mut facts {
            fields.extend(self.place.facts().await);
        }
        facts
    }
}

/// Kills and forgets a process that nobody waits for, as soon as the guest answers.
async fn disown(agent: &Agent, process: &ProcessId) {
    loop {
        let done = match agent.signal(process, KILL, true).await {
            Ok(()) => {
                // Reaped a moment later; until then it can't be forgotten.
                let _ = tokio::time::timeout(DISOWN_PAUSE, agent.wait(process)).await;
                agent.forget(process).await
            }
            Err(e) => Err(e),
        };
        match done {
            Err(e) if matches!(e.kind(), ErrorKind::DeadlineExceeded | ErrorKind::Internal) => {
                debug!(exec = %process.exec_id, "cannot end an exec without an owner yet: {e}");
                tokio::time::sleep(DISOWN_PAUSE).await;
            }
            Ok(()) | Err(_) => return,
        }
    }
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
