//! Creating, logging and removing containers.

use std::{fs, io, path::PathBuf, sync::Arc};

use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tracing::{instrument, warn};

use super::{Place, Pod, disks::Attachment, lock, requests, state::ContainerState};
use crate::{
    error::{Error, ErrorKind, Result},
    log::ContainerLog,
    paths::check_id,
    spec::{ContainerSpec, Created, LogTarget, ProcessId, Stream},
    stdio::output::{self, ContainerOutput, ExitWatch},
};

/// A container whose output is being drained.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) output: Arc<ContainerOutput>,
    pub(super) exit: ExitWatch,
    pub(super) stdin_once: bool,
    /// The way to its stdin, once somebody has asked for it.
    pub(super) input: tokio::sync::Mutex<Option<Input>>,
    /// Ended with the container's entry.
    _tasks: JoinSet<()>,
}

/// The one writer of a container's stdin: bytes have offsets, and two writers would
/// count them apart.
#[derive(Debug)]
pub(super) enum Input {
    /// It stays as long as the container, whoever comes and goes.
    Kept(mpsc::Sender<Vec<u8>>),
    /// It closes stdin for good when the last who holds it goes (`stdin_once`).
    Once(mpsc::WeakSender<Vec<u8>>),
}

impl<P: Place> Pod<P> {
    /// The entry of a container.
    pub(super) fn container(&self, id: &str) -> Result<Arc<Container>> {
        lock(&self.containers).get(id).cloned().ok_or_else(|| {
            Error::new(
                ErrorKind::NotFound,
                format!("pod {} has no container {id}", self.record.pod_id),
            )
        })
    }

