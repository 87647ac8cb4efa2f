//! A guest whose programs are words.
//!
//! | first word | as a container | as an exec |
//! |---|---|---|
//! | `sleep` | runs until a signal | runs until it is killed |
//! | `stubborn` | ignores SIGTERM | |
//! | `true` | ends at once with 0 | ends at once with 0 |
//! | `exit N` | ends at once with N | ends with N |
//! | `oom` | is killed by the OOM killer at once | |
//! | `missing` | can't be started | can't be started |
//! | `echo …` | | writes its words and a newline |
//! | `flood N` | | writes N bytes to stdout |

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bulkhead_sandbox::{
    ClockChange, ContainerSpec, Created, Error, ErrorKind, ExecSpec, Exit, LogTarget, PlaceKind,
    Process, ProcessId, ProcessState, Result, Sandbox, SandboxExit, SandboxRecord, SandboxStats,
    Started, Stream, Timing, User, WindowSize,
};
use oci_spec::runtime::LinuxResources;
use tokio::{
    io::AsyncWriteExt as _,
    net::UnixStream,
    sync::{mpsc, watch},
};

use super::{gauges::Gauges, world::Hand};
use crate::clock;

/// The one TCP port of a pod that answers: with what it gets.
pub const ECHO_PORT: u16 = 7;

/// A virtual machine: lives in the world.
pub(super) struct Vm {
    record: SandboxRecord,
    exit: watch::Sender<Option<SandboxExit>>,
    processes: Mutex<BTreeMap<ProcessId, Slot>>,
    hung: AtomicBool,
    gauges: Mutex<Gauges>,
}

struct Slot {
    args: Vec<String>,
    state: ProcessState,
    started: i64,
    ended: watch::Sender<Option<Exit>>,
    /// Stdout of an exec that nobody has taken yet.
    output: Option<Vec<Vec<u8>>>,
}

impl Vm {
    pub(super) fn new(pod_id: &str, place: PlaceKind) -> Arc<Self> {
        Arc::new(Self {
            record: SandboxRecord {
                pod_id: pod_id.to_owned(),
                place,
                pid: 4242,
                pid_start_ticks: 1,
                cgroup: format!("bulkhead/{pod_id}"),
            },
            exit: watch::Sender::new(None),
            processes: Mutex::default(),
            hung: AtomicBool::new(false),
            gauges: Mutex::default(),
        })
    }

    pub(super) fn container_ids(&self) -> Vec<String> {
        let processes = self.lock();
        let inits = processes.keys().filter(|id| id.exec_id.is_empty());
        inits.map(|id| id.container_id.clone()).collect()
    }

    pub(super) fn end(&self, reason: &str, message: &str) {
        self.exit.send_if_modified(|exit| {
            let first = exit.is_none();
            exit.get_or_insert_with(|| SandboxExit {
                reason: reason.to_owned(),
                message: message.to_owned(),
                at_unix_ns: clock::now_ns(),
            });
            first
        });
    }

    pub(super) fn hang(&self) {
        self.hung.store(true, Ordering::SeqCst);
    }

    pub(super) fn end_process(&self, container_id: &str, code: i32, oom_killed: bool) {
        self.finish(&ProcessId::init(container_id), code, oom_killed);
    }

    /// What a test reads and turns.
    pub(super) fn gauges(&self) -> MutexGuard<'_, Gauges> {
        self.gauges.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn figures(&self) -> SandboxStats {
        let ids = self.container_ids();
        self.gauges().figures(ids)
    }

    fn update(&self, id: &str, resources: &LinuxResources) -> Result<()> {
        if !self.lock().contains_key(&ProcessId::init(id)) {
            return Err(absent(&ProcessId::init(id)));
        }
        self.gauges().update(id, resources)
    }

    fn online(&self, count: u32) -> u32 {
        let mut gauges = self.gauges();
        gauges.online_cpus = gauges.online_cpus.max(count);
        gauges.online_cpus
    }

    fn change_clock(&self, change: ClockChange) {
        self.gauges().clock_changes.push(change);
    }

