//! The container helper: this binary, executed again, with one thread.
//!
//! libcontainer clones without exec and runs ordinary code in the children; that
//! is sound only in a process with one thread (malloc's locks, setns(2)). The
//! agent has a runtime and worker threads, so each container and each exec is
//! made by a fresh process that ends when it is done. What it made are the
//! agent's own children (CLONE_PARENT), reaped by the agent's one reaper.
//!
//! ```text
//!  agent ──spawn──▶ helper ──clone──▶ intermediate ──clone──▶ init ──execve──▶ program
//!    │◀── Reply{pid} ──┘exit              exit                 │
//!    │◀──────────────── status pipe: EOF or errno ─────────────┘
//! ```

use std::{
    fs::{self, File},
    os::{
        fd::{AsFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt as _},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    time::Duration,
};

use libcontainer::{
    container::{ContainerStatus, builder::ContainerBuilder},
    syscall::syscall::SyscallType,
};
use oci_spec::runtime::{Process, UserBuilder};
use rustix::fs::Mode;

use super::{
    binds,
    executor::Launcher,
    limits,
    protocol::{self, Create, Exec, Job, Reply},
    rootfs,
    users::{self, Identity, UserRequest},
};
use crate::error::{Context as _, Error, Result};

/// First argument that makes the binary a helper.
pub const HELPER: &str = "container-helper";
/// Own name that makes it the init of a pod's PID namespace: what `ps` shows in
/// the pod's containers.
pub const PAUSE: &str = "pause";
/// libcontainer's name for the one container in a container's directory.
const RUNTIME_ID: &str = "rt";
/// How long a helper may take.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Path of the socket on which a created container waits for its start.
#[must_use]
pub fn notify_socket(dir: &Path) -> PathBuf {
    dir.join(RUNTIME_ID).join("notify.sock")
}

/// Path of the socket that the terminal of a process comes through.
#[must_use]
pub fn console_socket(dir: &Path, name: &str) -> PathBuf {
    dir.join(format!("console-{name}.sock"))
}

/// What helpers are started from, unless it is this very program.
static PROGRAM: OnceLock<PathBuf> = OnceLock::new();

/// Starts helpers from this file, which is the same program, from now on.
pub fn use_program(path: PathBuf) {
    // Said once, when the agent starts.
    let _ = PROGRAM.set(path);
}

fn program() -> &'static Path {
    PROGRAM
        .get()
        .map_or(Path::new("/proc/self/exe"), PathBuf::as_path)
}

/// Runs a helper for one job. Blocks.
///
/// # Errors
/// The helper's own, or `INTERNAL` when it died or took too long.
pub fn run(job: &Job, fds: Vec<OwnedFd>) -> Result<Reply> {
    let (mut ours, theirs) = UnixStream::pair().context(|| "make a socket pair for the helper")?;
    ours.set_read_timeout(Some(TIMEOUT))
        .and_then(|()| ours.set_write_timeout(Some(TIMEOUT)))
        .context(|| "limit the helper's time")?;
    let mut child = Command::new(program())
        .arg0("bulkhead-agent")
        .arg(HELPER)
        .env_clear()
        .envs(std::env::var_os("BULKHEAD_LOG").map(|level| ("BULKHEAD_LOG", level)))
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .spawn()
        .context(|| "start the container helper")?;
    let borrowed: Vec<_> = fds.iter().map(AsFd::as_fd).collect();
    let sent = protocol::send(&mut ours, job, &borrowed);
    drop(fds);
    let reply = sent.and_then(|()| protocol::receive::<Reply>(&mut ours));
    match reply {
        Ok((Reply::Failed { code, what }, _)) => Err(Error::new(
            protobuf::Enum::from_i32(code).unwrap_or(ttrpc::Code::INTERNAL),
            what,
        )),
        Ok((made, _)) => Ok(made),
        Err(why) => {
            end(&mut child);
            Err(Error::internal(format!(
                "the container helper gave no answer: {why}"
            )))
        }
    }
}

/// The reaper reaps it.
fn end(child: &mut Child) {
    // Fails when it has ended already.
    let _ = child.kill();
}

