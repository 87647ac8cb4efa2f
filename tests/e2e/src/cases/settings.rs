//! What pods and containers are asked to be: ports, cgroups, environment, devices.

use std::{fs, net::IpAddr, net::TcpListener, path::Path};

use anyhow::{Context as _, Result, ensure};
use bulkhead_cri_api::v1 as cri;

use super::{clean, clean_after_restart, node};
use crate::demo::http_get;
use bulkhead_e2e::{
    node::{PATIENCE, Programs},
    pod::{Pod, container_config, pod_config},
};

const PAGE: &str = "hello from a pod";

fn port(host_ip: &str, host_port: i32) -> cri::PortMapping {
    cri::PortMapping {
        host_ip: host_ip.to_owned(),
        host_port,
        container_port: 80,
        ..Default::default()
    }
}

/// The node's own address on the pods' network: the first of the pod's.
fn gateway(pod: IpAddr) -> IpAddr {
    match pod {
        IpAddr::V4(pod) => {
            let [a, b, ..] = pod.octets();
            [a, b, 0, 1].into()
        }
        IpAddr::V6(pod) => {
            let [a, b, c, d, ..] = pod.segments();
            [a, b, c, d, 0, 0, 0, 1].into()
        }
    }
}

/// A page of the pod's web server, by an address and port of the node.
async fn get(host: IpAddr, port: u16) -> Result<String> {
    tokio::task::spawn_blocking(move || http_get((host, port).into())).await?
}

/// A port of the node leads to the pod from everywhere, is one pod's, outlives the
/// daemon, and is free again when the pod is gone.
pub(crate) async fn host_ports(programs: &Programs) -> Result<()> {
    let (mut node, world) = node(programs, "hostports", "").await?;
    let mut config = pod_config(&node, "ports", 0);
    config.port_mappings = vec![port("", 18_080), port("127.0.0.1", 18_081), port("", 0)];
    let mut pod = Pod::run_with(&node, config.clone()).await?;
    let server = pod.sh("web", "exec httpd -f -p 80 -h /www").await?;
    pod.exec(&server, "until wget -qO- http://127.0.0.1/; do :; done")
        .await?;
    let status = pod.pod_status().await?.network.context("no network")?;
    let local: IpAddr = "127.0.0.1".parse()?;
    let ipv4 = gateway(status.ip.parse()?);
    let ipv6 = status.additional_ips.first().context("no IPv6 address")?;
    let ipv6 = gateway(ipv6.ip.parse()?);
    for host in [local, ipv4, ipv6] {
        let page = get(host, 18_080).await.with_context(|| host.to_string())?;
        ensure!(page.contains(PAGE), "{host}: {page}");
    }
    ensure!(get(local, 18_081).await?.contains(PAGE));
    ensure!(get(ipv4, 18_081).await.is_err(), "not that address's port");
    // From a pod to the node's port and back to the same pod.
    let around = format!("http://{ipv4}:18080/");
    // Not its own -T: a busybox that is linked statically dies of that.
    let answer = pod
        .exec_within(&server, &["wget", "-qO-", &around], 60)
        .await?;
    ensure!(answer.exit_code == 0, "from the pod itself: {answer:?}");

    let taken = TcpListener::bind("127.0.0.1:18082")?;
    for (port, says) in [
        (port("", 18_080), pod.id.as_str()),
        (port("10.0.0.1", 18_080), pod.id.as_str()),
        (port("", 18_082), "listens on it"),
    ] {
        let mut other = pod_config(&node, "other", 0);
        other.port_mappings = vec![port];
        let error = match Pod::run_with(&node, other).await {
            Err(error) => format!("{error:?}"),
            Ok(_) => anyhow::bail!("two have one port"),
        };
        ensure!(
            error.contains("host port") && error.contains(says),
            "{error}"
        );
    }
    drop(taken);

    node.kill().await?;
    ensure!(get(local, 18_080).await?.contains(PAGE), "without a daemon");
    node.start().await?;
    ensure!(get(local, 18_080).await?.contains(PAGE), "after a restart");

    pod.stop().await?;
    ensure!(get(local, 18_080).await.is_err(), "the pod is stopped");
    // A stopped pod holds no port, even while it is still listed.
    config.metadata = pod_config(&node, "ports", 1).metadata;
    let mut next = Pod::run_with(&node, config).await?;
    next.remove().await?;
    pod.remove().await?;
    clean_after_restart(node, &world).await
}

