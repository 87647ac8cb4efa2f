//! Namespaces of the node.

use std::{fs, net::Ipv4Addr, path::Path};

use anyhow::{Context as _, Result, bail, ensure};
use tokio::{io::AsyncWriteExt as _, net::TcpListener};

use super::{SERVE, config, container, forwarded, options, page, says, started};
use crate::cases::{clean, node};
use bulkhead_e2e::{
    node::{Node, PATIENCE, Programs},
    pod::Pod,
};

/// Each namespace of the host that is asked for is the host's, the others are not.
pub(crate) async fn namespaces(programs: &Programs) -> Result<()> {
    let (node, world) = node(programs, "host-ns", "").await?;
    let own = |kind: &str| fs::read_link(format!("/proc/self/ns/{kind}"));
    for shared in [
        &["network"][..],
        &["pid"],
        &["ipc"],
        &["network", "pid", "ipc"],
    ] {
        let name = shared.join("-");
        let mut pod = Pod::run_with(&node, config(&node, &name, shared)).await?;
        let status = pod.pod_status().await?;
        let modes = status.linux.and_then(|it| it.namespaces?.options);
        ensure!(modes == Some(options(shared)), "{modes:?}");
        let id = started(&mut pod, container("c", "exec sleep 100000", shared)).await?;
        for (kind, option) in [
            ("net", "network"),
            ("pid", "pid"),
            ("ipc", "ipc"),
            ("uts", "network"),
        ] {
            let inside = says(&mut pod, &id, &format!("readlink /proc/self/ns/{kind}")).await?;
            let same = Path::new(&inside) == own(kind)?;
            ensure!(
                same == shared.contains(&option),
                "{name}: {kind} is {inside}"
            );
        }
        if shared.contains(&"network") {
            on_the_hosts_network(&node, &mut pod, &id, shared).await?;
        } else {
            ensure!(!pod.address().await?.is_unspecified());
        }
        if shared.contains(&"pid") {
            let look = format!("tr '\\0' ' ' < /proc/{}/cmdline", node.daemon_pid()?);
            let daemon = says(&mut pod, &id, &look).await?;
            ensure!(
                daemon.contains("serve"),
                "it does not see the daemon: {daemon:?}"
            );
        }
        if shared.contains(&"ipc") {
            let note = Path::new("/dev/shm/bulkhead-e2e");
            fs::write(note, "shared")?;
            let seen = says(&mut pod, &id, &format!("cat {}", note.display())).await;
            fs::remove_file(note)?;
            ensure!(seen? == "shared");
        }
        // All of its processes end with it, also those without a PID namespace of
        // their own.
        says(&mut pod, &id, "(setsid sleep 87654 >/dev/null 2>&1 &)").await?;
        pod.stop_container(&id, 0).await?;
        pod.remove().await?;
    }
    clean(node, &world).await
}

async fn on_the_hosts_network(node: &Node, pod: &mut Pod, id: &str, shared: &[&str]) -> Result<()> {
    let network = pod.pod_status().await?.network.context("no network")?;
    ensure!(network.ip.is_empty(), "an address of its own: {network:?}");
    let hostname = fs::read_to_string("/proc/sys/kernel/hostname")?;
    ensure!(says(pod, id, "cat /etc/hostname").await? == hostname.trim());
    // It reaches a server of the node on the loopback, and is one itself.
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let port = listener.local_addr()?.port();
    let answer = async {
        let (mut stream, _) = listener.accept().await?;
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nnode").await?;
        // Reads what was asked, so that the answer isn't lost with it.
        stream.shutdown().await?;
        tokio::io::copy(&mut stream, &mut tokio::io::sink()).await
    };
    let fetch = format!("wget -qO- http://127.0.0.1:{port}/");
    let answered = tokio::select! {
        answered = async { tokio::join!(says(pod, id, &fetch), answer) } => answered.0,
        () = tokio::time::sleep(PATIENCE) => bail!("it did not reach the node's server"),
    };
    ensure!(answered? == "node");
    let serve = container("web", &format!("{SERVE} 127.0.0.1:18095 -h /www"), shared);
    started(pod, serve).await?;
    ensure!(
        page((Ipv4Addr::LOCALHOST, 18_095).into())
            .await?
            .contains("hello")
    );
    ensure!(forwarded(node, pod, 18_095).await?.contains("hello"));
    Ok(())
}
