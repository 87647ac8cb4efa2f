//! What is measured, told and changed while pods run.

use std::{
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bulkhead_cri_api::v1 as cri;

use super::{clean, clean_after_restart, node};
use bulkhead_e2e::{
    node::{Node, PATIENCE, Programs},
    pod::{Pod, container_config, payload, pod_config},
};

/// So often pods are measured here.
const OFTEN: &str = "[stats]\ninterval_seconds = 1\n";

async fn stats(node: &Node, id: &str) -> Result<cri::ContainerStats> {
    let request = cri::ContainerStatsRequest {
        container_id: id.to_owned(),
    };
    let answer = node.runtime().container_stats(request).await?.into_inner();
    answer.stats.context("no statistics")
}

fn number(value: Option<&cri::UInt64Value>) -> u64 {
    value.map_or(0, |it| it.value)
}

fn nano_cores(stats: &cri::ContainerStats) -> u64 {
    let cpu = stats.cpu.as_ref();
    number(cpu.and_then(|cpu| cpu.usage_nano_cores.as_ref()))
}

fn memory(stats: &cri::ContainerStats) -> u64 {
    let memory = stats.memory.as_ref();
    number(memory.and_then(|it| it.working_set_bytes.as_ref()))
}

/// A pod's disk has the size that it asks for, and what it deletes is given back.
pub(crate) async fn scratch_disks(programs: &Programs) -> Result<()> {
    const MIB: u64 = 1 << 20;
    const ASKS: &str = "io.bulkhead.ephemeral-storage";
    let (node, world) = node(programs, "scratch", "").await?;
    let asking = |size: &str| {
        let mut config = pod_config(&node, "scratch", 0);
        config.annotations.insert(ASKS.to_owned(), size.to_owned());
        config
    };
    for (size, said) in [("11Gi", "scratch_gib"), ("lots", "not a whole number")] {
        let refused = Pod::run_with(&node, asking(size)).await;
        let error = refused.err().context("it runs")?;
        let status = error.downcast_ref::<tonic::Status>().context("no status")?;
        ensure!(status.code() == tonic::Code::InvalidArgument, "{status:?}");
        ensure!(status.message().contains(said), "{status:?}");
    }

    let mut pod = Pod::run_with(&node, asking("64Mi")).await?;
    // Made with the first disk of its size, and kept.
    let template = node.state_dir().join("cache/template-v2-67108864.ext4");
    let world = world.with_file(&template);
    let id = pod.sh("c", "exec sleep 100000").await?;
    let disk = disk_of(&node, &pod.id).await?;
    let held = || anyhow::Ok(fs::metadata(&disk)?.blocks() * 512);
    ensure!(fs::metadata(&disk)?.len() == 64 * MIB, "{}", disk.display());
    let empty = held()?;
    let wrote = pod
        .exec(&id, "head -c 33554432 /dev/zero | tr '\\0' x > /a; sync")
        .await?;
    ensure!(wrote.exit_code == 0, "{wrote:?}");
    ensure!(
        held()? >= empty + 32 * MIB,
        "{empty} bytes, then {}",
        held()?
    );
    // It is full, and the pod lives.
    let full = pod
        .exec(&id, "dd if=/dev/zero of=/b bs=1M count=64")
        .await?;
    let said = String::from_utf8_lossy(&full.stderr).into_owned();
    ensure!(
        full.exit_code != 0 && said.contains("No space left"),
        "{full:?}"
    );
    let removed = pod.exec(&id, "rm /a /b; sync; echo still here").await?;
    ensure!(removed.stdout.as_ref() == b"still here\n", "{removed:?}");
    let deadline = Instant::now() + PATIENCE;
    while held()? > empty + MIB {
        ensure!(Instant::now() < deadline, "{empty} bytes, then {}", held()?);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    pod.remove().await?;
    // The daemon keeps the template open.
    clean_after_restart(node, &world).await
}

/// The file behind a pod's disk: it has no name, but its VMM has it open.
async fn disk_of(node: &Node, pod: &str) -> Result<PathBuf> {
    let request = cri::PodSandboxStatusRequest {
        pod_sandbox_id: pod.to_owned(),
        verbose: true,
    };
    let answer = node.runtime().pod_sandbox_status(request).await?;
    let info = answer.into_inner().info.remove("info").unwrap_or_default();
    let info: serde_json::Value = serde_json::from_str(&info)?;
    let pid = info.pointer("/sandbox/vmmPid").context("no VMM")?;
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let path = entry?.path();
        let target = fs::read_link(&path).unwrap_or_default();
        if target.starts_with(node.state_dir().join("scratch")) {
            return Ok(path);
        }
    }
    anyhow::bail!("process {pid} has no scratch disk open")
}

/// A busy container uses CPU, an idle one does not; memory and the writable layer
/// grow; metrics of all names are there.
pub(crate) async fn figures_are_plausible(programs: &Programs) -> Result<()> {
    let (node, world) = node(programs, "usage", OFTEN).await?;
    let mut pod = Pod::run(&node, "usage").await?;
    let idle = pod.sh("idle", "exec sleep 100000").await?;
    let busy = pod.sh("busy", "while :; do :; done").await?;
    let young = stats(&node, &busy).await?;
    ensure!(young.cpu.is_some() && young.memory.is_some(), "{young:?}");

    let deadline = Instant::now() + PATIENCE;
    loop {
        let (idle, busy) = (stats(&node, &idle).await?, stats(&node, &busy).await?);
        if nano_cores(&busy) > 300_000_000 && nano_cores(&idle) < 100_000_000 {
            break;
        }
        ensure!(Instant::now() < deadline, "idle {idle:?}\nbusy {busy:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let before = stats(&node, &idle).await?;
    pod.exec(
        &idle,
        "head -c 20000000 /dev/zero >/dev/shm/held; head -c 5000000 /dev/zero >/file; sync",
    )
    .await?;
    loop {
        let now = stats(&node, &idle).await?;
        let layer = now.writable_layer.clone().unwrap_or_default();
        if memory(&now) >= memory(&before) + 19_000_000
            && number(layer.used_bytes.as_ref()) >= 5_000_000
        {
            break;
        }
        ensure!(Instant::now() < deadline, "{before:?}\n{now:?}");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }

    let request = cri::PodSandboxStatsRequest {
        pod_sandbox_id: pod.id.clone(),
    };
    let answer = node
        .runtime()
        .pod_sandbox_stats(request)
        .await?
        .into_inner();
    let linux = answer.stats.and_then(|it| it.linux).context("no figures")?;
    let (whole, network) = (
        linux.memory.unwrap_or_default(),
        linux.network.unwrap_or_default(),
    );
    // Its guest's kernel alone is more.
    ensure!(number(whole.usage_bytes.as_ref()) > 20_000_000, "{whole:?}");
    let interface = network.default_interface.context("no interface")?;
    ensure!(interface.name == "eth0", "{interface:?}");

    let descriptors = cri::ListMetricDescriptorsRequest {};
    let descriptors = node.runtime().list_metric_descriptors(descriptors).await?;
    let values = cri::ListPodSandboxMetricsRequest {};
    let values = node
        .runtime()
        .list_pod_sandbox_metrics(values)
        .await?
        .into_inner();
    let pod_metrics = values.pod_metrics.first().context("no metrics")?;
    let all: Vec<_> = pod_metrics
        .metrics
        .iter()
        .chain(
            pod_metrics
                .container_metrics
                .iter()
                .flat_map(|it| &it.metrics),
        )
        .collect();
    for descriptor in descriptors.into_inner().descriptors {
        let found = all.iter().find(|it| it.name == descriptor.name);
        // There are no huge pages, and these containers have no limits.
        let absent = ["hugetlb", "spec_cpu_quota", "reservation"];
        let may_be_absent = absent.iter().any(|it| descriptor.name.contains(it));
        ensure!(
            found.is_some() || may_be_absent,
            "{} is missing",
            descriptor.name
        );
        let labels = found.map_or(descriptor.label_keys.len(), |it| it.label_values.len());
        ensure!(labels == descriptor.label_keys.len(), "{found:?}");
    }
    pod.remove().await?;
    clean(node, &world).await
}

/// Every event of a life, once and in order.
pub(crate) async fn events_are_told(programs: &Programs) -> Result<()> {
    use cri::ContainerEventType::{
        ContainerCreatedEvent as Created, ContainerDeletedEvent as Deleted,
        ContainerStartedEvent as Started, ContainerStoppedEvent as Stopped,
    };
    let (node, world) = node(programs, "events", "").await?;
    let mut client = node.runtime();
    let events = client
        .get_container_events(cri::GetEventsRequest {})
        .await?;
    let mut events = events.into_inner();
    let mut pod = Pod::run(&node, "events").await?;
    let id = pod.sh("c", "exit 7").await?;
    pod.exited(&id, PATIENCE).await?;
    let pod_id = pod.id.clone();
    pod.remove().await?;
    let mut seen = Vec::new();
    for _ in 0..8 {
        let event = tokio::time::timeout(PATIENCE, events.message()).await??;
        let event = event.context("the stream ended")?;
        ensure!(event.pod_sandbox_status.is_some(), "{event:?}");
        seen.push((event.container_id.clone(), event.container_event_type()));
    }
    let (c, p) = (|it| (id.clone(), it), |it| (pod_id.clone(), it));
    let wanted = [
        p(Created),
        p(Started),
        c(Created),
        c(Started),
        c(Stopped),
        p(Stopped),
        c(Deleted),
        p(Deleted),
    ];
    ensure!(seen == wanted, "{seen:#?}");
    drop((events, client));
    clean(node, &world).await
}

/// A limit that is changed is seen inside, and after a restart of the daemon still
/// known.
pub(crate) async fn limits_change(programs: &Programs) -> Result<()> {
    let (mut node, world) = node(programs, "limits", "").await?;
    let mut pod = Pod::run(&node, "limits").await?;
    let mut config = container_config("c", "exec sleep 100000");
    config.linux = Some(cri::LinuxContainerConfig {
        resources: Some(cri::LinuxContainerResources {
            memory_limit_in_bytes: 64 << 20,
            ..Default::default()
        }),
        ..Default::default()
    });
    let id = pod.create(config).await?;
    pod.start(&id).await?;
    let update = |bytes: i64| cri::UpdateContainerResourcesRequest {
        container_id: id.clone(),
        linux: Some(cri::LinuxContainerResources {
            memory_limit_in_bytes: bytes,
            cpu_quota: 50_000,
            cpu_period: 100_000,
            ..Default::default()
        }),
        ..Default::default()
    };
    node.runtime()
        .update_container_resources(update(96 << 20))
        .await?;
    let inside = pod
        .exec(&id, "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max")
        .await?;
    ensure!(
        inside.stdout.as_ref() == b"100663296\n50000 100000\n",
        "{inside:?}"
    );

    pod.exec(&id, "head -c 30000000 /dev/zero >/dev/shm/held")
        .await?;
    let refused = node
        .runtime()
        .update_container_resources(update(8 << 20))
        .await;
    ensure!(
        refused
            .as_ref()
            .is_err_and(|it| it.code() == tonic::Code::FailedPrecondition),
        "{refused:?}"
    );
    node.kill().await?;
    node.start().await?;
    let mut pod = Pod::attach(&node, pod.id.clone(), pod.config.clone());
    let resources = pod.status(&id).await?.resources.and_then(|it| it.linux);
    let limit = resources.map_or(0, |it| it.memory_limit_in_bytes);
    ensure!(limit == 96 << 20, "{limit}");
    let user = pod.status(&id).await?.user.and_then(|it| it.linux);
    ensure!(user.is_some_and(|it| it.uid == 0), "no user");
    pod.remove().await?;
    clean_after_restart(node, &world).await
}

/// A container that logs as fast as it can, its log renamed and opened anew all the
/// while: every byte once.
pub(crate) async fn logs_rotate_under_load(programs: &Programs) -> Result<()> {
    let (node, world) = node(programs, "rotate", "").await?;
    let mut pod = Pod::run(&node, "rotate").await?;
    let id = pod
        .sh(
            "c",
            "i=0; while [ $i -lt 60 ]; do seq $((i*1000)) $((i*1000+999)); i=$((i+1)); done",
        )
        .await?;
    let log = pod.log_path("c");
    let mut files = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    while pod.status(&id).await?.state() == cri::ContainerState::ContainerRunning {
        ensure!(Instant::now() < deadline, "it does not end");
        files.push(rotate(&node, &id, &log, files.len()).await?);
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    ensure!(pod.exited(&id, PATIENCE).await?.exit_code == 0);
    files.push(log);
    println!("    {} files", files.len());
    let mut whole = String::new();
    for file in &files {
        whole.push_str(&fs::read_to_string(file)?);
    }
    let got = payload(&whole, "stdout")?;
    let wanted: String = (0..60_000).map(|n| format!("{n}\n")).collect();
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

/// Renames a container's log and has it opened anew; returns the old one's name.
pub(super) async fn rotate(node: &Node, id: &str, log: &Path, number: usize) -> Result<PathBuf> {
    let rotated = log.with_file_name(format!("0.log.{number:04}"));
    fs::rename(log, &rotated)?;
    let request = cri::ReopenContainerLogRequest {
        container_id: id.to_owned(),
    };
    match node.runtime().reopen_container_log(request).await {
        Ok(_) => Ok(rotated),
        // It has ended meanwhile: as kubelet does.
        Err(status) if status.code() == tonic::Code::FailedPrecondition => {
            fs::rename(&rotated, log)?;
            fs::write(&rotated, "")?;
            Ok(rotated)
        }
        Err(status) => Err(status).context("ReopenContainerLog"),
    }
}
