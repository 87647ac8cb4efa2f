//! The agent's side: containers are shell commands of this machine.

use std::{
    collections::HashMap,
    process::Stdio,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use bulkhead_agent_api::{
    agent::{self, process::State, stdio_hello},
    agent_ttrpc,
    stdio::{Frame, MAX_DATA},
};
use bulkhead_vmm_api::ExitReason;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::UnixStream,
    process::{ChildStdin, Command},
    sync::watch,
};
use ttrpc::{asynchronous::TtrpcContext, error::get_rpc_status};

use crate::vmm::{Disks, end};

type Key = (String, String);

pub(crate) struct Agent {
    disks: Disks,
    run_dir: String,
    cmdline: String,
    configured: Mutex<bool>,
    processes: Mutex<HashMap<Key, Arc<Process>>>,
    layers: Mutex<HashMap<String, Vec<String>>>,
}

struct Process {
    args: Vec<String>,
    outputs: [watch::Sender<Output>; 2],
    stdin: tokio::sync::Mutex<(Option<ChildStdin>, u64)>,
    exit: watch::Sender<Option<i32>>,
    /// Lengths of its outputs at the exit.
    written: Mutex<[Option<u64>; 2]>,
    started: Mutex<bool>,
    group: Mutex<Option<i32>>,
}

#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    acknowledged: u64,
    ended: bool,
}

impl Process {
    fn new(args: Vec<String>) -> Arc<Self> {
        Arc::new(Self {
            args,
            outputs: [watch::Sender::default(), watch::Sender::default()],
            stdin: Default::default(),
            exit: watch::Sender::new(None),
            written: Mutex::default(),
            started: Mutex::default(),
            group: Mutex::default(),
        })
    }

    async fn start(self: &Arc<Self>) -> ttrpc::Result<()> {
        let mut command = Command::new(&self.args[0]);
        command
            .args(&self.args[1..])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| {
            get_rpc_status(ttrpc::Code::NOT_FOUND, format!("{}: {e}", self.args[0]))
        })?;
        *self.group.lock().unwrap() = child.id().map(|id| i32::try_from(id).unwrap());
        *self.started.lock().unwrap() = true;
        self.stdin.lock().await.0 = child.stdin.take();
        tokio::spawn(collect(child.stdout.take().unwrap(), Arc::clone(self), 0));
        tokio::spawn(collect(child.stderr.take().unwrap(), Arc::clone(self), 1));
        let process = Arc::clone(self);
        tokio::spawn(async move {
            use std::os::unix::process::ExitStatusExt as _;
            let status = child.wait().await.unwrap();
            let code = status
                .code()
                .unwrap_or_else(|| 128 + status.signal().unwrap());
            // What lies in its pipes counts too; children may hold them open.
            for output in &process.outputs {
                let mut output = output.subscribe();
                let read = output.wait_for(|output| output.ended);
                let _ = tokio::time::timeout(Duration::from_millis(300), read).await;
            }
            *process.written.lock().unwrap() = process
                .outputs
                .each_ref()
                .map(|output| Some(output.borrow().bytes.len() as u64));
            process.exit.send_replace(Some(code));
        });
        Ok(())
    }

    fn kill(&self, signal: u32) {
        let signal = rustix::process::Signal::from_named_raw(signal.try_into().unwrap()).unwrap();
        if let Some(group) = *self.group.lock().unwrap() {
            let group = rustix::process::Pid::from_raw(group).unwrap();
            let _ = rustix::process::kill_process_group(group, signal);
        } else {
            self.exit.send_replace(Some(137));
        }
    }
}

async fn collect(mut from: impl AsyncRead + Unpin, process: Arc<Process>, stream: usize) {
    let mut chunk = vec![0; 64 << 10];
    loop {
        let n = from.read(&mut chunk).await.unwrap_or(0);
        process.outputs[stream].send_modify(|output| {
            output.bytes.extend_from_slice(&chunk[..n]);
            output.ended = n == 0;
        });
        if n == 0 {
            return;
        }
    }
}

fn now() -> i64 {
    i64::try_from(
        SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap()
            .as_nanos(),
    )
    .unwrap()
}

impl Agent {
    pub(crate) fn new(disks: Disks, run_dir: &str, cmdline: String) -> Arc<Self> {
        Arc::new(Self {
            disks,
            run_dir: run_dir.to_owned(),
            cmdline,
            configured: Mutex::default(),
            processes: Mutex::default(),
            layers: Mutex::default(),
        })
    }

