//! Where the agent under test runs.
//!
//! `BULKHEAD_AGENT_TEST` decides: `host`, also if it is not set, starts it as an
//! ordinary process with `--listen-dir` (needs root and cgroup v2), `qemu` boots it
//! as PID 1 under `qemu-system-x86_64 -M microvm` with KVM and vhost-vsock (needs
//! both, and the guest kernel: `BULKHEAD_VMLINUX` or the cached build). The test
//! host has all of it.

use std::{
    env, fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use bulkhead_agent_api::{
    AGENT_PORT, READY_PORT, STDIO_PORT,
    agent::{
        ConfigureSandboxRequest, Dns, Interface, Neighbour, Ready, Route, stdio_hello::Stream,
    },
    agent_ttrpc::AgentClient,
    ready,
};
use tokio::net::{UnixListener, UnixStream};
use tokio_vsock::{VMADDR_CID_ANY, VsockAddr, VsockListener, VsockStream};

use super::{
    Agent, image,
    stdio::{self, Connection, Open},
};

/// The agent to test: `BULKHEAD_AGENT`, or the one built with this test.
fn agent_binary() -> PathBuf {
    env::var_os("BULKHEAD_AGENT")
        .unwrap_or_else(|| env!("CARGO_BIN_EXE_bulkhead-agent").into())
        .into()
}
/// CID of the QEMU guest; any that no other guest of the machine has.
pub const CID: u32 = 4711;

/// Of the guest's one network device, which leads nowhere.
const MAC: &str = "02:00:0a:58:00:05";

pub struct Place {
    kind: Kind,
    /// Goes away with everything in it.
    dir: tempfile::TempDir,
    child: Child,
    pub ready: Ready,
    pub ready_after: Duration,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Host,
    Qemu,
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.kind == Kind::Host {
            // Its containers end with it.
            let pid = rustix::process::Pid::from_child(&self.child);
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
            let deadline = Instant::now() + Duration::from_secs(20);
            while Instant::now() < deadline {
                if matches!(self.child.try_wait(), Ok(Some(_))) {
                    return;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if self.kind == Kind::Qemu && std::thread::panicking() {
            let console = fs::read_to_string(self.dir.path().join("console")).unwrap_or_default();
            eprintln!("--- the guest's console ---\n{console}");
        }
    }
}

/// An agent to test.
pub async fn agent() -> Agent {
    let kind = match env::var("BULKHEAD_AGENT_TEST").as_deref() {
        Ok("host") | Err(env::VarError::NotPresent) => Kind::Host,
        Ok("qemu") => Kind::Qemu,
        other => panic!("BULKHEAD_AGENT_TEST is {other:?}: `host` or `qemu`"),
    };
    let dir = tempfile::tempdir().unwrap();
    image::write_layers(&dir.path().join("layers"));
    let began = Instant::now();
    let (child, ready) = match kind {
        Kind::Host => start_host(dir.path()).await,
        Kind::Qemu => start_qemu(dir.path()).await,
    };
    let place = Place {
        kind,
        dir,
        child,
        ready,
        ready_after: began.elapsed(),
    };
    let socket = ttrpc::r#async::transport::Socket::new(place.connect(AGENT_PORT).await);
    Agent {
        rpc: AgentClient::new(ttrpc::r#async::Client::new(socket)),
        place,
    }
}

async fn start_host(dir: &Path) -> (Child, Ready) {
    let listener = UnixListener::bind(dir.join("ready.sock")).unwrap();
    let child = Command::new(agent_binary())
        .arg("--listen-dir")
        .arg(dir)
        .env("BULKHEAD_LOG", "info")
        .spawn()
        .unwrap();
    let (mut connection, _) = within(listener.accept()).await.unwrap();
    let ready = within(ready::read(&mut connection)).await.unwrap();
    (child, ready)
}

async fn start_qemu(dir: &Path) -> (Child, Ready) {
    let vmlinux = env::var_os("BULKHEAD_VMLINUX").map_or_else(
        || {
            let home = env::var_os("HOME").expect("HOME");
            Path::new(&home).join(".cache/bulkhead/kernel/current/vmlinux")
        },
        PathBuf::from,
    );
    super::must_exist(&vmlinux, "guest kernel");
    let path = |name: &str| dir.join(name).display().to_string();
    fs::create_dir(dir.join("disks")).unwrap();
    image::pack_layers(&dir.join("layers"), &dir.join("disks"));
    let scratch = dir.join("disks/scratch");
    fs::File::create(&scratch)
        .unwrap()
        .set_len(256 << 20)
        .unwrap();
    let made = Command::new("mkfs.ext4")
        .args(["-q", "-F"])
        .arg(&scratch)
        .status()
        .unwrap();
    assert!(made.success(), "mkfs.ext4");
    write_initramfs(&dir.join("initramfs"));

    let mut args: Vec<String> = [
        "-M",
        "q35,accel=kvm",
        "-cpu",
        "host",
        "-smp",
        "2",
        "-m",
        "512",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-no-reboot",
    ]
    .iter()
    .map(|word| (*word).to_owned())
    .collect();
    let mut add = |flag: &str, value: String| args.extend([flag.to_owned(), value]);
    add("-kernel", vmlinux.display().to_string());
    add("-initrd", path("initramfs"));
    add("-serial", format!("file:{}", path("console-early")));
    add("-device", "virtio-serial-pci".into());
    add(
        "-chardev",
        format!("file,id=console,path={}", path("console")),
    );
    add("-device", "virtconsole,chardev=console".into());
    let level = env::var("BULKHEAD_LOG").unwrap_or_else(|_| "info".into());
    // Every line of the console is some hundred exits.
    let quiet = if level == "debug" { "" } else { "quiet" };
    add(
        "-append",
        format!("console=hvc0 earlyprintk=ttyS0 panic=-1 {quiet} bulkhead.log={level}"),
    );
    add("-device", format!("vhost-vsock-pci,guest-cid={CID}"));
    for serial in image::LAYERS.iter().copied().chain(["scratch"]) {
        let readonly = if serial == "scratch" { "off" } else { "on" };
        add(
            "-drive",
            format!(
                "if=none,id={serial},format=raw,readonly={readonly},file={}",
                path(&format!("disks/{serial}"))
            ),
        );
        add(
            "-device",
            format!("virtio-blk-pci,drive={serial},serial={serial},disable-legacy=on"),
        );
    }
    add("-netdev", "hubport,id=net,hubid=0".into());
    add(
        "-device",
        format!("virtio-net-pci,netdev=net,mac={MAC},disable-legacy=on,romfile="),
    );
    let listener = VsockListener::bind(VsockAddr::new(VMADDR_CID_ANY, READY_PORT)).unwrap();
    let mut child = Command::new("qemu-system-x86_64")
        .args(&args)
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let accepted = tokio::time::timeout(Duration::from_secs(60), listener.accept()).await;
    let Ok(accepted) = accepted else {
        let _ = child.kill();
        let _ = child.wait();
        let console = fs::read_to_string(dir.join("console")).unwrap_or_default();
        panic!("the guest never said ready; its console:\n{console}");
    };
    let (mut connection, peer) = accepted.unwrap();
    assert_eq!(peer.cid(), CID);
    let ready = within(ready::read(&mut connection)).await.unwrap();
    // The connection is to stay; it ends with the test.
    std::mem::drop(tokio::spawn(async move {
        let _keep = connection;
        std::future::pending::<()>().await;
    }));
    (child, ready)
}

/// The agent as /init, and the two device nodes a first process needs.
fn write_initramfs(to: &Path) {
    let mut out = fs::File::create(to).unwrap();
    let mut entry = |name: &str, mode: u32, rdev: (u32, u32), content: &[u8]| {
        let mut bytes = format!(
            "070701{:08x}{mode:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{:08x}{name}\0",
            1, 0, 0, 1, 0, content.len(), 0, 0, rdev.0, rdev.1, name.len() + 1, 0
        )
        .into_bytes();
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(4), 0);
        out.write_all(&bytes).unwrap();
    };
    entry("dev", 0o040_755, (0, 0), b"");
    entry("dev/console", 0o020_600, (5, 1), b"");
    entry("dev/null", 0o020_666, (1, 3), b"");
    entry(
        "init",
        0o100_755,
        (0, 0),
        &fs::read(agent_binary()).unwrap(),
    );
    entry("TRAILER!!!", 0, (0, 0), b"");
}

pub async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(60), what)
        .await
        .expect("nothing happened for a minute")
}

impl Place {
    pub fn is_guest(&self) -> bool {
        self.kind == Kind::Qemu
    }

    /// The agent's own directory, where it can be looked at.
    pub fn host_dir(&self) -> Option<&Path> {
        (self.kind == Kind::Host).then(|| self.dir.path())
    }

    pub fn agent_pid(&self) -> u32 {
        self.child.id()
    }

    pub async fn connect(&self, port: u32) -> Box<dyn Connection2> {
        match self.kind {
            Kind::Qemu => Box::new(
                VsockStream::connect(VsockAddr::new(CID, port))
                    .await
                    .unwrap(),
            ),
            Kind::Host => {
                let name = if port == STDIO_PORT {
                    "stdio.sock"
                } else {
                    "agent.sock"
                };
                Box::new(
                    UnixStream::connect(self.dir.path().join(name))
                        .await
                        .unwrap(),
                )
            }
        }
    }

    pub fn sandbox(&self) -> ConfigureSandboxRequest {
        let mut request = ConfigureSandboxRequest {
            hostname: "test-pod".into(),
            dns: Some(Dns {
                servers: vec!["10.96.0.10".into()],
                searches: vec!["cluster.local".into()],
                ..Default::default()
            })
            .into(),
            extra_hosts: vec!["10.0.0.2 db".into()],
            ..Default::default()
        };
        if self.is_guest() {
            request.scratch_serial = "scratch".into();
            request.interfaces = vec![interface()];
            request.clock_unix_ns = 1_800_000_000_000_000_000;
            request
                .sysctls
                .insert("net.ipv4.ip_unprivileged_port_start".into(), "0".into());
        }
        request
    }

    /// Waits until a guest's machine is off; a host's stays.
    pub async fn powers_off(&self) {
        let running = || {
            Path::new("/proc")
                .join(self.child.id().to_string())
                .join("exe")
                .exists()
        };
        let deadline = Instant::now() + Duration::from_secs(30);
        while self.is_guest() && running() {
            assert!(Instant::now() < deadline, "the guest does not power off");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    pub async fn open(
        &self,
        container: &str,
        exec: &str,
        stream: Stream,
        offset: u64,
    ) -> Result<Open, String> {
        let connection = self.connect(STDIO_PORT).await;
        stdio::open(Box::new(connection), container, exec, stream, offset).await
    }

    /// Everything a stream has, to its end.
    pub async fn read_all(&self, container: &str, exec: &str, stream: Stream) -> Vec<u8> {
        let mut open = self.open(container, exec, stream, 0).await.unwrap();
        let mut all = Vec::new();
        while let Some(bytes) = within(open.read()).await {
            all.extend(bytes);
            open.acknowledge().await;
        }
        all
    }
}

fn interface() -> Interface {
    let route = |destination: &str, gateway: &str| Route {
        destination: destination.into(),
        gateway: gateway.into(),
        ..Default::default()
    };
    Interface {
        mac: MAC.into(),
        name: "eth7".into(),
        mtu: 1400,
        addresses: vec!["10.88.0.5/16".into(), "fd00::5/64".into()],
        routes: vec![
            route("0.0.0.0/0", "10.88.0.1"),
            route("::/0", "fd00::1"),
            route("192.0.2.0/24", "169.254.1.1"),
        ],
        neighbours: vec![Neighbour {
            address: "10.88.0.1".into(),
            mac: "02:00:00:00:00:01".into(),
            ..Default::default()
        }],
        ..Default::default()
    }
}

/// What ttrpc wants of a connection, and what ours want.
pub trait Connection2: Connection + Sync {}
impl<T: Connection + Sync> Connection2 for T {}
