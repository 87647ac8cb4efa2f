//! The agent's program: guest PID 1, host pod agent, container helper.
#![forbid(unsafe_code)]

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
};

use anyhow::{Context as _, bail};
use bulkhead_agent::{
    container::{Containers, helper},
    disks::{Disks, directories::Directories, guest::GuestDisks, layers::Layers},
    forward,
    init::{
        mounts,
        ready::{boot_ns, tell_host, tell_socket},
        reaper::Reaper,
    },
    listen::Listener,
    logging,
    place::Place,
    process,
    rpc::Service,
};
use bulkhead_agent_api::{AGENT_PORT, FORWARD_PORT, STDIO_PORT};

const USAGE: &str = "usage: bulkhead-agent                              as PID 1 of a guest
       bulkhead-agent --listen-dir DIR [--cgroup PATH]  for host pods
       bulkhead-agent --version";

fn main() -> ExitCode {
    let main_ns = boot_ns();
    let args: Vec<String> = std::env::args().collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    if args.as_slice() == [helper::PAUSE] {
        helper::pause_main();
        return ExitCode::SUCCESS;
    }
    let args = args.get(1..).unwrap_or(&[]);
    match args {
        [helper::HELPER] => {
            logging::start_in_helper();
            helper::main();
            return ExitCode::SUCCESS;
        }
        ["--version"] => {
            println_version();
            return ExitCode::SUCCESS;
        }
        _ => {}
    }
    logging::panic_is_fatal();
    // The kernel passes words of its command line that it does not know to PID 1.
    let result = if std::process::id() == 1 {
        run(guest(main_ns))
    } else {
        match args {
            ["--listen-dir", dir] => run(host(main_ns, Path::new(dir), None)),
            ["--listen-dir", dir, "--cgroup", cgroup] => {
                run(host(main_ns, Path::new(dir), Some(cgroup.into())))
            }
            _ => Err(anyhow::anyhow!(USAGE)),
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("bulkhead-agent: {why:#}");
            ExitCode::FAILURE
        }
    }
}

#[allow(clippy::print_stdout)] // what --version is for
fn println_version() {
    println!("bulkhead-agent {}", bulkhead_agent::VERSION);
}

fn run(agent: impl Future<Output = anyhow::Result<()>>) -> anyhow::Result<()> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the async runtime")?
        .block_on(agent)
}

/// PID 1: say ready first, then do what can wait. Requests that come meanwhile
/// wait in the sockets' backlogs.
async fn guest(main_ns: u64) -> anyhow::Result<()> {
    let agent = Listener::vsock(AGENT_PORT)
        .with_context(|| format!("listen on vsock port {AGENT_PORT}"))?;
    let stdio = Listener::vsock(STDIO_PORT)
        .with_context(|| format!("listen on vsock port {STDIO_PORT}"))?;
    let forward = Listener::vsock(FORWARD_PORT)
        .with_context(|| format!("listen on vsock port {FORWARD_PORT}"))?;
    let host = tell_host(main_ns).await?;
    mounts::take_root()?;
    mounts::mount_all()?;
    logging::start();
    let doors = Doors {
        agent,
        stdio,
        forward,
    };
    serve(Place::guest(), Arc::new(GuestDisks), doors).await?;
    drop(host);
    Ok(())
}

/// An ordinary process for host pods.
async fn host(main_ns: u64, dir: &Path, cgroup: Option<PathBuf>) -> anyhow::Result<()> {
    logging::start();
    let dir = dir
        .canonicalize()
        .with_context(|| format!("use {} as --listen-dir", dir.display()))?;
    let cgroup = cgroup.unwrap_or_else(|| format!("bulkhead-agent-{}", std::process::id()).into());
    let place = Place::host(&dir, cgroup);
    // Orphans of containers that share a PID namespace come to this process.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .context("become a subreaper")?;
    let agent = Listener::unix(&dir.join("agent.sock")).context("listen on agent.sock")?;
    let stdio = Listener::unix(&dir.join("stdio.sock")).context("listen on stdio.sock")?;
    let forward = Listener::unix(&dir.join("forward.sock")).context("listen on forward.sock")?;
    let ready = tell_socket(&dir.join("ready.sock"), main_ns)?;
    let doors = Doors {
        agent,
        stdio,
        forward,
    };
    serve(place, Arc::new(Directories), doors).await?;
    drop(ready);
    Ok(())
}

/// Where the daemon comes in.
struct Doors {
    agent: Listener,
    stdio: Listener,
    forward: Listener,
}

async fn serve(place: Place, disks: Arc<dyn Disks>, doors: Doors) -> anyhow::Result<()> {
    let reaper = Arc::new(Reaper::default());
    let children = Reaper::listen().context("listen for SIGCHLD")?;
    tokio::spawn(Arc::clone(&reaper).run(children));
    let layers = Layers::new(Arc::clone(&disks), place.layers().to_owned());
    let containers = Arc::new(Containers::new(place, layers, reaper));
    tokio::spawn(process::server::serve(doors.stdio, Arc::clone(&containers)));
    tokio::spawn(forward::serve(doors.forward));
    let _server = Service::new(Arc::clone(&containers), disks)
        .serve(doors.agent)
        .await?;
    if containers.place().is_guest() {
        std::future::pending::<()>().await;
    }
    // A host pod's agent ends with a SIGTERM, and its containers with it.
    let mut end = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())
        .context("listen for SIGTERM")?;
    if end.recv().await.is_none() {
        bail!("the signal handler has ended");
    }
    containers.end_all(std::time::Duration::ZERO).await;
    Ok(())
}