    fn misbehaves(&self, how: &str) -> bool {
        self.cmdline.split(' ').any(|word| word == how)
    }

    fn process(&self, container: &str, exec: &str) -> ttrpc::Result<Arc<Process>> {
        let processes = self.processes.lock().unwrap();
        let found = processes
            .get(&(container.to_owned(), exec.to_owned()))
            .cloned();
        found.ok_or_else(|| get_rpc_status(ttrpc::Code::NOT_FOUND, "no such process"))
    }

    /// One stdio connection.
    pub(crate) async fn serve_stream(&self, mut stream: UnixStream) {
        let Ok(Some(Frame::Hello(hello))) = Frame::read(&mut stream).await else {
            return;
        };
        let Ok(process) = self.process(&hello.container_id, &hello.exec_id) else {
            let _ = Frame::Refused("no such process".into())
                .write(&mut stream)
                .await;
            return;
        };
        let _ = match hello.stream.enum_value().unwrap() {
            stdio_hello::Stream::STDIN => serve_input(&process, stream).await,
            which if self.misbehaves("standin.late_output") => {
                let mut exit = process.exit.subscribe();
                exit.wait_for(Option::is_some).await.unwrap();
                tokio::time::sleep(Duration::from_secs(2)).await;
                let i = usize::from(which == stdio_hello::Stream::STDERR);
                serve_output(&process.outputs[i], stream, hello.offset).await
            }
            stdio_hello::Stream::STDERR => {
                serve_output(&process.outputs[1], stream, hello.offset).await
            }
            _ => serve_output(&process.outputs[0], stream, hello.offset).await,
        };
    }
}

async fn serve_output(
    output: &watch::Sender<Output>,
    stream: UnixStream,
    offset: u64,
) -> Result<(), bulkhead_agent_api::stdio::FrameError> {
    let acknowledged = output.borrow().acknowledged;
    let mut at = offset.max(acknowledged);
    let (mut from, mut to) = stream.into_split();
    Frame::Accepted(at).write(&mut to).await?;
    let mut news = output.subscribe();
    let told = output.clone();
    let acks = tokio::spawn(async move {
        while let Ok(Some(Frame::Ack(offset))) = Frame::read(&mut from).await {
            told.send_modify(|output| {
                assert!(
                    offset <= output.bytes.len() as u64,
                    "acknowledged what never was"
                );
                output.acknowledged = output.acknowledged.max(offset);
            });
        }
    });
    loop {
        let (piece, ended) = {
            let output = news.borrow_and_update();
            let from = usize::try_from(at).unwrap();
            let to = output.bytes.len().min(from + MAX_DATA);
            (output.bytes[from..to].to_vec(), output.ended)
        };
        if !piece.is_empty() {
            Frame::Data(at, piece.clone()).write(&mut to).await?;
            at += piece.len() as u64;
            if acks.is_finished() {
                return Ok(());
            }
            continue;
        }
        if ended {
            Frame::Eof(at).write(&mut to).await?;
            let _ = acks.await;
            return Ok(());
        }
        if news.changed().await.is_err() {
            return Ok(());
        }
    }
}

async fn serve_input(
    process: &Process,
    mut stream: UnixStream,
) -> Result<(), bulkhead_agent_api::stdio::FrameError> {
    let at = process.stdin.lock().await.1;
    Frame::Accepted(at).write(&mut stream).await?;
    while let Some(frame) = Frame::read(&mut stream).await? {
        let mut stdin = process.stdin.lock().await;
        match frame {
            Frame::Data(offset, bytes) => {
                assert_eq!(offset, stdin.1);
                if let Some(pipe) = &mut stdin.0 {
                    let _ = pipe.write_all(&bytes).await;
                }
                stdin.1 += bytes.len() as u64;
                Frame::Ack(stdin.1).write(&mut stream).await?;
            }
            Frame::Eof(_) => stdin.0 = None,
            other => panic!("{other:?}"),
        }
    }
    Ok(())
}

#[async_trait]
impl agent_ttrpc::Agent for Agent {
    async fn info(
        &self,
        _: &TtrpcContext,
        _: agent::InfoRequest,
    ) -> ttrpc::Result<agent::InfoResponse> {
        Ok(agent::InfoResponse {
            agent_version: "stand-in".into(),
            configured: *self.configured.lock().unwrap(),
            ..Default::default()
        })
    }

