//! Creating and starting a container.

use std::{
    fs, io,
    os::{
        fd::{AsRawFd as _, OwnedFd},
        unix::net::{SocketAddr, UnixListener, UnixStream},
    },
    path::Path,
    sync::Arc,
};

use bulkhead_agent_api::agent::CreateContainerRequest;
use rustix::{pipe::PipeFlags, process::Pid};

use super::{
    Container, Containers, Slot, executor, helper, nodes,
    protocol::{self, Create, Job, Launch, Reply},
    report_exit,
    spec::{self, Prepared, Surroundings},
};
use crate::{
    disks::layers::blocking,
    error::{Context as _, Error, Result},
    process::{Process, StdioOptions, Streams, stream},
};

/// Who a new container's init runs as.
#[derive(Debug)]
pub struct Created {
    /// In the agent's PID namespace.
    pub pid: u32,
    /// User id.
    pub uid: u32,
    /// Primary group.
    pub gid: u32,
    /// All groups.
    pub groups: Vec<u32>,
}

impl Containers {
    /// Creates a container up to its execve.
    ///
    /// # Errors
    /// `ALREADY_EXISTS`, `INVALID_ARGUMENT`, `FAILED_PRECONDITION` for what
    /// cannot be honoured; whatever failed. Nothing is left behind.
    pub async fn create(&self, request: CreateContainerRequest) -> Result<Created> {
        let id = request.container_id.clone();
        self.reserve(&id)?;
        match self.try_create(request).await {
            Ok((container, created)) => {
                super::lock(&self.all).insert(id, Slot::Ready(Arc::new(container)));
                self.settled.notify_waiters();
                Ok(created)
            }
            Err(why) => {
                self.discard(&id).await;
                Err(why.within(format_args!("create container {id}")))
            }
        }
    }

    async fn try_create(&self, request: CreateContainerRequest) -> Result<(Container, Created)> {
        let id = &request.container_id;
        let dir = self.place.container(id);
        let cgroup = self.cgroup_of(id);
        let on_host = !self.place.is_guest() && self.place.own().mounts;
        let staging = on_host.then(|| dir.join("mounts"));
        let Prepared {
            mut spec,
            seccomp,
            devices,
            every_device,
            binds,
        } = spec::prepare(
            &request.oci_spec,
            &Surroundings {
                rootfs: &dir.join("rootfs"),
                cgroup: cgroup.path(),
                pid_namespace: self.pid_namespace(&request).await?,
                etc: &self.place.etc(),
                shm: &self.place.shm(),
                readonly_rootfs: request.readonly_rootfs,
                staging: staging.as_deref(),
            },
        )?;
        if every_device {
            let mounts = spec.mounts().clone().unwrap_or_default();
            if let Some(linux) = spec.linux_mut() {
                let mut all = linux.devices().clone().unwrap_or_default();
                let found = nodes::every_device(Path::new("/dev"))?;
                // What is mounted below /dev has its own nodes, and may be the host's.
                all.extend(
                    found
                        .into_iter()
                        .filter(|node| !nodes::is_on(&mounts, node)),
                );
                linux.set_devices(Some(all));
            }
        }
        let terminal = spec
            .process()
            .as_ref()
            .and_then(oci_spec::runtime::Process::terminal)
            .unwrap_or(false);
        let mut launch = Launch::default().with_seccomp(seccomp.as_ref());
        if let (Some(_), Some(process)) = (&seccomp, spec.process_mut()) {
            launch.drop_sys_admin = spec::lend_sys_admin(process);
        }
        launch.raw_env = spec::check_raw_env(request.raw_env.clone())?;
        launch.window = request.window.as_ref().map(|w| (w.rows, w.columns));

        self.layers.hold(&request.layer_serials, id).await?;
        let upper = self.place.upper(id);
        make_dirs(&dir, &upper)?;
        cgroup.create()?;
        devices.attach(&cgroup.dir())?;

        let options = StdioOptions {
            terminal,
            stdin: request.stdin,
            stdin_once: request.stdin_once,
            output_buffer: request.output_buffer_bytes,
        };
        let mut layers = request.layer_serials.clone();
        layers.reverse();
        let job = Job::Create(Box::new(Create {
            dir: dir.clone(),
            layers_dir: self.place.layers().to_owned(),
            layers,
            upper,
            binds,
            spec,
            user: request.user.as_ref().map(Into::into),
            launch,
        }));
        let made = make(self, job, &options, &dir, "init").await?;
        let init = Arc::new(Process::new(id, "", made.pid, made.streams));
        report_exit(Arc::clone(&init), cgroup.clone(), made.exit);
        let created = Created {
            pid: made.pid.as_raw_nonzero().get().unsigned_abs(),
            uid: made.uid,
            gid: made.gid,
            groups: made.groups,
        };
        let container = Container {
            id: id.clone(),
            dir,
            cgroup,
            init,
            execs: std::sync::Mutex::default(),
            unstarted: tokio::sync::Mutex::new(Some(made.status)),
            seccomp,
        };
        Ok((container, created))
    }