/// The helper's main.
pub fn main() {
    let Ok(stdin) = rustix::io::fcntl_dupfd_cloexec(std::io::stdin().as_fd(), 3) else {
        return;
    };
    let mut agent = UnixStream::from(stdin);
    let reply = match protocol::receive::<Job>(&mut agent) {
        Ok((job, fds)) => perform(job, fds).unwrap_or_else(|why| Reply::Failed {
            code: protobuf::Enum::value(&why.code()),
            what: why.to_string(),
        }),
        Err(_) => return,
    };
    // If the agent is gone, so is the machine.
    let _ = protocol::send(&mut agent, &reply, &[]);
}

fn perform(job: Job, fds: Vec<OwnedFd>) -> Result<Reply> {
    // What the agent's own surroundings may have left.
    rustix::process::umask(Mode::from_raw_mode(0o022));
    rustix::thread::set_thread_groups(&[]).context(|| "drop supplementary groups")?;
    match job {
        Job::Create(create) => perform_create(*create, fds),
        Job::Exec(exec) => perform_exec(*exec, fds),
        Job::Pause => start_pause(),
    }
}

fn perform_create(mut job: Create, fds: Vec<OwnedFd>) -> Result<Reply> {
    let rootfs = job.dir.join("rootfs");
    rootfs::enter_own_namespace()?;
    binds::prepare(&job.binds)?;
    rootfs::mount_overlay(&job.layers_dir, &job.layers, &job.upper, &rootfs)?;
    std::env::set_current_dir("/").context(|| "enter /")?;

    let root = File::open(&rootfs).context(|| "open the root file system")?;
    rootfs::check_mount_points(&root)?;
    let mut process = job.spec.process().clone().unwrap_or_default();
    let identity = identify(&root, job.user.as_ref(), &mut process, &job.launch.raw_env)?;
    if process.oom_score_adj().is_none() {
        process.set_oom_score_adj(Some(0));
    }
    limits::fit(&mut process)?;
    job.spec.set_process(Some(process));
    write_json(&job.dir.join("config.json"), &job.spec)?;

    let console = console_socket(&job.dir, "init");
    let builder = builder(&job.dir, &job.launch, console, fds)?;
    let mut container = builder
        .as_init(&job.dir)
        .with_systemd(false)
        .with_detach(true)
        .as_sibling(true)
        .build()
        .map_err(|why| failed("create the container", &why))?;
    let pid = container
        .pid()
        .ok_or_else(|| Error::internal("libcontainer told no pid"))?
        .as_raw();
    // Whether it runs is the agent's to know; libcontainer only execs into what
    // it believes to be running.
    container
        .set_status(ContainerStatus::Running)
        .save()
        .map_err(|why| failed("record the container's state", &why))?;
    Ok(made(pid, identity))
}

fn perform_exec(job: Exec, fds: Vec<OwnedFd>) -> Result<Reply> {
    let root = format!("/proc/{}/root", job.init);
    let root = File::open(&root).context(|| "open the container's root")?;
    let mut process = job.process;
    let identity = identify(&root, job.user.as_ref(), &mut process, &job.launch.raw_env)?;
    if process.oom_score_adj().is_none() {
        process.set_oom_score_adj(Some(0));
    }
    limits::fit(&mut process)?;
    // libcontainer leaves sockets and links where it finds a container's state:
    // each exec gets a directory of its own for them, which goes with it.
    let own = job.dir.join(&job.name);
    let state = own.join(RUNTIME_ID);
    fs::create_dir_all(&state).context(|| format!("make {}", state.display()))?;
    let file = "state.json";
    fs::copy(job.dir.join(RUNTIME_ID).join(file), state.join(file))
        .context(|| "copy the container's state")?;
    let file = own.join("process.json");
    write_json(&file, &process)?;
    let pid = builder(&own, &job.launch, console_socket(&job.dir, &job.name), fds)?
        .as_tenant()
        .with_detach(true)
        .as_sibling(true)
        .with_process(Some(&file))
        .with_sub_cgroup(Some(job.cgroup.clone()))
        .build()
        .map_err(|why| failed("start the process", &why))?;
    Ok(made(pid.as_raw(), identity))
}