    async fn configure_sandbox(
        &self,
        _: &TtrpcContext,
        request: agent::ConfigureSandboxRequest,
    ) -> ttrpc::Result<agent::Empty> {
        assert_eq!(request.scratch_serial, "scratch");
        if self.misbehaves("standin.unconfigurable") {
            return Err(get_rpc_status(ttrpc::Code::INTERNAL, "no such sysctl"));
        }
        *self.configured.lock().unwrap() = true;
        Ok(agent::Empty::new())
    }

    async fn reseed_random(
        &self,
        _: &TtrpcContext,
        request: agent::ReseedRandomRequest,
    ) -> ttrpc::Result<agent::Empty> {
        assert_eq!(request.seed.len(), 64);
        Ok(agent::Empty::new())
    }

    async fn attach_layers(
        &self,
        _: &TtrpcContext,
        request: agent::AttachLayersRequest,
    ) -> ttrpc::Result<agent::Empty> {
        let mut disks = self.disks.lock().unwrap();
        for serial in request.serials {
            *disks.get_mut(&serial).expect("a disk that is not there") = true;
        }
        Ok(agent::Empty::new())
    }

    async fn release_layers(
        &self,
        _: &TtrpcContext,
        request: agent::ReleaseLayersRequest,
    ) -> ttrpc::Result<agent::Empty> {
        let in_use: Vec<String> = self
            .layers
            .lock()
            .unwrap()
            .values()
            .flatten()
            .cloned()
            .collect();
        let mut disks = self.disks.lock().unwrap();
        for serial in request.serials {
            if in_use.contains(&serial) {
                let code = ttrpc::Code::FAILED_PRECONDITION;
                return Err(get_rpc_status(code, "a container uses the layer"));
            }
            if let Some(held) = disks.get_mut(&serial) {
                *held = false;
            }
        }
        Ok(agent::Empty::new())
    }

    async fn create_container(
        &self,
        _: &TtrpcContext,
        request: agent::CreateContainerRequest,
    ) -> ttrpc::Result<agent::CreateContainerResponse> {
        for serial in &request.layer_serials {
            assert_eq!(self.disks.lock().unwrap().get(serial), Some(&true));
        }
        let spec: serde_json::Value = serde_json::from_slice(&request.oci_spec).unwrap();
        let args: Vec<String> = serde_json::from_value(spec["process"]["args"].clone()).unwrap();
        // There is no root file system with names in it: numbers, and root.
        let user = request.user.spec.split(':').next().unwrap_or_default();
        let known = user == "root" || user.bytes().all(|byte| byte.is_ascii_digit());
        if args[0] == "refuse" || !known {
            return Err(get_rpc_status(
                ttrpc::Code::INVALID_ARGUMENT,
                "no such user",
            ));
        }
        let id = request.container_id;
        self.layers
            .lock()
            .unwrap()
            .insert(id.clone(), request.layer_serials);
        self.processes
            .lock()
            .unwrap()
            .insert((id, String::new()), Process::new(args));
        Ok(agent::CreateContainerResponse {
            uid: 1000,
            gid: 100,
            supplemental_groups: vec![7],
            ..Default::default()
        })
    }

    async fn start_container(
        &self,
        _: &TtrpcContext,
        request: agent::StartContainerRequest,
    ) -> ttrpc::Result<agent::StartContainerResponse> {
        self.process(&request.container_id, "")?.start().await?;
        Ok(agent::StartContainerResponse {
            started_unix_ns: now(),
            ..Default::default()
        })
    }

    async fn exec(
        &self,
        _: &TtrpcContext,
        request: agent::ExecRequest,
    ) -> ttrpc::Result<agent::ExecResponse> {
        self.process(&request.container_id, "")?;
        let process: serde_json::Value = serde_json::from_slice(&request.oci_process).unwrap();
        let args: Vec<String> = serde_json::from_value(process["args"].clone()).unwrap();
        let slow = args.iter().any(|word| word.starts_with("# slow"));
        let mark = |name| std::path::Path::new(&self.run_dir).join(name);
        while slow && !mark("go").exists() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let process = Process::new(args);
        process.start().await?;
        let key = (request.container_id, request.exec_id);
        self.processes.lock().unwrap().insert(key, process);
        if slow {
            std::fs::write(mark("started"), "").unwrap();
        }
        Ok(agent::ExecResponse::new())
    }

    async fn signal_process(
        &self,
        _: &TtrpcContext,
        request: agent::SignalProcessRequest,
    ) -> ttrpc::Result<agent::Empty> {
        self.process(&request.container_id, &request.exec_id)?
            .kill(request.signal);
        Ok(agent::Empty::new())
    }

