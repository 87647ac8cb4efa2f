//! A daemon in small: a client of the agent, and images and places to run it in.

pub mod image;
pub mod place;
pub mod stdio;

use std::{path::Path, time::Duration};

use bulkhead_agent_api::{agent::*, agent_ttrpc::AgentClient};
use serde_json::{Value, json};
use ttrpc::{Code, context};

pub use place::Place;

/// Longer than anything takes in an emulated machine.
const TIMEOUT: Duration = Duration::from_secs(120);

/// An agent under test.
pub struct Agent {
    pub rpc: AgentClient,
    pub place: Place,
}

pub type Rpc<T> = Result<T, (Code, String)>;

/// A ttrpc status as code and text.
fn plain(error: ttrpc::Error) -> (Code, String) {
    match error {
        ttrpc::Error::RpcStatus(status) => (status.code(), status.message().to_owned()),
        other => panic!("the connection failed: {other}"),
    }
}

macro_rules! calls {
    ($($name:ident: $request:ty => $reply:ty;)*) => {
        #[allow(dead_code)] // each test binary uses some
        impl Agent {
            $(pub async fn $name(&self, request: $request) -> Rpc<$reply> {
                let limit = context::with_duration(TIMEOUT);
                self.rpc.$name(limit, &request).await.map_err(plain)
            })*
        }
    };
}

calls! {
    info: InfoRequest => InfoResponse;
    configure_sandbox: ConfigureSandboxRequest => Empty;
    attach_layers: AttachLayersRequest => Empty;
    release_layers: ReleaseLayersRequest => Empty;
    create_container: CreateContainerRequest => CreateContainerResponse;
    start_container: StartContainerRequest => StartContainerResponse;
    exec: ExecRequest => ExecResponse;
    signal_process: SignalProcessRequest => Empty;
    wait_process: WaitProcessRequest => WaitProcessResponse;
    forget_process: ForgetProcessRequest => Empty;
    resize_pty: ResizePtyRequest => Empty;
    remove_container: RemoveContainerRequest => Empty;
    list_processes: ListProcessesRequest => ListProcessesResponse;
    stats: StatsRequest => StatsResponse;
    update_container: UpdateContainerRequest => Empty;
    online_cpus: OnlineCpusRequest => OnlineCpusResponse;
    reseed_random: ReseedRandomRequest => Empty;
    set_clock: SetClockRequest => Empty;
    shutdown: ShutdownRequest => Empty;
}

/// The specification of an ordinary container that runs `script` in a shell.
pub fn spec(script: &str) -> Value {
    let capabilities = json!([
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FSETID",
        "CAP_FOWNER",
        "CAP_MKNOD",
        "CAP_NET_RAW",
        "CAP_SETGID",
        "CAP_SETUID",
        "CAP_SETFCAP",
        "CAP_SETPCAP",
        "CAP_NET_BIND_SERVICE",
        "CAP_SYS_CHROOT",
        "CAP_KILL",
        "CAP_AUDIT_WRITE"
    ]);
    json!({
        "ociVersion": "1.1.0",
        "root": {"path": "rootfs"},
        "process": {
            "args": ["sh", "-c", script],
            "cwd": "/",
            "env": ["PATH=/bin:/usr/bin"],
            "user": {"uid": 0, "gid": 0},
            "noNewPrivileges": false,
            "capabilities": {
                "bounding": capabilities, "permitted": capabilities, "effective": capabilities
            }
        },
        "mounts": [
            {"destination": "/proc", "type": "proc", "source": "proc",
             "options": ["nosuid", "noexec", "nodev"]},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs",
             "options": ["nosuid", "strictatime", "mode=755", "size=65536k"]},
            {"destination": "/dev/pts", "type": "devpts", "source": "devpts",
             "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]},
            {"destination": "/sys", "type": "sysfs", "source": "sysfs",
             "options": ["nosuid", "noexec", "nodev", "ro"]},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
             "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]}
        ],
        "linux": {
            "namespaces": [{"type": "pid"}, {"type": "mount"}, {"type": "network"}],
            "resources": {"devices": [{"allow": false, "access": "rwm"}]},
            "maskedPaths": ["/proc/kcore", "/proc/keys", "/sys/firmware"],
            "readonlyPaths": ["/proc/sys", "/proc/bus"]
        }
    })
}

