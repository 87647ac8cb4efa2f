//! Containers: what there is ([`Containers`]), and how one comes and goes.
//!
//! ```text
//!  CreateContainer   hold layers ▶ directories ▶ cgroup + device filter ▶ helper
//!  StartContainer    tell the waiting init ▶ status pipe says how the execve went
//!  Exec              sub-cgroup ▶ helper ▶ status pipe
//!  RemoveContainer   kill the cgroup ▶ wait ▶ remove what Create made, backwards
//! ```
//!
//! Any step of a create may fail; what the steps before it made is then removed
//! the same way a remove does it.

pub mod binds;
pub mod cgroup;
pub mod create;
pub mod devices;
pub mod exec;
pub mod executor;
pub mod helper;
mod limits;
pub mod nodes;
pub mod protocol;
pub mod rootfs;
pub mod seccomp;
pub mod spec;
pub mod update;
pub mod users;

use std::{
    collections::{BTreeMap, HashMap},
    fs, io,
    os::fd::OwnedFd,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bulkhead_agent_api::MAX_ID_LEN;
use rustix::process::Pid;
use tokio::sync::{Notify, oneshot};
use ttrpc::Code;

use crate::{
    disks::layers::Layers,
    error::{Context as _, Error, Result},
    init::reaper::{Reaped, Reaper},
    place::Place,
    process::{Exit, Process, Written},
};
use cgroup::Cgroup;
use seccomp::Filter;

/// How long a killed process may take to be reaped.
const DIES_WITHIN: Duration = Duration::from_secs(10);

/// Every container of the pod.
#[derive(Debug)]
pub struct Containers {
    place: Place,
    layers: Layers,
    reaper: Arc<Reaper>,
    all: Mutex<BTreeMap<String, Slot>>,
    /// Told whenever something is made or removed, or was not.
    settled: Notify,
    /// Holds the pod's PID namespace, once a container wants to share it.
    pause: tokio::sync::Mutex<Option<Pid>>,
}

/// A container's place in the list: taken before anything is made.
#[derive(Clone, Debug)]
enum Slot {
    /// Being made or being removed.
    Busy(&'static str),
    Ready(Arc<Container>),
}

/// Whose a container is that shall be removed.
enum Claim {
    Unknown,
    /// Somebody makes or removes it.
    Busy,
    Mine(Arc<Container>),
}

/// A container that has been created.
#[derive(Debug)]
pub struct Container {
    id: String,
    dir: PathBuf,
    cgroup: Cgroup,
    init: Arc<Process>,
    execs: Mutex<HashMap<String, ExecSlot>>,
    /// The status pipe of an init that has not been started.
    unstarted: tokio::sync::Mutex<Option<OwnedFd>>,
    /// Execs are confined as their container is.
    seccomp: Option<Filter>,
}

#[derive(Clone, Debug)]
enum ExecSlot {
    Starting,
    Ready(Arc<Process>),
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Checks that an id can be one, and can be a file name.
///
/// # Errors
/// `INVALID_ARGUMENT`.
pub fn check_id(id: &str, what: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if id.is_empty() || id.len() > MAX_ID_LEN || id.starts_with('.') || !id.chars().all(plain) {
        return Err(Error::invalid(format!(
            "{id:?} is no {what} id: 1 to {MAX_ID_LEN} of A-Z a-z 0-9 - _ . and no dot in front"
        )));
    }
    Ok(())
}

impl Container {
    /// The daemon's name for it.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its cgroup.
    #[must_use]
    pub fn cgroup(&self) -> &Cgroup {
        &self.cgroup
    }

    /// Its first process.
    #[must_use]
    pub fn init(&self) -> &Arc<Process> {
        &self.init
    }

    fn exec_cgroup(&self, exec_id: &str) -> Cgroup {
        self.cgroup.child(&format!("exec-{exec_id}"))
    }

    fn process(&self, exec_id: &str) -> Result<Arc<Process>> {
        if exec_id.is_empty() {
            return Ok(Arc::clone(&self.init));
        }
        match lock(&self.execs).get(exec_id) {
            Some(ExecSlot::Ready(process)) => Ok(Arc::clone(process)),
            _ => Err(Error::not_found(format!(
                "container {} has no process {exec_id:?}",
                self.id
            ))),
        }
    }

    fn processes(&self) -> Vec<Arc<Process>> {
        let execs = lock(&self.execs);
        std::iter::once(Arc::clone(&self.init))
            .chain(execs.values().filter_map(|slot| match slot {
                ExecSlot::Ready(process) => Some(Arc::clone(process)),
                ExecSlot::Starting => None,
            }))
            .collect()
    }
}

impl Containers {
    /// No containers yet.
    #[must_use]
    pub fn new(place: Place, layers: Layers, reaper: Arc<Reaper>) -> Self {
        Self {
            place,
            layers,
            reaper,
            all: Mutex::default(),
            settled: Notify::new(),
            pause: tokio::sync::Mutex::default(),
        }
    }

    /// Where the agent runs.
    #[must_use]
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// The pod's image layers.
    #[must_use]
    pub fn layers(&self) -> &Layers {
        &self.layers
    }

    /// A container by id.
    ///
    /// # Errors
    /// `NOT_FOUND`; `UNAVAILABLE` while it is being made or removed.
    pub fn get(&self, id: &str) -> Result<Arc<Container>> {
        match lock(&self.all).get(id) {
            Some(Slot::Ready(container)) => Ok(Arc::clone(container)),
            Some(Slot::Busy(how)) => Err(busy(id, how)),
            None => Err(Error::not_found(format!("no container {id:?}"))),
        }
    }

    /// Every container that is neither being made nor being removed.
    #[must_use]
    pub fn list(&self) -> Vec<Arc<Container>> {
        lock(&self.all)
            .values()
            .filter_map(|slot| match slot {
                Slot::Ready(container) => Some(Arc::clone(container)),
                Slot::Busy(_) => None,
            })
            .collect()
    }

    /// A process by container and exec id.
    ///
    /// # Errors
    /// `NOT_FOUND`.
    pub fn process(&self, container_id: &str, exec_id: &str) -> Result<Arc<Process>> {
        self.get(container_id)?.process(exec_id)
    }

    /// Every process.
    #[must_use]
    pub fn processes(&self) -> Vec<Arc<Process>> {
        self.list().iter().flat_map(|c| c.processes()).collect()
    }

    /// Sends a signal to a process, or to everything in its cgroup.
    ///
    /// # Errors
    /// `NOT_FOUND` when the process is unknown or has ended.
    pub fn signal(&self, container_id: &str, exec_id: &str, number: u32, all: bool) -> Result<()> {
        let container = self.get(container_id)?;
        let process = container.process(exec_id)?;
        if !all {
            return process.signal(number);
        }
        let signal = crate::process::signal_from(number)?;
        let group = if exec_id.is_empty() {
            container.cgroup.clone()
        } else {
            container.exec_cgroup(exec_id)
        };
        if signal == rustix::process::Signal::KILL {
            group.kill();
        } else {
            group.signal_all(signal);
        }
        Ok(())
    }

    /// Forgets an exec that has ended, with its output. Unknown ids succeed.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` while it runs, or for a container's init.
    pub async fn forget(&self, container_id: &str, exec_id: &str) -> Result<()> {
        if exec_id.is_empty() {
            return Err(Error::precondition(
                "a container's init is forgotten with its container: RemoveContainer",
            ));
        }
        let Ok(container) = self.get(container_id) else {
            return Ok(());
        };
        let Ok(process) = container.process(exec_id) else {
            return Ok(());
        };
        if process.exit().is_none() {
            return Err(Error::precondition(format!(
                "process {exec_id:?} of container {container_id} has not ended"
            )));
        }
        // What it left running in the background goes on, in the container's own
        // cgroup.
        let group = container.exec_cgroup(exec_id);
        adopt(&group, &container.cgroup);
        if let Err(why) = fs::remove_dir(group.dir())
            && why.kind() != io::ErrorKind::NotFound
        {
            tracing::debug!("remove {}: {why}", group.dir().display());
        }
        lock(&container.execs).remove(exec_id);
        Ok(())
    }

    /// Changes a container's limits: all of them, or none.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT` for what makes no sense or what the kernel refuses;
    /// `FAILED_PRECONDITION` when the container has ended, or holds more memory than
    /// it shall have.
    pub async fn update(&self, id: &str, resources: &[u8]) -> Result<()> {
        let settings = update::parse(resources)?;
        let container = self.get(id)?;
        if container.init.exit().is_some() {
            return Err(Error::precondition(format!("container {id} has ended")));
        }
        let cgroup = container.cgroup.clone();
        crate::disks::layers::blocking(move || update::apply(&cgroup.dir(), &settings)).await
    }

    /// Removes a container, whatever its state. Unknown ids succeed. One that is being
    /// made is removed when it is: who asks may not be who asked for it, and should not
    /// have to guess when that is.
    ///
    /// # Errors
    /// What could not be removed: the call can be repeated.
    pub async fn remove(&self, id: &str) -> Result<()> {
        let container = loop {
            // From before the look on: what happens behind it is heard of.
            let mut settled = std::pin::pin!(self.settled.notified());
            settled.as_mut().enable();
            match self.claim_for_removal(id) {
                Claim::Unknown => return Ok(()),
                Claim::Mine(container) => break container,
                Claim::Busy => settled.await,
            }
        };
        let removed = self
            .tear_down(id, &container.cgroup, Some(&container))
            .await;
        let mut all = lock(&self.all);
        match &removed {
            Ok(()) => all.remove(id),
            Err(_) => all.insert(id.to_owned(), Slot::Ready(container)),
        };
        drop(all);
        self.settled.notify_waiters();
        removed
    }

    fn claim_for_removal(&self, id: &str) -> Claim {
        let mut all = lock(&self.all);
        match all.get(id) {
            None => Claim::Unknown,
            Some(Slot::Busy(_)) => Claim::Busy,
            Some(Slot::Ready(container)) => {
                let container = Arc::clone(container);
                all.insert(id.to_owned(), Slot::Busy("removed"));
                Claim::Mine(container)
            }
        }
    }

    /// Undoes a create that failed.
    async fn discard(&self, id: &str) {
        let cgroup = self.cgroup_of(id);
        if let Err(why) = self.tear_down(id, &cgroup, None).await {
            tracing::error!("clean up after container {id}: {why}");
        }
        lock(&self.all).remove(id);
        self.settled.notify_waiters();
    }

    async fn tear_down(
        &self,
        id: &str,
        cgroup: &Cgroup,
        container: Option<&Container>,
    ) -> Result<()> {
        cgroup.remove().await?;
        if let Some(container) = container {
            tokio::time::timeout(DIES_WITHIN, container.init.wait())
                .await
                .map_err(|_| Error::internal(format!("container {id} was killed and lives on")))?;
        }
        remove_all(&self.place.container(id)).await?;
        remove_all(&self.place.upper(id)).await?;
        self.layers.let_go(id).await;
        Ok(())
    }

    fn cgroup_of(&self, id: &str) -> Cgroup {
        Cgroup::at(self.place.pod_cgroup()).child(id)
    }

    fn reserve(&self, id: &str) -> Result<()> {
        check_id(id, "container")?;
        let mut all = lock(&self.all);
        if all.contains_key(id) {
            return Err(Error::new(
                Code::ALREADY_EXISTS,
                format!("container {id} exists"),
            ));
        }
        all.insert(id.to_owned(), Slot::Busy("created"));
        Ok(())
    }

    /// Ends every process of every container: SIGTERM to the inits, SIGKILL to
    /// whatever is left after `grace`.
    pub async fn end_all(&self, grace: Duration) {
        let all = self.list();
        for container in &all {
            // It may have ended already.
            let _ = container.init.signal(15);
        }
        let ended = async {
            for container in &all {
                container.init.wait().await;
            }
        };
        if tokio::time::timeout(grace, ended).await.is_err() {
            // Not the pod's, which on a host has the agent itself in it.
            for container in &all {
                container.cgroup.kill();
            }
            let killed = async {
                for container in &all {
                    container.init.wait().await;
                }
            };
            let _ = tokio::time::timeout(DIES_WITHIN, killed).await;
        }
    }
}

fn busy(id: &str, how: &str) -> Error {
    Error::new(
        Code::UNAVAILABLE,
        format!("container {id} is being {how}: try again"),
    )
}

/// Moves processes from one cgroup to another, as far as they are still there.
fn adopt(from: &Cgroup, to: &Cgroup) {
    for pid in from.pids() {
        let _ = fs::write(
            to.dir().join("cgroup.procs"),
            pid.as_raw_nonzero().to_string(),
        );
    }
}

async fn remove_all(dir: &std::path::Path) -> Result<()> {
    let dir = dir.to_owned();
    crate::disks::layers::blocking(move || match fs::remove_dir_all(&dir) {
        Err(why) if why.kind() != io::ErrorKind::NotFound => {
            Err(why).context(|| format!("remove {}", dir.display()))
        }
        _ => Ok(()),
    })
    .await
}

/// Turns a reaped child into its process's exit, when it comes.
fn report_exit(process: Arc<Process>, cgroup: Cgroup, reaped: oneshot::Receiver<Reaped>) {
    let oom_before = cgroup.oom_kills();
    tokio::spawn(async move {
        let Ok(reaped) = reaped.await else {
            return;
        };
        if process.exec_id().is_empty() {
            // With a PID namespace of its own they are dead already.
            cgroup.kill();
        }
        process.mark_exited(Exit {
            code: reaped.code,
            signal: reaped.signal,
            oom_killed: says_killed(reaped.code) && cgroup.oom_kills() > oom_before,
            finished_unix_ns: reaped.at_unix_ns,
            written: Written::default(),
        });
    });
}

/// Whether an exit code tells of SIGKILL: the process's own end by it, or that of the
/// child whose status it ended with, as a shell does for its last command.
fn says_killed(code: i32) -> bool {
    code == 128 + libc::SIGKILL
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shells_last_command_counts_as_itself() {
        assert!(says_killed(137));
        assert!(!says_killed(0) && !says_killed(1) && !says_killed(143));
    }

    #[test]
    fn ids_are_file_names() {
        check_id(&"c".repeat(64), "container").unwrap();
        check_id("a_b-c.d", "container").unwrap();
        for bad in ["", ".", "..", ".x", "a/b", "a b", "ü", &"c".repeat(129)] {
            assert!(check_id(bad, "container").is_err(), "{bad:?}");
        }
    }
}
