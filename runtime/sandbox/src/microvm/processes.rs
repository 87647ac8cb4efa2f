//! Execs, streams, waiting, and what is known of the VM.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
};

use serde_json::json;
use tokio::{
    sync::{mpsc, watch},
    task::{AbortHandle, JoinSet},
};
use tracing::{debug, instrument};

use super::{MicroVm, lock, requests};
use crate::{
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

impl MicroVm {
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
        self.agent.exec(&request).await?;
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
        let once = if process.exec_id.is_empty() {
            self.container(&process.container_id)?.stdin_once
        } else {
            self.exec_entry(process)?;
            true
        };
        input::open(Arc::clone(&self.agent), process.clone(), once).await
    }

    /// Free-form facts for verbose status.
    pub(super) async fn facts(&self) -> serde_json::Value {
        let disks: Vec<serde_json::Value> = {
            let state = self.state.lock().await;
            let disks = state.get().disks.iter();
            disks
                .map(|(serial, blob)| json!({"serial": serial, "blob": blob}))
                .collect()
        };
        let mut facts = json!({
            "sandbox": "microvm",
            "pod": self.record.pod_id,
            "vmmPid": self.record.pid,
            "cgroup": self.record.cgroup,
            "runDir": self.paths.dir(),
            "kernel": self.guest.kernel_release,
            "agentVersion": self.guest.agent_version,
            "layers": disks,
            "exit": *self.exited.borrow(),
        });
        let (Ok(status), Ok(exits)) = tokio::join!(self.control.status(), self.control.exits())
        else {
            return facts;
        };
        let devices: Vec<serde_json::Value> = status
            .devices
            .iter()
            .map(|device| {
                json!({
                    "name": device.name, "pci": device.pci, "activated": device.activated,
                    "failure": device.failure,
                })
            })
            .collect();
        if let serde_json::Value::Object(fields) = &mut facts {
            fields.insert("vmmVersion".to_owned(), status.version.into());
            fields.insert("devices".to_owned(), devices.into());
            let exits: serde_json::Map<_, _> = exits
                .into_iter()
                .map(|(reason, n)| (reason, n.into()))
                .collect();
            fields.insert("exits".to_owned(), exits.into());
        }
        facts
    }
}

struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
