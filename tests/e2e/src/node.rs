//! One node under test: a daemon of our own making, with its own directories,
//! that can be killed and started again.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use bulkhead_cri_api::v1::{
    image_service_client::ImageServiceClient, runtime_service_client::RuntimeServiceClient,
};
use hyper_util::rt::TokioIo;
use tokio::{net::UnixStream, process::Child};
use tonic::transport::{Channel, Endpoint, Uri};

/// Where the programs under test are.
#[derive(Clone, Debug)]
pub struct Programs {
    /// The daemon and command line.
    pub bulkhead: PathBuf,
    /// The VMM.
    pub vmm: PathBuf,
    /// The guest agent.
    pub agent: PathBuf,
    /// The guest kernel, an uncompressed vmlinux.
    pub kernel: PathBuf,
    /// Small programs for images; not looked for, since few tests want them.
    pub testbox: PathBuf,
    /// What serves as VMM and agent where no virtual machine is wanted; not looked
    /// for either.
    pub standin: PathBuf,
}

impl Programs {
    /// Those that `tests/host/build.sh` put side by side.
    pub fn in_dir(dir: &Path) -> Result<Self> {
        let find = |name: &str| {
            let path = dir.join(name);
            path.canonicalize()
                .with_context(|| format!("{} (tests/host/build.sh makes it)", path.display()))
        };
        Ok(Self {
            bulkhead: find("bulkhead")?,
            vmm: find("bulkhead-vmm")?,
            agent: find("bulkhead-agent")?,
            kernel: find("vmlinux")?,
            testbox: dir.join("bulkhead-testbox"),
            standin: dir.join("bulkhead-standin"),
        })
    }

    /// The same, with the stand-in in place of the VMM.
    #[must_use]
    pub fn without_vms(&self) -> Self {
        Self {
            vmm: self.standin.clone(),
            ..self.clone()
        }
    }
}

/// How long anything may take that boots a guest, in a software-emulated host.
pub const PATIENCE: Duration = Duration::from_secs(300);

/// A node.
pub struct Node {
    programs: Programs,
    root: PathBuf,
    daemon: Option<Child>,
    /// One connection for every client of this node, so that what the daemon has
    /// open does not depend on how many clients a test made. Connects again by
    /// itself after the daemon was restarted.
    channel: Channel,
}

impl Node {
    /// A node with its directories below `/run/<name>` and `/var/lib/<name>`, and
    /// `extra` appended to its configuration file. It asks no registry. Not yet started.
    pub fn new(programs: &Programs, name: &str, extra: &str) -> Result<Self> {
        let node = Self::prepare(programs, name)?;
        node.configure("offline = true", extra)?;
        Ok(node)
    }

    /// The same, but it asks the registries that are described in [`Node::hosts_dir`].
    pub fn new_online(programs: &Programs, name: &str, extra: &str) -> Result<Self> {
        let node = Self::prepare(programs, name)?;
        fs::create_dir_all(node.hosts_dir())?;
        let hosts = format!("hosts_dir = {:?}", node.hosts_dir());
        node.configure(&hosts, extra)?;
        Ok(node)
    }

    fn prepare(programs: &Programs, name: &str) -> Result<Self> {
        let node = Self {
            programs: programs.clone(),
            // A tmpfs of the test host: its root is an overlay, and host pods' upper
            // directories can't be on one.
            root: PathBuf::from("/var/lib/bulkhead/e2e").join(name),
            daemon: None,
            channel: channel(socket(name)),
        };
        // What an earlier run left in the same test host; its pods, if any live on,
        // are without a record then, and the daemon removes them.
        if node.root.exists() {
            fs::remove_dir_all(&node.root)
                .with_context(|| format!("emptying {}", node.root.display()))?;
        }
        fs::create_dir_all(node.root.join("logs"))?;
        Ok(node)
    }

    // Two vCPUs at most, however few processors an emulated host has.
    fn configure(&self, registries: &str, extra: &str) -> Result<()> {
        let programs = &self.programs;
        let config = format!(
            "[paths]\nstate_dir = \"{state}\"\nrun_dir = \"{run}\"\nsocket = \"{socket}\"\n\
             kernel = \"{kernel}\"\nvmm = \"{vmm}\"\nagent = \"{agent}\"\n\
             [registries]\n{registries}\n\
             [vm]\nboot_timeout_seconds = 300\nanswer_timeout_seconds = 300\n\
             vcpus_max = 2\n{extra}\n",
            state = self.state_dir().display(),
            run = self.run_dir().display(),
            socket = self.socket().display(),
            kernel = programs.kernel.display(),
            vmm = programs.vmm.display(),
            agent = programs.agent.display(),
        );
        Ok(fs::write(self.config(), config)?)
    }

    /// Where it finds what stands in for registries.
    pub fn hosts_dir(&self) -> PathBuf {
        self.root.join("certs.d")
    }

