//! Host pods: pods that run on the node itself, where that is allowed.

mod confined;
mod namespaces;
mod outages;
mod paths;

use std::{
    fs,
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bulkhead_cri_api::v1 as cri;

pub(crate) use confined::confined;
pub(crate) use namespaces::namespaces;
pub(crate) use outages::{daemon_and_agent_killed, daemon_killed_at_each_step};
pub(crate) use paths::paths_and_devices;

use super::{apart, clean, node, streams, usage::rotate};
use crate::demo::http_get;
use bulkhead_e2e::{
    node::{Node, PATIENCE, Programs},
    pod::{Pod, container_config, payload, pod_config},
};

/// The Kubernetes namespace that the shipped configuration allows host pods.
const SYSTEM: &str = "kube-system";
const SERVE: &str = "exec httpd -f -p";

/// A pod's configuration with namespaces of the host.
fn config(node: &Node, name: &str, shared: &[&str]) -> cri::PodSandboxConfig {
    let mut config = pod_config(node, name, 0);
    if let Some(metadata) = &mut config.metadata {
        SYSTEM.clone_into(&mut metadata.namespace);
    }
    config.linux = Some(cri::LinuxPodSandboxConfig {
        security_context: Some(cri::LinuxSandboxSecurityContext {
            namespace_options: Some(options(shared)),
            ..Default::default()
        }),
        ..Default::default()
    });
    config
}

fn options(shared: &[&str]) -> cri::NamespaceOption {
    let mode = |name| match shared.contains(&name) {
        true => cri::NamespaceMode::Node,
        false => cri::NamespaceMode::Pod,
    };
    let mut options = cri::NamespaceOption::default();
    options.set_network(mode("network"));
    options.set_ipc(mode("ipc"));
    options.set_pid(match mode("pid") {
        cri::NamespaceMode::Pod => cri::NamespaceMode::Container,
        mode => mode,
    });
    options
}

/// A container in a pod that shares these namespaces.
fn container(name: &str, script: &str, shared: &[&str]) -> cri::ContainerConfig {
    let mut config = container_config(name, script);
    let security = security(&mut config);
    security.namespace_options = Some(options(shared));
    config
}

fn security(config: &mut cri::ContainerConfig) -> &mut cri::LinuxContainerSecurityContext {
    let linux = config.linux.get_or_insert_default();
    linux.security_context.get_or_insert_default()
}

async fn started(pod: &mut Pod, config: cri::ContainerConfig) -> Result<String> {
    let id = pod.create(config).await?;
    pod.start(&id).await.context("StartContainer")?;
    Ok(id)
}

/// What a shell script in a container says.
async fn says(pod: &mut Pod, id: &str, script: &str) -> Result<String> {
    let answer = pod.exec(id, script).await?;
    ensure!(answer.exit_code == 0, "{script}: {answer:?}");
    Ok(String::from_utf8_lossy(&answer.stdout).trim().to_owned())
}

/// A page of a server, once it serves.
async fn page(address: SocketAddr) -> Result<String> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match tokio::task::spawn_blocking(move || http_get(address)).await? {
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            page => return page,
        }
    }
}

/// A page by port-forward.
async fn forwarded(node: &Node, pod: &Pod, port: u16) -> Result<String> {
    let request = cri::PortForwardRequest {
        pod_sandbox_id: pod.id.clone(),
        port: vec![i32::from(port)],
    };
    let url = node.runtime().port_forward(request).await?.into_inner().url;
    let page = super::streams::forwarded_page(&url, port).await;
    page.with_context(|| format!("forwarding port {port}"))
}

/// Loop devices with a layer of one of our nodes behind them: every namespace sees the
/// whole machine's.
fn loops() -> Result<Vec<String>> {
    let mut used = Vec::new();
    for entry in fs::read_dir("/sys/block")? {
        let path = entry?.path().join("loop/backing_file");
        let behind = fs::read_to_string(path).unwrap_or_default();
        if behind.contains("bulkhead/e2e/") {
            used.push(behind);
        }
    }
    Ok(used)
}

