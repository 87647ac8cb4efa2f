//! Runtimes started side by side in the test host: our daemon, and containerd with
//! runc and with runsc from Debian packages that are unpacked, not installed.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail, ensure};
use bulkhead_cri_api::v1::{VersionRequest, runtime_service_client::RuntimeServiceClient};
use bulkhead_e2e::{
    image::{self, Archive, Compression, Layer},
    node::{Node, Programs, channel},
};
use serde_json::json;
use tokio::process::{Child, Command};

use crate::cri::Address;

/// What containerd runs as the sandbox's own container.
const PAUSE: &str = "localhost/pause:1";
/// On a tmpfs: an overlay's upper cannot be on the test host's root, itself an overlay.
const ROOT: &str = "/run/bulkhead-bench";

/// What stands between runc's shim and runsc, which has another beginning and end of
/// containers in mind.
const RUNSC: &str = include_str!("../runsc.sh");

/// All of them, running.
pub(crate) struct Neighbours {
    node: Node,
    containerd: Child,
}

impl Neighbours {
    /// Starts them and gives them the image. `dir`: where the packages are unpacked.
    pub(crate) async fn start(dir: &Path, bin_dir: &Path) -> Result<Self> {
        let image = image::demo()?;
        let mut node = Node::new(&Programs::in_dir(bin_dir)?, "bench", "")?;
        node.start().await?;
        node.import(image, "demo.tar").await?;
        let containerd = start_containerd(dir).await?;
        import(dir, "demo.tar", image).await?;
        import(dir, "pause.tar", &pause()?).await?;
        Ok(Self { node, containerd })
    }

    /// Starts them without images, for every registry with this `hosts.toml`.
    pub(crate) async fn start_for_pulls(dir: &Path, bin_dir: &Path, hosts: &str) -> Result<Self> {
        let mut node = Node::new_online(&Programs::in_dir(bin_dir)?, "bench", "")?;
        for certs in [node.hosts_dir(), Path::new(ROOT).join("certs.d")] {
            let default = certs.join("_default");
            fs::create_dir_all(&default)?;
            fs::write(default.join("hosts.toml"), hosts)?;
        }
        node.start().await?;
        let containerd = start_containerd(dir).await?;
        Ok(Self { node, containerd })
    }

    /// Names, daemons' process ids, and where they keep images.
    pub(crate) fn daemons(&self) -> Result<Vec<(Address, u32, PathBuf)>> {
        let [ours, containerd, _] = self.addresses();
        let pid = self.containerd.id().context("containerd is not running")?;
        Ok(vec![
            (ours, self.node.daemon_pid()?, self.node.state_dir()),
            (containerd, pid, Path::new(ROOT).join("root")),
        ])
    }

    /// Where they are.
    pub(crate) fn addresses(&self) -> [Address; 3] {
        let address = |name: &str, handler: &str, socket: PathBuf| Address {
            name: name.to_owned(),
            handler: handler.to_owned(),
            socket,
        };
        [
            address("bulkhead", "", self.node.socket()),
            address("containerd+runc", "runc", socket()),
            address("containerd+runsc", "runsc", socket()),
        ]
    }

    /// Ends them.
    pub(crate) async fn stop(mut self) -> Result<()> {
        self.containerd.start_kill()?;
        self.containerd.wait().await?;
        self.node.stop().await
    }
}

fn socket() -> PathBuf {
    Path::new(ROOT).join("containerd.sock")
}

/// A search path with the unpacked programs in front.
fn path(dir: &Path) -> String {
    let dir = dir.display();
    let own = std::env::var("PATH").unwrap_or_default();
    format!("{dir}/usr/bin:{dir}/usr/sbin:{own}")
}

async fn start_containerd(dir: &Path) -> Result<Child> {
    let program = dir.join("usr/bin/containerd");
    ensure!(
        program.exists(),
        "no {}: tests/bench/peers.sh unpacks it",
        program.display()
    );
    let root = Path::new(ROOT);
    fs::create_dir_all(root.join("cni"))?;
    let network = json!({
        "cniVersion": "1.0.0", "name": "bench",
        "plugins": [{
            "type": "bridge", "bridge": "bench0", "isGateway": true,
            "ipam": {
                "type": "host-local", "dataDir": root.join("ipam"),
                "ranges": [[{ "subnet": "10.77.0.0/16" }]],
                "routes": [{ "dst": "0.0.0.0/0" }],
            },
        }],
    });
    fs::write(root.join("cni/10-bench.conflist"), network.to_string())?;
    let config = format!(
        r#"version = 2
root = "{ROOT}/root"
state = "{ROOT}/state"
[grpc]
address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{PAUSE}"
[plugins."io.containerd.grpc.v1.cri".registry]
config_path = "{ROOT}/certs.d"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "{dir}/usr/lib/cni"
conf_dir = "{ROOT}/cni"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = "{dir}/usr/sbin/runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runsc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runsc.options]
BinaryName = "{ROOT}/runsc.sh"
"#,
        socket = socket().display(),
        dir = dir.display(),
    );
    fs::write(root.join("containerd.toml"), config)?;
    let between = root.join("runsc.sh");
    fs::write(&between, RUNSC)?;
    fs::set_permissions(&between, fs::Permissions::from_mode(0o755))?;
    fs::create_dir_all(root.join("runsc"))?;
    let log = fs::File::create(root.join("containerd.log"))?;
    let mut child = Command::new(&program)
        .arg("--config")
        .arg(root.join("containerd.toml"))
        .env("PATH", path(dir))
        .env("RUNSC", dir.join("usr/bin/runsc"))
        .env("RUNSC_STATE", root.join("runsc"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("starting {}", program.display()))?;

    let deadline = Instant::now() + Duration::from_secs(60);
    let mut client = RuntimeServiceClient::new(channel(socket()));
    while client.version(VersionRequest::default()).await.is_err() {
        if let Some(status) = child.try_wait()? {
            bail!("containerd ended at its start: {status}\n{}", last_words());
        }
        ensure!(
            Instant::now() < deadline,
            "containerd does not answer\n{}",
            last_words()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(child)
}

fn last_words() -> String {
    let log = fs::read_to_string(Path::new(ROOT).join("containerd.log")).unwrap_or_default();
    let lines: Vec<&str> = log.lines().collect();
    let from = lines.len().saturating_sub(20);
    lines.get(from..).unwrap_or_default().join("\n")
}

async fn import(dir: &Path, name: &str, archive: &[u8]) -> Result<()> {
    let file = Path::new(ROOT).join(name);
    fs::write(&file, archive)?;
    let output = Command::new(dir.join("usr/bin/ctr"))
        .arg("--address")
        .arg(socket())
        .args(["--namespace", "k8s.io", "images", "import"])
        .arg(&file)
        .output()
        .await?;
    ensure!(
        output.status.success(),
        "ctr images import {name}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

fn pause() -> Result<Vec<u8>> {
    let busybox = fs::read("/bin/busybox").context("reading /bin/busybox")?;
    let layer = Layer::default()
        .dir("bin", 0o755)?
        .file("bin/busybox", 0o755, &busybox)?
        .finish()?;
    Archive::default()
        .layer(&layer, Compression::Plain)?
        .finish(
            PAUSE,
            json!({ "Entrypoint": ["/bin/busybox", "sleep", "1000000"] }),
        )
}
