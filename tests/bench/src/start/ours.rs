//! Our own side: pods through the CRI, as kubelet would start them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use bulkhead_cri_api::v1 as cri;
use bulkhead_e2e::{
    image,
    node::{Node, PATIENCE, Programs},
    pod::Pod,
};

use super::{kvm, memory};
use crate::report::Report;

const SUBJECT: &str = "bulkhead";

/// A node whose pods have the memory that the peers' guests have.
pub(crate) async fn start_node(programs: &Programs, memory_mib: u64) -> Result<Node> {
    let mut node = Node::new(programs, "bench", &format!("memory_mib = {memory_mib}\n"))?;
    node.start().await?;
    node.import(image::demo()?, "demo.tar").await?;
    Ok(node)
}

/// One pod: its start, its memory, its exits, a container's first output.
pub(crate) async fn measure(
    node: &Node,
    run: u32,
    memory_mib: u64,
    report: &mut Report,
) -> Result<()> {
    let began = Instant::now();
    let mut pod = Pod::run(node, &format!("bench-{run}")).await?;
    report.add(SUBJECT, "RunPodSandbox, ms", milliseconds(began.elapsed()));

    let facts = facts(node, &pod.id).await?;
    let pid = vmm_pid(&facts)?;
    let exits = kvm::exits(pid)?;
    #[allow(clippy::cast_precision_loss)] // counts far below 2^53
    {
        report.add(SUBJECT, "exits until ready (KVM)", exits.all as f64);
        report.add(SUBJECT, "exits to user space (KVM)", exits.to_user as f64);
        let resident = memory::of_vmm(pid, memory_mib << 20)?;
        report.add(
            SUBJECT,
            "VMM beside guest RAM, KiB",
            (resident.beside >> 10) as f64,
        );
        report.add(
            SUBJECT,
            "guest pages touched, KiB",
            (resident.guest >> 10) as f64,
        );
        let by_reason = facts.pointer("/sandbox/exits");
        let by_reason = by_reason.and_then(serde_json::Value::as_object);
        for (reason, exits) in by_reason.into_iter().flatten() {
            let exits = exits.as_u64().unwrap_or_default() as f64;
            report.add(SUBJECT, &format!("exits until ready: {reason}"), exits);
        }
    }
    phases(&facts, report);

    let began = Instant::now();
    pod.sh("first", "echo first words; exec sleep 100000")
        .await?;
    let started = began.elapsed();
    let deadline = began + PATIENCE;
    while pod.log("first").unwrap_or_default().is_empty() {
        anyhow::ensure!(Instant::now() < deadline, "the container prints nothing");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    report.add(
        SUBJECT,
        "create and start a container, ms",
        milliseconds(started),
    );
    report.add(
        SUBJECT,
        "create to first output, ms",
        milliseconds(began.elapsed()),
    );

    let began = Instant::now();
    pod.remove().await?;
    report.add(
        SUBJECT,
        "stop and remove the pod, ms",
        milliseconds(began.elapsed()),
    );
    Ok(())
}

/// The start by phases: from the start of the VMM's process to the first KVM_RUN,
/// and to the agent's being ready.
fn phases(facts: &serde_json::Value, report: &mut Report) {
    let timings = facts.pointer("/startTimings");
    let timings = timings.and_then(serde_json::Value::as_array);
    let (mut to_run, mut to_ready) = (Duration::ZERO, Duration::ZERO);
    for timing in timings.into_iter().flatten() {
        let phase = timing.get("phase").and_then(serde_json::Value::as_str);
        let phase = phase.unwrap_or_default();
        let took = timing.get("tookNs").and_then(serde_json::Value::as_u64);
        let took = Duration::from_nanos(took.unwrap_or_default());
        report.add(SUBJECT, &format!("phase {phase}, ms"), milliseconds(took));
        match phase {
            "prepare" | "configure" => continue,
            "guest kernel" | "agent" => {}
            _ => to_run += took,
        }
        to_ready += took;
    }
    report.add(SUBJECT, "exec to first KVM_RUN, ms", milliseconds(to_run));
    report.add(SUBJECT, "exec to agent ready, ms", milliseconds(to_ready));
}

/// The memory of a pod's VMM, with guest RAM of so many MiB.
pub(crate) async fn resident(node: &Node, id: &str, memory_mib: u64) -> Result<memory::Resident> {
    let pid = vmm_pid(&facts(node, id).await?)?;
    memory::of_vmm(pid, memory_mib << 20)
}

fn vmm_pid(facts: &serde_json::Value) -> Result<u32> {
    let pid = facts.pointer("/sandbox/vmmPid");
    pid.and_then(serde_json::Value::as_u64)
        .and_then(|pid| u32::try_from(pid).ok())
        .with_context(|| format!("no VMM pid in the verbose status: {facts}"))
}

/// The daemon's own memory, at the end.
pub(crate) fn measure_daemon(node: &Node, report: &mut Report) -> Result<()> {
    let resident = memory::of_process(node.daemon_pid()?)?;
    #[allow(clippy::cast_precision_loss)] // far below 2^53
    report.add(SUBJECT, "daemon, KiB", (resident >> 10) as f64);
    Ok(())
}

/// The verbose status of a pod, as JSON.
async fn facts(node: &Node, id: &str) -> Result<serde_json::Value> {
    let request = cri::PodSandboxStatusRequest {
        pod_sandbox_id: id.to_owned(),
        verbose: true,
    };
    let mut runtime = node.runtime();
    let info = runtime.pod_sandbox_status(request).await?.into_inner().info;
    let text = info.get("info").context("verbose status without info")?;
    Ok(serde_json::from_str(text)?)
}

fn milliseconds(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}