fn made(pid: i32, identity: Identity) -> Reply {
    Reply::Made {
        pid,
        uid: identity.uid,
        gid: identity.gid,
        groups: identity.groups,
    }
}

/// A builder with the process's streams, whatever they are.
fn builder(
    dir: &Path,
    launch: &protocol::Launch,
    console: PathBuf,
    fds: Vec<OwnedFd>,
) -> Result<ContainerBuilder> {
    let mut fds = fds.into_iter();
    let status = fds
        .next()
        .ok_or_else(|| Error::internal("the agent passed no status pipe"))?;
    let builder = ContainerBuilder::new(RUNTIME_ID.to_owned(), SyscallType::default())
        .with_root_path(dir)
        .map_err(|why| failed("use the container's directory", &why))?
        .with_executor(Launcher::new(status, launch));
    Ok(match (fds.next(), fds.next(), fds.next()) {
        (Some(stdin), Some(stdout), Some(stderr)) => builder
            .with_stdin(stdin)
            .with_stdout(stdout)
            .with_stderr(stderr),
        _ => builder.with_console_socket(Some(console)),
    })
}

/// Puts the wanted user, and a HOME if there is none, into the process.
fn identify(
    root: &File,
    wanted: Option<&UserRequest>,
    process: &mut Process,
    raw_env: &[Vec<u8>],
) -> Result<Identity> {
    let own = process.user();
    let request = wanted.cloned().unwrap_or_else(|| UserRequest {
        spec: own.uid().to_string(),
        gid: Some(own.gid()),
        supplemental: own.additional_gids().clone().unwrap_or_default(),
        strict: true,
    });
    let identity = users::resolve_in(root, &request)?;
    let mut user = UserBuilder::default()
        .uid(identity.uid)
        .gid(identity.gid)
        .additional_gids(identity.groups.clone());
    if let Some(umask) = own.umask() {
        user = user.umask(umask);
    }
    let user = user.build().map_err(|why| failed("set the user", &why))?;
    process.set_user(user);
    let mut env = process.env().clone().unwrap_or_default();
    let has_home = env.iter().any(|one| one.starts_with("HOME="))
        || raw_env.iter().any(|one| one.starts_with(b"HOME="));
    if !has_home {
        env.push(format!("HOME={}", identity.home));
        process.set_env(Some(env));
    }
    Ok(identity)
}

fn write_json(path: &Path, value: &impl serde::Serialize) -> Result<()> {
    let json = serde_json::to_vec(value)
        .map_err(|why| Error::internal(format!("encode {}: {why}", path.display())))?;
    fs::write(path, json).context(|| format!("write {}", path.display()))
}

/// The whole chain of causes: libcontainer's outermost says little.
fn failed(what: &str, why: &(dyn std::error::Error + 'static)) -> Error {
    let mut text = format!("{what}: {why}");
    let mut cause = why.source();
    while let Some(why) = cause {
        let this = why.to_string();
        if !text.ends_with(&this) {
            text = format!("{text}: {this}");
        }
        cause = why.source();
    }
    Error::internal(text)
}

fn start_pause() -> Result<Reply> {
    crate::sys::unshare_pids().context(|| "unshare the PID namespace")?;
    let child = Command::new("/proc/self/exe")
        .arg0(PAUSE)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .context(|| "start the pod's pause process")?;
    let pid = i32::try_from(child.id()).map_err(|_| Error::internal("a pid out of range"))?;
    Ok(Reply::Made {
        pid,
        uid: 0,
        gid: 0,
        groups: Vec::new(),
    })
}

/// The init of a PID namespace that containers share: holds it open and lets the
/// kernel reap what is orphaned in it.
pub fn pause_main() {
    // Else `ps` would have "exe", after the file it was executed as.
    let _ = rustix::thread::set_name(c"pause");
    crate::sys::ignore_children();
    loop {
        rustix::event::pause();
    }
}
