//! The agent's program: guest PID 1, host pod agent, container helper.
#![forbid(unsafe_code)]

use std::{path::Path, process::ExitCode, sync::Arc};

use anyhow::{Context as _, bail};
use bulkhead_agent::{
    container::{Containers, helper},
    disks::{Disks, blobs::Blobs, directories::Directories, guest::GuestDisks, layers::Layers},
    forward,
    init::{
        host, mounts,
        ready::{boot_ns, tell_host, tell_socket},
        reaper::Reaper,
    },
    listen::Listener,
    logging,
    place::Place,
    process,
    rpc::Service,
};
use bulkhead_agent_api::{AGENT_PORT, FORWARD_PORT, STDIO_PORT, sockets};

const USAGE: &str = "usage: bulkhead-agent                              as PID 1 of a guest
       bulkhead-agent --listen-dir DIR [--cgroup PATH] [--scratch DIR]
                      [--own mnt,net,ipc,uts]      for host pods
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
        match host::Options::parse(args) {
            // Before there is a second thread.
            Some(options) => host::enter(&options)
                .map_err(Into::into)
                .and_then(|()| run(serve_host(main_ns, options))),
            None => Err(anyhow::anyhow!(USAGE)),
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
async fn serve_host(main_ns: u64, mut options: host::Options) -> anyhow::Result<()> {
    logging::start();
    options.dir = options
        .dir
        .canonicalize()
        .with_context(|| format!("use {} as --listen-dir", options.dir.display()))?;
    // Orphans of containers that share a PID namespace come to this process.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .context("become a subreaper")?;
    // By relative names: a socket's path has at most 107 bytes.
    std::env::set_current_dir(&options.dir).context("enter --listen-dir")?;
    let unix =
        |name: &str| Listener::unix(Path::new(name)).with_context(|| format!("listen on {name}"));
    let agent = unix(sockets::AGENT)?;
    let stdio = unix(sockets::STDIO)?;
    let forward = unix(sockets::FORWARD)?;
    let ready = tell_socket(Path::new(sockets::READY), main_ns)?;
    std::env::set_current_dir("/").context("enter /")?;
    let doors = Doors {
        agent,
        stdio,
        forward,
    };
    let disks: Arc<dyn Disks> = if options.own.mounts {
        Arc::new(Blobs::new(options.dir.join("blobs")))
    } else {
        Arc::new(Directories)
    };
    serve(options.place(), disks, doors).await?;
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