    async fn wait_process(
        &self,
        _: &TtrpcContext,
        request: agent::WaitProcessRequest,
    ) -> ttrpc::Result<agent::WaitProcessResponse> {
        let process = self.process(&request.container_id, &request.exec_id)?;
        let mut exit = process.exit.subscribe();
        let code = exit.wait_for(Option::is_some).await.unwrap().unwrap();
        let [stdout_bytes, stderr_bytes] = *process.written.lock().unwrap();
        Ok(agent::WaitProcessResponse {
            exit: Some(agent::Exit {
                exit_code: code,
                finished_unix_ns: now(),
                stdout_bytes,
                stderr_bytes,
                ..Default::default()
            })
            .into(),
            ..Default::default()
        })
    }

    async fn forget_process(
        &self,
        _: &TtrpcContext,
        request: agent::ForgetProcessRequest,
    ) -> ttrpc::Result<agent::Empty> {
        let key = (request.container_id, request.exec_id);
        self.processes.lock().unwrap().remove(&key);
        Ok(agent::Empty::new())
    }

    async fn remove_container(
        &self,
        _: &TtrpcContext,
        request: agent::RemoveContainerRequest,
    ) -> ttrpc::Result<agent::Empty> {
        self.layers.lock().unwrap().remove(&request.container_id);
        self.processes
            .lock()
            .unwrap()
            .retain(|(container, _), process| {
                if *container == request.container_id {
                    process.kill(9);
                }
                *container != request.container_id
            });
        Ok(agent::Empty::new())
    }

    async fn list_processes(
        &self,
        _: &TtrpcContext,
        _: agent::ListProcessesRequest,
    ) -> ttrpc::Result<agent::ListProcessesResponse> {
        let mut response = agent::ListProcessesResponse::new();
        for ((container, exec), process) in self.processes.lock().unwrap().iter() {
            let exit = *process.exit.borrow();
            response.processes.push(agent::Process {
                container_id: container.clone(),
                exec_id: exec.clone(),
                state: match (exit, *process.started.lock().unwrap()) {
                    (Some(_), _) => State::EXITED,
                    (None, true) => State::RUNNING,
                    (None, false) => State::CREATED,
                }
                .into(),
                exit: exit
                    .map(|exit_code| agent::Exit {
                        exit_code,
                        ..Default::default()
                    })
                    .into(),
                ..Default::default()
            });
        }
        Ok(response)
    }

    async fn stats(
        &self,
        _: &TtrpcContext,
        _: agent::StatsRequest,
    ) -> ttrpc::Result<agent::StatsResponse> {
        let processes = self.processes.lock().unwrap();
        let inits = processes.keys().filter(|(_, exec)| exec.is_empty());
        Ok(agent::StatsResponse {
            containers: inits
                .map(|(container, _)| agent::ContainerStats {
                    container_id: container.clone(),
                    cpu_usage_ns: 5,
                    ..Default::default()
                })
                .collect(),
            unix_ns: now(),
            ..Default::default()
        })
    }

    async fn update_container(
        &self,
        _: &TtrpcContext,
        request: agent::UpdateContainerRequest,
    ) -> ttrpc::Result<agent::Empty> {
        self.process(&request.container_id, "")?;
        let limits: serde_json::Value = serde_json::from_slice(&request.oci_resources).unwrap();
        if limits["memory"]["limit"] == 4096 {
            let code = ttrpc::Code::FAILED_PRECONDITION;
            return Err(get_rpc_status(code, "the container holds more"));
        }
        Ok(agent::Empty::new())
    }

    async fn set_clock(
        &self,
        _: &TtrpcContext,
        request: agent::SetClockRequest,
    ) -> ttrpc::Result<agent::Empty> {
        let told = [request.unix_ns, request.step_ns, request.slew_ns];
        assert_eq!(told.iter().filter(|it| **it != 0).count(), 1);
        Ok(agent::Empty::new())
    }

    async fn shutdown(
        &self,
        _: &TtrpcContext,
        _: agent::ShutdownRequest,
    ) -> ttrpc::Result<agent::Empty> {
        if self.misbehaves("standin.stubborn") {
            std::future::pending::<()>().await;
        }
        let run_dir = self.run_dir.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_millis(20)).await;
            end(&run_dir, ExitReason::Shutdown, "")
        });
        Ok(agent::Empty::new())
    }
}