/// Everything of a pod is in the cgroup that kubelet names, either way it names it.
pub(crate) async fn cgroup_parents(programs: &Programs) -> Result<()> {
    let (node, world) = node(programs, "cgroups", "").await?;
    let root = Path::new("/sys/fs/cgroup");
    for (name, parent, path) in [
        (
            "path",
            "/kubepods/burstable/pod1",
            "kubepods/burstable/pod1",
        ),
        (
            "slice",
            "kubepods-besteffort-pod2.slice",
            "kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-pod2.slice",
        ),
    ] {
        // As kubelet does.
        fs::create_dir_all(root.join(path))?;
        let mut config = pod_config(&node, name, 0);
        config.linux = Some(cri::LinuxPodSandboxConfig {
            cgroup_parent: parent.to_owned(),
            ..Default::default()
        });
        let mut pod = Pod::run_with(&node, config).await?;
        pod.sh("c", "sleep 1000").await?;
        let own = format!("{path}/bulkhead-{}", pod.id);
        let procs = fs::read_to_string(root.join(&own).join("cgroup.procs"))?;
        ensure!(!procs.is_empty(), "no process in {own}");
        for entry in fs::read_dir("/proc")? {
            let entry = entry?.path();
            let command = fs::read_to_string(entry.join("cmdline")).unwrap_or_default();
            let name = command.split('\0').next().unwrap_or_default();
            if name.ends_with("bulkhead-vmm") {
                let place = fs::read_to_string(entry.join("cgroup"))?;
                ensure!(
                    place.trim_end().ends_with(&own),
                    "{command:?} is in {place}"
                );
            }
        }
        pod.remove().await?;
        let mut level = Path::new(path);
        while !level.as_os_str().is_empty() {
            fs::remove_dir(root.join(level)).with_context(|| format!("{}", level.display()))?;
            level = level.parent().unwrap_or(Path::new(""));
        }
    }
    clean(node, &world).await
}

/// Variables are bytes, for a container's program and for its execs.
pub(crate) async fn environment_is_bytes(programs: &Programs) -> Result<()> {
    let (node, world) = node(programs, "bytes", "").await?;
    let mut pod = Pod::run(&node, "bytes").await?;
    let print = "printf %s \"$RAW\" | od -An -tx1 | tr -d ' \\n'; echo; echo \"$TEXT\"";
    let mut config = container_config("c", &format!("{print}; sleep 1000"));
    config.envs = vec![
        cri::KeyValue {
            key: "RAW".to_owned(),
            value: vec![0xff, 0xfe, b'=', 0x80].into(),
        },
        cri::KeyValue {
            key: "TEXT".to_owned(),
            value: "\u{e9}".to_owned().into(),
        },
    ];
    let id = pod.create(config).await?;
    pod.start(&id).await?;
    let wanted = "fffe3d80\n\u{e9}\n";
    let exec = pod.exec(&id, print).await?;
    ensure!(exec.stdout == wanted.as_bytes(), "{exec:?}");
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while pod.output("c", "stdout").unwrap_or_default() != wanted {
        ensure!(
            tokio::time::Instant::now() < deadline,
            "{:?}",
            pod.output("c", "stdout")
        );
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
    pod.remove().await?;
    clean(node, &world).await
}

/// A privileged container has the guest's devices, and none of the node's.
pub(crate) async fn privileged_devices(programs: &Programs) -> Result<()> {
    let (node, world) = node(programs, "devices", "").await?;
    let mut pod = Pod::run(&node, "devices").await?;
    for privileged in [false, true] {
        let name = if privileged { "privileged" } else { "plain" };
        let mut config = container_config(name, "sleep 1000");
        config.linux = Some(cri::LinuxContainerConfig {
            security_context: Some(cri::LinuxContainerSecurityContext {
                privileged,
                ..Default::default()
            }),
            ..Default::default()
        });
        let id = pod.create(config).await?;
        pod.start(&id).await?;
        let seen = pod
            .exec(&id, "cd /dev; ls; echo; head -c 1 vda | wc -c")
            .await?;
        let seen = String::from_utf8_lossy(&seen.stdout).into_owned();
        let has = |device: &str| seen.lines().any(|line| line == device);
        ensure!(has("null") && !has("kvm"), "{name}: {seen}");
        // A disk, and the directory of the guest's own /dev/net/tun.
        ensure!(has("vda") == privileged, "{name}: {seen}");
        ensure!(has("net") == privileged, "{name}: {seen}");
        ensure!(has("1") == privileged, "{name} reads a disk: {seen}");
    }
    pod.remove().await?;
    clean(node, &world).await
}