/// The kernel frees a loop device a moment after its last user.
async fn no_loops() -> Result<()> {
    let deadline = Instant::now() + PATIENCE;
    while !loops()?.is_empty() {
        ensure!(Instant::now() < deadline, "left: {:?}", loops()?);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}

/// By its handler: a pod like any other, with an address of its own, but in the
/// node's kernel; and gone without a trace.
pub(crate) async fn lifecycle(programs: &Programs) -> Result<()> {
    let (node, world) = node(programs, "host-life", "").await?;
    let mut pod = Pod::run_as(&node, config(&node, "life", &[]), "host").await?;
    let id = pod.sh("c", "echo out; echo err >&2; exit 7").await?;
    let exited = pod.exited(&id, PATIENCE).await?;
    ensure!(exited.exit_code == 7, "{exited:?}");
    ensure!(pod.output("c", "stdout")? == "out\n" && pod.output("c", "stderr")? == "err\n");

    let web = pod
        .sh(
            "web",
            &format!("{SERVE} 127.0.0.1:81 -h /www & {SERVE} 80 -h /www"),
        )
        .await?;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease")?;
    ensure!(says(&mut pod, &web, "uname -r").await? == kernel.trim());
    ensure!(says(&mut pod, &web, "hostname; cat /etc/hostname").await? == "life\nlife");
    let addresses = says(&mut pod, &web, "ip -o addr show eth0").await?;
    let address = pod.address().await?;
    ensure!(addresses.contains(&address.to_string()), "{addresses}");
    ensure!(page((address, 80).into()).await?.contains("hello"));
    ensure!(forwarded(&node, &pod, 81).await?.contains("hello"));
    let inits = says(&mut pod, &web, "ps | wc -l").await?;
    ensure!(
        inits.parse::<u32>()? < 10,
        "it sees the node's processes: {inits}"
    );

    let request = cri::ContainerStatsRequest {
        container_id: web.clone(),
    };
    let stats = node.runtime().container_stats(request).await?.into_inner();
    let memory = stats.stats.and_then(|it| it.memory?.working_set_bytes);
    ensure!(
        memory.is_some_and(|it| it.value > 0),
        "no memory is counted"
    );
    pod.stop_container(&web, 0).await?;
    pod.remove_container(&web).await?;
    pod.remove_container(&id).await?;
    // Its layers are let go of with its last container.
    no_loops().await?;
    let after = pod.sh("after", "exit 0").await?;
    ensure!(pod.exited(&after, PATIENCE).await?.exit_code == 0);
    pod.remove().await?;
    no_loops().await?;
    clean(node, &world).await
}

fn refused(result: Result<()>, code: tonic::Code, says: &str) -> Result<()> {
    let error = result.err().context("it was not refused")?;
    let status = error
        .downcast_ref::<tonic::Status>()
        .context("no gRPC status")?;
    ensure!(
        status.code() == code && status.message().contains(says),
        "{status:?}"
    );
    Ok(())
}

/// Off, unless the pod's Kubernetes namespace or its handler is allowed.
pub(crate) async fn refused_unless_allowed(programs: &Programs) -> Result<()> {
    let extra = "[handlers.node]\nkind = \"host\"\n[handlers.other]\nkind = \"host\"\n\
                 [host_pods]\nallow_namespaces = []\nallow_handlers = [\"other\"]\n";
    let (node, world) = node(programs, "host-refused", extra).await?;
    for (shared, handler, says) in [
        (&["network"][..], "", "host_pods.allow_namespaces"),
        (&["pid", "ipc"], "bulkhead", "pid and ipc"),
        (&[], "node", "\"kube-system\""),
    ] {
        let pod = Pod::run_as(&node, config(&node, "no", shared), handler).await;
        refused(pod.map(drop), tonic::Code::FailedPrecondition, says)?;
    }
    let unknown = Pod::run_as(&node, config(&node, "no", &[]), "kata").await;
    let code = tonic::Code::InvalidArgument;
    refused(unknown.map(drop), code, "bulkhead, host, node, other")?;
    let mut pod = Pod::run_as(&node, config(&node, "yes", &["network"]), "other").await?;
    // What the pod did not ask for, its containers don't get.
    let greedy = container("c", "true", &["network", "pid"]);
    let refusal = pod.create(greedy).await.map(drop);
    refused(refusal, tonic::Code::FailedPrecondition, "pid namespace")?;
    pod.remove().await?;

    let status = node.runtime().status(cri::StatusRequest::default()).await?;
    for handler in status.into_inner().runtime_handlers {
        let host = ["host", "node", "other"].contains(&handler.name.as_str());
        let features = handler.features.context("no features")?;
        ensure!(
            features.recursive_read_only_mounts == host,
            "{}",
            handler.name
        );
    }
    clean(node, &world).await
}

/// Every byte through an exec arrives once and in order, each way.
pub(crate) async fn bytes_are_exact(programs: &Programs) -> Result<()> {
    let (node, world) = node(programs, "host-exact", "").await?;
    let mut pod = Pod::run_as(&node, config(&node, "exact", &[]), "host").await?;
    streams::every_byte(&node, &mut pod, if apart() { 256 } else { 64 }).await?;
    pod.remove().await?;
    clean(node, &world).await
}

/// A host pod logs as fast as it can, its log rotated every second: every byte once.
pub(crate) async fn logs_rotate_under_load(programs: &Programs) -> Result<()> {
    let lines = match std::env::var("BULKHEAD_LOG_LINES") {
        Ok(text) => text.parse()?,
        Err(_) => 400_000,
    };
    let (node, world) = node(programs, "host-rotate", "").await?;
    let mut pod = Pod::run_as(&node, config(&node, "rotate", &[]), "host").await?;
    let began = Instant::now();
    let id = pod.sh("c", &format!("seq 0 {}", lines - 1)).await?;
    let log = pod.log_path("c");
    let mut files = Vec::new();
    while pod.status(&id).await?.state() == cri::ContainerState::ContainerRunning {
        ensure!(began.elapsed() < PATIENCE, "it does not end");
        tokio::time::sleep(Duration::from_secs(1)).await;
        files.push(rotate(&node, &id, &log, files.len()).await?);
    }
    ensure!(pod.exited(&id, PATIENCE).await?.exit_code == 0);
    println!(
        "    {lines} lines, {} files, {:.1?}",
        files.len() + 1,
        began.elapsed()
    );
    files.push(log);
    let mut whole = String::new();
    for file in &files {
        whole.push_str(&fs::read_to_string(file)?);
    }
    let got = payload(&whole, "stdout")?;
    let wanted: String = (0..lines).map(|n| format!("{n}\n")).collect();
    let differ = got.bytes().zip(wanted.bytes()).position(|(a, b)| a != b);
    ensure!(
        got.len() == wanted.len() && differ.is_none(),
        "{} bytes of {}, first difference at {differ:?}",
        got.len(),
        wanted.len()
    );
    pod.remove().await?;
    clean(node, &world).await
}