    /// Lets a created container's init run its program. Unix time of the start.
    ///
    /// # Errors
    /// The execve's own: `NOT_FOUND`, `PERMISSION_DENIED`, `INVALID_ARGUMENT`;
    /// `FAILED_PRECONDITION` when it has been started before.
    pub async fn start(&self, id: &str) -> Result<i64> {
        let container = self.get(id)?;
        let mut unstarted = container.unstarted.lock().await;
        let status = unstarted
            .take()
            .ok_or_else(|| Error::precondition(format!("container {id} was started before")))?;
        if container.init.exit().is_some() {
            return Err(Error::precondition(format!(
                "container {id} ended before it was started"
            )));
        }
        let status = stream::pipe(status).context(|| "poll the status pipe")?;
        notify(&helper::notify_socket(&container.dir))
            .context(|| format!("start container {id}: tell its init"))?;
        let text = read_status(&status).await?;
        if !text.is_empty() {
            return Err(
                executor::error_from_status(&text).within(format_args!("start container {id}"))
            );
        }
        Ok(container.init.mark_started())
    }

    /// The PID namespace a container is to join, if it is not to have its own.
    async fn pid_namespace(
        &self,
        request: &CreateContainerRequest,
    ) -> Result<Option<std::path::PathBuf>> {
        let of = |pid: Pid| {
            Some(
                Path::new("/proc")
                    .join(pid.as_raw_nonzero().to_string())
                    .join("ns/pid"),
            )
        };
        if !request.share_pid_with.is_empty() {
            let target = self.get(&request.share_pid_with)?;
            if target.init.exit().is_some() {
                return Err(Error::precondition(format!(
                    "container {} has ended: its PID namespace is gone",
                    target.id
                )));
            }
            return Ok(of(target.init.pid()));
        }
        if request.share_pid_with_host {
            if self.place.is_guest() {
                return Err(Error::precondition(
                    "a guest can't share the host's PID namespace",
                ));
            }
            return Ok(of(rustix::process::getpid()));
        }
        if !request.share_pid_with_pod {
            return Ok(None);
        }
        let mut pause = self.pause.lock().await;
        if let Some(pid) = *pause {
            return Ok(of(pid));
        }
        match blocking(|| helper::run(&Job::Pause, Vec::new())).await? {
            Reply::Made { pid, .. } => {
                *pause = Pid::from_raw(pid);
                Ok(pause.and_then(of))
            }
            Reply::Failed { what, .. } => Err(Error::internal(what)),
        }
    }
}

fn make_dirs(dir: &Path, upper: &Path) -> Result<()> {
    for dir in [dir.to_owned(), upper.join("upper"), upper.join("work")] {
        fs::create_dir_all(&dir).context(|| format!("make {}", dir.display()))?;
    }
    Ok(())
}