    #[instrument(name = "create", skip_all,
        fields(pod = %self.record.pod_id, container = %spec.container_id))]
    pub(super) async fn make_container(&self, spec: ContainerSpec) -> Result<Created> {
        check_id("container id", &spec.container_id)?;
        let kept = requests::container_state(&spec)?;
        self.enter(&spec.container_id, &kept).await?;
        let made = self.try_make(&spec, &kept).await;
        if let Err(e) = &made {
            let id = &spec.container_id;
            if let Err(undo) = self.unmake_container(id).await
                && undo.kind() != ErrorKind::SandboxDead
            {
                warn!("cannot clean up after a failed create ({e}): {undo}");
            }
        }
        made
    }

    /// Notes the container before anything is done for it.
    async fn enter(&self, id: &str, kept: &ContainerState) -> Result<()> {
        self.state.lock().await.change(|state| {
            if state.containers.contains_key(id) {
                return Err(Error::new(
                    ErrorKind::AlreadyExists,
                    format!("container {id} exists already"),
                ));
            }
            state.containers.insert(id.to_owned(), kept.clone());
            Ok(())
        })
    }

    async fn try_make(&self, spec: &ContainerSpec, kept: &ContainerState) -> Result<Created> {
        let id = &spec.container_id;
        let checkpoint = self.paths.log_checkpoint(id);
        let log = open_log(spec.log.clone(), checkpoint, ContainerLog::create).await?;
        let serials = self.attach(id, &spec.layers).await?;
        let request = requests::create(spec, kept, serials)?;
        let created = self.agent.create_container(&request).await?;
        self.begin_draining(id, kept, log);
        Ok(created)
    }

    /// Makes a container's layers available to the agent; returns their serials.
    async fn attach(&self, id: &str, layers: &[PathBuf]) -> Result<Vec<String>> {
        let mut file = self.state.lock().await;
        let Attachment { serials, missing } = file.change(|state| state.disks.claim(id, layers))?;
        if missing.is_empty() {
            return Ok(serials);
        }
        for (serial, blob) in &missing {
            self.place.add_disk(serial, blob).await?;
        }
        let new: Vec<String> = missing.into_iter().map(|(serial, _)| serial).collect();
        self.agent.attach_layers(&new).await?;
        file.change(|state| {
            state.disks.attached(&new);
            Ok(())
        })?;
        Ok(serials)
    }

    /// Releases a container's layers: the agent lets go of a disk before its
    /// place takes it away. A disk that cannot be taken away stays for the next time.
    async fn detach(&self, id: &str) -> Result<()> {
        let mut file = self.state.lock().await;
        let unused = file.change(|state| {
            state.disks.release(id);
            Ok(state.disks.unused())
        })?;
        if unused.is_empty() {
            return Ok(());
        }
        if let Err(e) = self.agent.release_layers(&unused).await {
            warn!(container = %id, "the agent does not let go of layers: {e}");
            return Ok(());
        }
        let mut removed = Vec::new();
        for serial in unused {
            match self.place.remove_disk(&serial).await {
                Ok(()) => removed.push(serial),
                Err(e) => warn!(container = %id, disk = %serial, "cannot remove a disk: {e}"),
            }
        }
        file.change(|state| {
            removed
                .iter()
                .for_each(|serial| state.disks.removed(serial));
            Ok(())
        })
    }

    fn begin_draining(&self, id: &str, kept: &ContainerState, log: ContainerLog) {
        let process = ProcessId::init(id);
        let output = Arc::new(ContainerOutput::new(log, !kept.terminal));
        let (tell, exit) = watch::channel(None);
        let mut tasks = JoinSet::new();
        let agent = || Arc::clone(&self.agent);
        tasks.spawn(output::watch_exit(agent(), process.clone(), tell));
        let mut streams = vec![Stream::Stdout];
        if !kept.terminal {
            streams.push(Stream::Stderr);
        }
        for stream in streams {
            tasks.spawn(output::pump_container(
                agent(),
                process.clone(),
                stream,
                Arc::clone(&output),
                exit.clone(),
            ));
        }
        let container = Container {
            output,
            exit,
            stdin_once: kept.stdin_once,
            input: tokio::sync::Mutex::default(),
            _tasks: tasks,
        };
        lock(&self.containers).insert(id.to_owned(), Arc::new(container));
    }

    pub(super) async fn resume_logging(&self, id: &str, log: LogTarget) -> Result<()> {
        if lock(&self.containers).contains_key(id) {
            return Ok(());
        }
        let kept = {
            let state = self.state.lock().await;
            state.get().containers.get(id).cloned().ok_or_else(|| {
                Error::new(
                    ErrorKind::NotFound,
                    format!("pod {} has no container {id}", self.record.pod_id),
                )
            })?
        };
        let log = open_log(log, self.paths.log_checkpoint(id), ContainerLog::resume).await?;
        self.begin_draining(id, &kept, log);
        Ok(())
    }

    pub(super) async fn rotate_log(&self, id: &str) -> Result<()> {
        let container = self.container(id)?;
        container.output.reopen().await.map_err(|e| {
            Error::new(
                ErrorKind::Internal,
                format!("cannot reopen the log of container {id}"),
            )
            .caused_by(e)
        })
    }

    #[instrument(name = "remove", skip_all,
        fields(pod = %self.record.pod_id, container = %id))]
    pub(super) async fn unmake_container(&self, id: &str) -> Result<()> {
        check_id("container id", id)?;
        let known = self.state.lock().await.get().containers.contains_key(id);
        if !known {
            return Ok(());
        }
        match self.agent.remove_container(id).await {
            // With the sandbox, everything in it is gone.
            Err(e) if e.kind() == ErrorKind::SandboxDead => {}
            other => other?,
        }
        lock(&self.containers).remove(id);
        lock(&self.execs).retain(|process, _| process.container_id != id);
        if !self.agent.exit_known() {
            self.detach(id).await?;
        }
        let _ = fs::remove_file(self.paths.log_checkpoint(id));
        self.state.lock().await.change(|state| {
            state.disks.release(id);
            state.containers.remove(id);
            Ok(())
        })
    }
}

/// Opens a log where blocking is allowed.
async fn open_log(
    target: LogTarget,
    checkpoint: PathBuf,
    open: fn(LogTarget, PathBuf) -> io::Result<ContainerLog>,
) -> Result<ContainerLog> {
    let path = target.directory.join(&target.path);
    let task = tokio::task::spawn_blocking(move || open(target, checkpoint));
    let opened = task
        .await
        .map_err(io::Error::other)
        .and_then(|opened| opened);
    opened.map_err(|e| {
        let kind = match e.kind() {
            io::ErrorKind::InvalidInput => ErrorKind::InvalidArgument,
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                ErrorKind::ResourceExhausted
            }
            _ => ErrorKind::Internal,
        };
        Error::new(kind, format!("cannot open the log {}", path.display())).caused_by(e)
    })
}