    /// Its configuration file.
    pub fn config(&self) -> PathBuf {
        self.root.join("config.toml")
    }

    /// Its state directory.
    pub fn state_dir(&self) -> PathBuf {
        self.root.join("state")
    }

    /// Its run directory. On /run, since socket paths are short.
    pub fn run_dir(&self) -> PathBuf {
        let name = self.root.file_name().unwrap_or_default();
        run_dir(&name.to_string_lossy())
    }

    /// Its socket.
    pub fn socket(&self) -> PathBuf {
        let name = self.root.file_name().unwrap_or_default();
        socket(&name.to_string_lossy())
    }

    /// A directory for container logs.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// A scratch path of this test.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// The daemon's process id.
    pub fn daemon_pid(&self) -> Result<u32> {
        self.daemon
            .as_ref()
            .and_then(Child::id)
            .context("the daemon is not running")
    }

    /// Starts the daemon and waits until it answers.
    pub async fn start(&mut self) -> Result<()> {
        fs::create_dir_all(self.run_dir())?;
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.root.join("daemon.log"))?;
        let child = tokio::process::Command::new(&self.programs.bulkhead)
            .arg("--config")
            .arg(self.config())
            .arg("serve")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .with_context(|| format!("starting {}", self.programs.bulkhead.display()))?;
        self.daemon = Some(child);
        let deadline = Instant::now() + PATIENCE;
        loop {
            let version = bulkhead_cri_api::v1::VersionRequest::default();
            if self.runtime().version(version).await.is_ok() {
                return Ok(());
            }
            if let Some(status) = self.daemon.as_mut().and_then(|d| d.try_wait().transpose()) {
                bail!(
                    "the daemon ended at its start: {:?}\n{}",
                    status,
                    self.daemon_log()
                );
            }
            if Instant::now() > deadline {
                bail!("the daemon does not answer\n{}", self.daemon_log());
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Kills the daemon, at whatever instruction it is.
    pub async fn kill(&mut self) -> Result<()> {
        let mut daemon = self.daemon.take().context("the daemon is not running")?;
        daemon.start_kill()?;
        daemon.wait().await?;
        Ok(())
    }

    /// Asks the daemon to end, as an init system would, and waits for it.
    pub async fn stop(&mut self) -> Result<()> {
        let Some(mut daemon) = self.daemon.take() else {
            return Ok(());
        };
        if let Some(pid) = daemon.id() {
            let pid = nix::unistd::Pid::from_raw(i32::try_from(pid)?);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM)?;
        }
        match tokio::time::timeout(PATIENCE, daemon.wait()).await {
            Ok(status) => {
                let status = status?;
                anyhow::ensure!(status.success(), "the daemon ended with {status}");
                Ok(())
            }
            Err(_) => {
                daemon.start_kill()?;
                bail!("the daemon ignored SIGTERM for {PATIENCE:?}");
            }
        }
    }

    /// The last lines the daemon logged.
    pub fn daemon_log(&self) -> String {
        let log = fs::read_to_string(self.root.join("daemon.log")).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let from = lines.len().saturating_sub(60);
        lines.get(from..).unwrap_or_default().join("\n")
    }

    /// A runtime service client.
    pub fn runtime(&self) -> RuntimeServiceClient<Channel> {
        RuntimeServiceClient::new(self.channel.clone())
    }

    /// An image service client.
    pub fn images(&self) -> ImageServiceClient<Channel> {
        ImageServiceClient::new(self.channel.clone())
    }

    /// Runs the command line against this node; returns its standard output.
    pub async fn cli(&self, args: &[&str]) -> Result<String> {
        let output = tokio::process::Command::new(&self.programs.bulkhead)
            .arg("--config")
            .arg(self.config())
            .args(args)
            .stdin(Stdio::null())
            .output()
            .await?;
        if !output.status.success() {
            bail!(
                "bulkhead {}: {}: {}",
                args.join(" "),
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Imports an archive.
    pub async fn import(&self, archive: &[u8], name: &str) -> Result<String> {
        let path = self.path(name);
        fs::write(&path, archive)?;
        let path = path.display().to_string();
        self.cli(&["image", "import", &path]).await
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if let Some(daemon) = self.daemon.as_mut() {
            // A test that failed half-way: its daemon must not outlive it.
            let _ = daemon.start_kill();
        }
    }
}

fn run_dir(name: &str) -> PathBuf {
    PathBuf::from("/run/bh").join(name)
}

fn socket(name: &str) -> PathBuf {
    run_dir(name).join("bulkhead.sock")
}

/// A connection to a CRI runtime's socket, made at its first use and again whenever
/// it was lost.
pub fn channel(path: PathBuf) -> Channel {
    Endpoint::from_static("http://localhost").connect_with_connector_lazy(tower::service_fn(
        move |_: Uri| {
            let path = path.clone();
            async move { Ok::<_, std::io::Error>(TokioIo::new(UnixStream::connect(path).await?)) }
        },
    ))
}