/// A process that a helper made.
pub(super) struct Made {
    pub(super) pid: Pid,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) streams: Streams,
    /// Read end of the status pipe.
    pub(super) status: OwnedFd,
    pub(super) exit: tokio::sync::oneshot::Receiver<crate::init::reaper::Reaped>,
}

/// Runs a helper with the streams a process wants.
pub(super) async fn make(
    containers: &Containers,
    job: Job,
    options: &StdioOptions,
    dir: &Path,
    name: &str,
) -> Result<Made> {
    let expectation = containers.reaper.expect();
    let (status, status_write) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC).context(|| "make the status pipe")?;
    let mut fds = vec![status_write];
    let console = helper::console_socket(dir, name);
    let (listener, piped) = if options.terminal {
        (Some(bind(&console)?), None)
    } else {
        let (streams, child) = Streams::over_pipes(options)?;
        fds.extend([child.stdin, child.stdout, child.stderr]);
        (None, Some(streams))
    };
    let reply = blocking(move || helper::run(&job, fds)).await;
    if options.terminal {
        // It may not have been made.
        let _ = fs::remove_file(&console);
    }
    let (pid, uid, gid, groups) = match reply? {
        Reply::Made {
            pid,
            uid,
            gid,
            groups,
        } => (pid, uid, gid, groups),
        Reply::Failed { what, .. } => return Err(Error::internal(what)),
    };
    let pid = Pid::from_raw(pid).ok_or_else(|| Error::internal("the helper told no pid"))?;
    let exit = containers.reaper.watch(pid, &expectation);
    let streams = match (listener, piped) {
        (Some(listener), _) => {
            let master = accept_terminal(&listener).context(|| "receive the terminal")?;
            Streams::over_terminal(options, master)?
        }
        (None, Some(streams)) => streams,
        (None, None) => Streams::default(),
    };
    Ok(Made {
        pid,
        uid,
        gid,
        groups,
        streams,
        status,
        exit,
    })
}

/// A unix socket's path has room for 107 bytes, an id alone may have 128: the
/// directory is named by descriptor.
fn short(path: &Path) -> io::Result<(fs::File, SocketAddr)> {
    let dir = fs::File::open(path.parent().unwrap_or(Path::new("/")))?;
    let name = path.file_name().unwrap_or_default();
    let short = Path::new("/proc/self/fd")
        .join(dir.as_raw_fd().to_string())
        .join(name);
    let address = SocketAddr::from_pathname(short)?;
    Ok((dir, address))
}

fn bind(path: &Path) -> Result<UnixListener> {
    let listen = || {
        let (_dir, address) = short(path)?;
        UnixListener::bind_addr(&address)
    };
    listen().context(|| format!("listen on {}", path.display()))
}

/// The helper has sent it before it answered: nothing to wait for.
fn accept_terminal(listener: &UnixListener) -> io::Result<OwnedFd> {
    listener.set_nonblocking(true)?;
    let (stream, _) = listener.accept()?;
    stream.set_nonblocking(true)?;
    protocol::receive_fd(&stream)
}

/// Wakes an init that waits in libcontainer for its start.
fn notify(socket: &Path) -> io::Result<()> {
    let (_dir, address) = short(socket)?;
    // The init accepts, and reads until the connection ends.
    UnixStream::connect_addr(&address).map(drop)
}

/// What the status pipe says until it is closed.
pub(super) async fn read_status(pipe: &stream::Pipe) -> Result<Vec<u8>> {
    let mut status = Vec::new();
    let mut buffer = [0; 512];
    loop {
        let mut ready = pipe.readable().await.context(|| "poll the status pipe")?;
        match ready.try_io(|fd| Ok(rustix::io::read(fd.get_ref(), &mut buffer)?)) {
            Ok(Ok(0)) => return Ok(status),
            Ok(Ok(count)) => {
                status.extend_from_slice(buffer.get(..count).unwrap_or(&[]));
                if status.len() > executor::MAX_STATUS + 4 {
                    return Ok(status);
                }
            }
            Ok(Err(why)) => return Err(why).context(|| "read the status pipe"),
            Err(_would_block) => {}
        }
    }
}
