//! The daemon and agents are killed.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bulkhead_cri_api::v1 as cri;

use super::{config, no_loops, says};
use crate::cases::{apart, clean_after_restart, crash::Sweep, node};
use bulkhead_e2e::{
    node::{PATIENCE, Programs},
    pod::Pod,
};

/// As for microVMs: whatever is under way, a host pod is whole or gone.
pub(crate) async fn daemon_killed_at_each_step(programs: &Programs) -> Result<()> {
    let times = if apart() { 4 } else { 1 };
    let sweep = Sweep {
        name: "host-sweep",
        handler: "host",
        sandbox: 8 * times,
        container: 4 * times,
    };
    sweep
        .run(programs, |node, name| config(node, name, &[]))
        .await?;
    no_loops().await
}

/// The daemon's end is not the pod's; its agent's end is.
pub(crate) async fn daemon_and_agent_killed(programs: &Programs) -> Result<()> {
    let (mut node, world) = node(programs, "host-kill", "").await?;
    let mut pod = Pod::run_with(&node, config(&node, "kill", &["network"])).await?;
    let script = "i=0; while [ $i -lt 20000 ]; do echo $i; i=$((i+1)); done; exec sleep 100000";
    let id = pod.sh("c", script).await?;
    for _ in 0..3 {
        node.kill().await?;
        node.start().await?;
        ensure!(pod.pod_status().await?.state() == cri::PodSandboxState::SandboxReady);
        ensure!(says(&mut pod, &id, "echo here").await? == "here");
    }
    let wanted: String = (0..20_000).map(|n| format!("{n}\n")).collect();
    let deadline = Instant::now() + PATIENCE;
    while pod.output("c", "stdout")? != wanted {
        ensure!(Instant::now() < deadline, "the log is not whole");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // While there is no daemon, exits are kept for it.
    let ends = pod
        .sh("ends", "read -t 1 x < /dev/zero; sleep 1; exit 9")
        .await?;
    node.kill().await?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    node.start().await?;
    ensure!(pod.exited(&ends, PATIENCE).await?.exit_code == 9);

    let title = format!("bulkhead-agent {}", pod.id);
    let agent = process_named(&title)?.context("no agent runs")?;
    let agent = nix::unistd::Pid::from_raw(agent);
    nix::sys::signal::kill(agent, nix::sys::signal::Signal::SIGKILL)?;
    let began = Instant::now();
    while pod.pod_status().await?.state() == cri::PodSandboxState::SandboxReady {
        ensure!(began.elapsed() < PATIENCE, "still ready without an agent");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let status = pod.exited(&id, PATIENCE).await?;
    println!("    told after {:.1?}: {}", began.elapsed(), status.message);
    let mut next = config(&node, "kill", &["network"]);
    next.metadata.as_mut().context("no metadata")?.attempt = 1;
    let mut next = Pod::run_with(&node, next).await?;
    pod.remove().await?;
    next.remove().await?;
    no_loops().await?;
    clean_after_restart(node, &world).await
}

/// The process with this name, as `ps` shows it.
pub(super) fn process_named(name: &str) -> Result<Option<i32>> {
    for entry in fs::read_dir("/proc")? {
        let path = entry?.path();
        let command = fs::read(path.join("cmdline")).unwrap_or_default();
        let pid = path.file_name().and_then(|it| it.to_str()?.parse().ok());
        if command.starts_with(name.as_bytes()) && pid.is_some() {
            return Ok(pid);
        }
    }
    Ok(None)
}