    fn finish(&self, id: &ProcessId, code: i32, oom_killed: bool) {
        let mut processes = self.lock();
        let Some(slot) = processes.get_mut(id) else {
            return;
        };
        if matches!(slot.state, ProcessState::Exited(_)) {
            return;
        }
        let exit = Exit {
            code,
            oom_killed,
            finished_unix_ns: clock::now_ns(),
            written: Default::default(),
        };
        slot.state = ProcessState::Exited(exit);
        slot.ended.send_replace(Some(exit));
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<ProcessId, Slot>> {
        self.processes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A daemon's hand on a virtual machine.
pub(super) struct FakeSandbox {
    pub(super) world: Hand,
    pub(super) vm: Arc<Vm>,
}

fn injected(message: String) -> Error {
    Error::new(ErrorKind::Internal, message)
}

fn absent(id: &ProcessId) -> Error {
    Error::new(
        ErrorKind::NotFound,
        format!("no process {}/{}", id.container_id, id.exec_id),
    )
}

impl FakeSandbox {
    /// A call to the guest: may fail, freeze, find the guest dead or hung.
    async fn call(&self, name: &str) -> Result<()> {
        self.world.point(name, true).await.map_err(injected)?;
        self.answer(name).await
    }

    /// A call that changes nothing that matters: finds the guest dead or hung, but
    /// is no point of a fault, for it comes whenever a pod is measured.
    async fn answer(&self, name: &str) -> Result<()> {
        self.alive()?;
        if self.vm.hung.load(Ordering::SeqCst) {
            let mut exit = self.vm.exit.subscribe();
            let limit = Duration::from_millis(200);
            if tokio::time::timeout(limit, exit.wait_for(Option::is_some))
                .await
                .is_err()
            {
                let message = format!("{name}: the guest does not answer");
                return Err(Error::new(ErrorKind::DeadlineExceeded, message));
            }
        }
        self.alive()
    }

    /// The point after an effect: a daemon may be killed there, but the effect's
    /// contract knows no failure that leaves it done.
    async fn done(&self, name: &str) {
        let _ = self.world.point(name, false).await;
    }

    fn alive(&self) -> Result<()> {
        match &*self.vm.exit.borrow() {
            None => Ok(()),
            Some(exit) => Err(Error::new(
                ErrorKind::SandboxDead,
                format!("the sandbox has ended: {}", exit.reason),
            )),
        }
    }
}

fn slot(args: Vec<String>, state: ProcessState) -> Slot {
    Slot {
        args,
        state,
        started: 0,
        ended: watch::Sender::new(None),
        output: None,
    }
}

fn word(args: &[String], index: usize) -> &str {
    args.get(index).map_or("", String::as_str)
}

fn number(args: &[String], index: usize) -> usize {
    word(args, index).parse().unwrap_or(0)
}

#[async_trait]
impl Sandbox for FakeSandbox {
    fn record(&self) -> SandboxRecord {
        self.vm.record.clone()
    }

    fn exited(&self) -> watch::Receiver<Option<SandboxExit>> {
        self.vm.exit.subscribe()
    }

    fn timings(&self) -> Vec<Timing> {
        vec![Timing {
            phase: "guest boot".to_owned(),
            took: Duration::from_millis(12),
        }]
    }

    async fn create_container(&self, spec: ContainerSpec) -> Result<Created> {
        self.call("create_container").await?;
        let args = spec
            .oci
            .process()
            .as_ref()
            .and_then(|process| process.args().clone())
            .unwrap_or_default();
        let id = ProcessId::init(spec.container_id.as_str());
        let clash = {
            let mut processes = self.vm.lock();
            let clash = processes.contains_key(&id);
            processes
                .entry(id)
                .or_insert_with(|| slot(args, ProcessState::Created));
            clash
        };
        if clash {
            return Err(Error::new(ErrorKind::AlreadyExists, "container exists"));
        }
        self.world.note(format!("create {}", spec.container_id));
        self.done("create_container done").await;
        Ok(Created {
            user: User {
                uid: 1000,
                gid: 100,
                supplemental_groups: vec![100, 7],
            },
        })
    }

    async fn start_container(&self, container_id: &str) -> Result<Started> {
        self.call("start_container").await?;
        let id = ProcessId::init(container_id);
        let at = clock::now_ns();
        let args = {
            let mut processes = self.vm.lock();
            let slot = processes.get_mut(&id).ok_or_else(|| absent(&id))?;
            if slot.state != ProcessState::Created {
                return Err(Error::new(ErrorKind::FailedPrecondition, "not created"));
            }
            if word(&slot.args, 0) != "missing" {
                slot.state = ProcessState::Running;
                slot.started = at;
            }
            slot.args.clone()
        };
        match word(&args, 0) {
            "missing" => {
                self.vm.finish(&id, 127, false);
                return Err(Error::new(
                    ErrorKind::NotFound,
                    "exec \"missing\": no such file",
                ));
            }
            "true" => self.vm.finish(&id, 0, false),
            "exit" => self
                .vm
                .finish(&id, i32::try_from(number(&args, 1)).unwrap_or(255), false),
            "oom" => self.vm.finish(&id, 137, true),
            _ => {}
        }
        self.done("start_container done").await;
        Ok(Started { at_unix_ns: at })
    }

    async fn resume_container(&self, container_id: &str, _log: LogTarget) -> Result<()> {
        self.call("resume_container").await?;
        let id = ProcessId::init(container_id);
        if self.vm.lock().contains_key(&id) {
            Ok(())
        } else {
            Err(absent(&id))
        }
    }

    async fn reopen_log(&self, container_id: &str) -> Result<()> {
        self.call("reopen_log").await?;
        self.world.note(format!("reopen {container_id}"));
        Ok(())
    }

    async fn remove_container(&self, container_id: &str) -> Result<()> {
        self.call("remove_container").await?;
        self.vm.finish(&ProcessId::init(container_id), 137, false);
        self.vm
            .lock()
            .retain(|id, _| id.container_id != container_id);
        self.done("remove_container done").await;
        Ok(())
    }

    async fn exec(&self, spec: ExecSpec) -> Result<()> {
        self.call("exec").await?;
        let args = spec.args.clone();
        let mut new = slot(spec.args, ProcessState::Running);
        let code = match word(&args, 0) {
            "missing" => {
                return Err(Error::new(
                    ErrorKind::NotFound,
                    "exec \"missing\": no such file",
                ));
            }
            "echo" => {
                new.output = Some(vec![format!("{}\n", args[1..].join(" ")).into_bytes()]);
                Some(0)
            }
            "flood" => {
                let piece = vec![b'x'; 64 * 1024];
                let mut left = number(&args, 1);
                let mut pieces = Vec::new();
                while left > 0 {
                    let size = left.min(piece.len());
                    pieces.push(piece[..size].to_vec());
                    left -= size;
                }
                new.output = Some(pieces);
                Some(0)
            }
            "exit" => Some(i32::try_from(number(&args, 1)).unwrap_or(255)),
            "true" => Some(0),
            _ => None,
        };
        self.vm.lock().insert(spec.process.clone(), new);
        if let Some(code) = code {
            self.vm.finish(&spec.process, code, false);
        }
        Ok(())
    }

    async fn forget_exec(&self, process: &ProcessId) -> Result<()> {
        self.call("forget_exec").await?;
        self.vm.finish(process, 137, false);
        self.vm
            .lock()
            .remove(process)
            .map(|_| ())
            .ok_or_else(|| absent(process))
    }

    async fn signal(&self, process: &ProcessId, signal: u32, _all: bool) -> Result<()> {
        self.call("signal").await?;
        let args = {
            let processes = self.vm.lock();
            let slot = processes.get(process).ok_or_else(|| absent(process))?;
            if matches!(slot.state, ProcessState::Exited(_)) {
                return Err(absent(process));
            }
            slot.args.clone()
        };
        self.world
            .note(format!("signal {signal} {}", process.container_id));
        if signal == 9 || word(&args, 0) != "stubborn" {
            self.vm
                .finish(process, 128 + i32::try_from(signal).unwrap_or(0), false);
        }
        Ok(())
    }

    async fn wait(&self, process: &ProcessId) -> Result<Exit> {
        let mut ended = {
            let processes = self.vm.lock();
            processes
                .get(process)
                .ok_or_else(|| absent(process))?
                .ended
                .subscribe()
        };
        let mut exited = self.vm.exit.subscribe();
        let exit = tokio::select! {
            biased;
            _ = exited.wait_for(Option::is_some) => None,
            exit = ended.wait_for(Option::is_some) => exit.ok().and_then(|exit| *exit),
        };
        // The daemon that is being killed sees nothing any more.
        let _ = self.world.point("wait", false).await;
        self.alive()?;
        exit.ok_or_else(|| absent(process))
    }

    async fn resize(&self, _process: &ProcessId, _window: WindowSize) -> Result<()> {
        self.call("resize").await
    }

    async fn open_output(
        &self,
        process: &ProcessId,
        stream: Stream,
    ) -> Result<mpsc::Receiver<Vec<u8>>> {
        self.call("open_output").await?;
        let (pieces, mut ended) = {
            let mut processes = self.vm.lock();
            let slot = processes.get_mut(process).ok_or_else(|| absent(process))?;
            let output = if stream == Stream::Stdout {
                slot.output.take()
            } else {
                None
            };
            (output.unwrap_or_default(), slot.ended.subscribe())
        };
        if process.exec_id.is_empty() {
            self.world.note(format!("follow {}", process.container_id));
        }
        let (sender, receiver) = mpsc::channel(4);
        let mut dead = self.vm.exit.subscribe();
        tokio::spawn(async move {
            for piece in pieces {
                if sender.send(piece).await.is_err() {
                    return;
                }
            }
            tokio::select! {
                _ = ended.wait_for(Option::is_some) => {}
                _ = dead.wait_for(Option::is_some) => {}
                () = sender.closed() => {}
            }
        });
        Ok(receiver)
    }

    async fn open_input(&self, process: &ProcessId) -> Result<mpsc::Sender<Vec<u8>>> {
        self.call("open_input").await?;
        if !self.vm.lock().contains_key(process) {
            return Err(absent(process));
        }
        // `cat`: what comes in ends the process when the sender goes.
        let (sender, mut receiver) = mpsc::channel::<Vec<u8>>(4);
        let (vm, process) = (Arc::clone(&self.vm), process.clone());
        tokio::spawn(async move {
            while receiver.recv().await.is_some() {}
            vm.finish(&process, 0, false);
        });
        Ok(sender)
    }

    async fn dial(&self, port: u16) -> Result<UnixStream> {
        self.call("dial").await?;
        if port != ECHO_PORT {
            let message = format!("connect to port {port} in the pod: connection refused");
            return Err(Error::new(ErrorKind::FailedPrecondition, message));
        }
        let (daemon, server) = UnixStream::pair()
            .map_err(|error| Error::new(ErrorKind::Internal, error.to_string()))?;
        let mut dead = self.vm.exit.subscribe();
        tokio::spawn(async move {
            let (mut from, mut to) = server.into_split();
            tokio::select! {
                _ = async { tokio::io::copy(&mut from, &mut to).await?; to.shutdown().await } => {}
                _ = dead.wait_for(Option::is_some) => {}
            }
        });
        Ok(daemon)
    }

    async fn processes(&self) -> Result<Vec<Process>> {
        self.call("processes").await?;
        let processes = self.vm.lock();
        Ok(processes
            .iter()
            .map(|(id, slot)| Process {
                id: id.clone(),
                state: slot.state,
                started_unix_ns: slot.started,
            })
            .collect())
    }

    async fn stats(&self) -> Result<SandboxStats> {
        self.answer("stats").await?;
        Ok(self.vm.figures())
    }

    async fn update_container(&self, id: &str, resources: &LinuxResources) -> Result<()> {
        self.call("update_container").await?;
        self.vm.update(id, resources)
    }

    async fn online_cpus(&self, count: u32) -> Result<u32> {
        self.call("online_cpus").await?;
        Ok(self.vm.online(count))
    }

    async fn change_clock(&self, change: ClockChange) -> Result<()> {
        self.answer("change_clock").await?;
        self.vm.change_clock(change);
        Ok(())
    }

    async fn stop(&self, _grace: Duration) -> Result<()> {
        self.world.point("stop", true).await.map_err(injected)?;
        self.world.lock().vms.remove(&self.vm.record.pod_id);
        self.world.lock().taps.remove(&self.vm.record.pod_id);
        let hung = self.vm.hung.load(Ordering::SeqCst);
        self.vm.end(if hung { "killed" } else { "stopped" }, "");
        self.done("stop done").await;
        Ok(())
    }

    async fn info(&self) -> serde_json::Value {
        serde_json::json!({ "pid": self.vm.record.pid })
    }
}