/// How a process ended and what it wrote.
#[derive(Debug)]
pub struct Ran {
    pub exit: Exit,
    pub stdout: Vec<u8>,
    pub stderr: Vec<u8>,
}

impl Ran {
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl Agent {
    /// A create request for a container over the test image.
    pub fn request(&self, id: &str, spec: &Value) -> CreateContainerRequest {
        CreateContainerRequest {
            container_id: id.into(),
            layer_serials: image::LAYERS.iter().map(|s| (*s).to_owned()).collect(),
            oci_spec: spec.to_string().into_bytes(),
            ..Default::default()
        }
    }

    pub async fn start(&self, id: &str) -> Rpc<StartContainerResponse> {
        self.start_container(StartContainerRequest {
            container_id: id.into(),
            ..Default::default()
        })
        .await
    }

    pub async fn wait(&self, id: &str, exec_id: &str) -> Exit {
        self.wait_process(WaitProcessRequest {
            container_id: id.into(),
            exec_id: exec_id.into(),
            ..Default::default()
        })
        .await
        .unwrap()
        .exit
        .unwrap()
    }

    pub async fn remove(&self, id: &str) {
        self.remove_container(RemoveContainerRequest {
            container_id: id.into(),
            ..Default::default()
        })
        .await
        .unwrap();
    }

    pub async fn signal(&self, id: &str, exec_id: &str, signal: u32, all: bool) -> Rpc<Empty> {
        self.signal_process(SignalProcessRequest {
            container_id: id.into(),
            exec_id: exec_id.into(),
            signal,
            all,
            ..Default::default()
        })
        .await
    }

    /// Creates and starts a container that stays.
    pub async fn launch(&self, id: &str, script: &str) {
        let request = self.request(id, &spec(script));
        self.create_container(request).await.unwrap();
        self.start(id).await.unwrap();
    }

    /// Creates, starts, waits, reads everything, removes.
    pub async fn run(&self, id: &str, request: CreateContainerRequest) -> Ran {
        self.create_container(request).await.unwrap();
        self.start(id).await.unwrap();
        let ran = self.finish(id, "").await;
        self.remove(id).await;
        ran
    }

    pub async fn run_script(&self, id: &str, script: &str) -> Ran {
        self.run(id, self.request(id, &spec(script))).await
    }

    async fn finish(&self, id: &str, exec_id: &str) -> Ran {
        let exit = self.wait(id, exec_id).await;
        let read = |stream| self.place.read_all(id, exec_id, stream);
        Ran {
            exit,
            stdout: read(stdio_hello::Stream::STDOUT).await,
            stderr: read(stdio_hello::Stream::STDERR).await,
        }
    }

    pub fn exec_request(id: &str, exec_id: &str, args: &[&str]) -> ExecRequest {
        let process = json!({
            "args": args, "cwd": "/", "env": ["PATH=/bin:/usr/bin"],
            "user": {"uid": 0, "gid": 0},
        });
        ExecRequest {
            container_id: id.into(),
            exec_id: exec_id.into(),
            oci_process: process.to_string().into_bytes(),
            ..Default::default()
        }
    }

    /// Runs a further process to its end and forgets it.
    pub async fn run_exec(&self, id: &str, exec_id: &str, args: &[&str]) -> Rpc<Ran> {
        self.exec(Self::exec_request(id, exec_id, args)).await?;
        let ran = self.finish(id, exec_id).await;
        self.forget(id, exec_id).await;
        Ok(ran)
    }

    pub async fn forget(&self, id: &str, exec_id: &str) {
        self.forget_process(ForgetProcessRequest {
            container_id: id.into(),
            exec_id: exec_id.into(),
            ..Default::default()
        })
        .await
        .unwrap();
    }

    /// Brings the pod to where containers can be made.
    pub async fn prepare(&self) {
        self.configure_sandbox(self.place.sandbox()).await.unwrap();
        self.attach_layers(AttachLayersRequest {
            serials: image::LAYERS.iter().map(|s| (*s).to_owned()).collect(),
            ..Default::default()
        })
        .await
        .unwrap();
    }
}

/// A file of this machine, for paths in requirements.
pub fn must_exist(path: &Path, what: &str) {
    assert!(path.exists(), "{what}: {} is missing", path.display());
}
