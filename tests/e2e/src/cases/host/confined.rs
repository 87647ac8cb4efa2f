//! What a host pod's container was not given, it does not get at: there is no
//! virtual machine around it.

use std::fs;

use anyhow::{Context as _, Result, ensure};
use bulkhead_cri_api::v1 as cri;
use serde_json::json;

use super::{config, container, outages::process_named, refused, says, started};
use crate::cases::{clean, node};
use bulkhead_e2e::{
    image::{Archive, Compression, Layer},
    node::{Node, Programs},
    pod::{Pod, container_config},
};

/// Each is to fail in a container that is root, but not privileged.
const FORBIDDEN: &[&str] = &[
    // Devices of the host, by nodes that it makes itself.
    "mknod /dev/x c 1 11 && : < /dev/x",
    "mknod /dev/x c 10 232 && : < /dev/x",
    "mknod /dev/x b 7 0 && : < /dev/x",
    "mknod /tmp/x c 1 3 && : < /tmp/x",
    // The host's kernel.
    ": > /proc/sys/kernel/core_pattern",
    ": > /proc/sysrq-trigger",
    "head -c 1 /proc/kcore | grep -q .",
    ": > /sys/kernel/uevent_helper",
    "mount -t tmpfs x /tmp",
    "unshare -m true",
    "hostname other",
    // Cgroups: it sees its own alone, and changes none.
    "mkdir /sys/fs/cgroup/x",
    "echo max > /sys/fs/cgroup/pids.max",
    "test ! -e /sys/fs/cgroup/cgroup.events",
    // The host's files.
    "ls /run/bulkhead",
    "ls /var/lib/bulkhead",
];

/// Each is to fail in a container that sees the host's processes as well.
fn forbidden_with_pids(daemon: u32, agent: i32) -> Vec<String> {
    [daemon.to_string(), agent.to_string(), "1".to_owned()]
        .iter()
        .flat_map(|pid| {
            ["root", "cwd", "exe", "fd/1", "environ"]
                .map(|file| format!("head -c 1 /proc/{pid}/{file} || readlink /proc/{pid}/{file}"))
        })
        .collect()
}

/// A container that is root gets at no device, file, process or setting of the host
/// that it was not given.
pub(crate) async fn confined(programs: &Programs) -> Result<()> {
    let (node, world) = node(programs, "host-confined", "").await?;
    let agent_of = |pod: &Pod| -> Result<i32> {
        process_named(&format!("bulkhead-agent {}", pod.id))?.context("no agent runs")
    };
    let mut pod = Pod::run_as(&node, config(&node, "confined", &[]), "host").await?;
    let id = pod.sh("c", "exec sleep 100000").await?;
    let forbidden: Vec<String> = FORBIDDEN.iter().map(|&it| it.to_owned()).collect();
    forbids(&mut pod, &id, &forbidden).await?;
    // The helpers that containers are made by keep nothing open for them.
    let open = says(&mut pod, &id, "ls -l /proc/1/fd | grep -c -- '->'").await?;
    ensure!(open == "3", "its first process has {open} descriptors");
    program_stays_as_it_is(&node, &mut pod, &id).await?;
    no_way_out_by_links(&node, &mut pod).await?;
    pod.remove().await?;

    let shared = ["network", "pid", "ipc"];
    let mut pod = Pod::run_with(&node, config(&node, "pids", &shared)).await?;
    let id = started(&mut pod, container("c", "exec sleep 100000", &shared)).await?;
    forbids(&mut pod, &id, &forbidden).await?;
    let with_pids = forbidden_with_pids(node.daemon_pid()?, agent_of(&pod)?);
    forbids(&mut pod, &id, &with_pids).await?;
    let network = ["ip link add x type dummy", "ip addr add 10.9.9.9 dev lo"].map(str::to_owned);
    forbids(&mut pod, &id, &network).await?;
    pod.remove().await?;
    clean(node, &world).await
}

async fn forbids(pod: &mut Pod, id: &str, scripts: &[String]) -> Result<()> {
    for script in scripts {
        let answer = pod
            .exec(id, &format!("rm -f /dev/x /tmp/x; {script}"))
            .await?;
        ensure!(answer.exit_code != 0, "it may: {script}: {answer:?}");
    }
    Ok(())
}

/// A container runs the agent's program, as which its first process began, and
/// writes to it (CVE-2019-5736).
async fn program_stays_as_it_is(node: &Node, pod: &mut Pod, id: &str) -> Result<()> {
    let itself = ["/proc/self/exe", "--listen-dir", "/tmp"];
    let write = "for i in $(seq 200); do for p in /proc/[0-9]*; do \
                 if tr '\\0' ' ' < $p/cmdline | grep -q 'listen[-]dir'; then \
                 (: >> $p/exe) && echo 'it may write'; touch -c $p/exe; kill -9 ${p#/proc/}; exit; \
                 fi; done; sleep 0.1; done";
    let request = cri::ExecSyncRequest {
        container_id: id.to_owned(),
        cmd: itself.map(str::to_owned).to_vec(),
        timeout: 0,
    };
    let mut client = node.runtime();
    let (ran, wrote) = tokio::join!(client.exec_sync(request), pod.exec(id, write));
    ran.context("running the agent's program")?;
    let wrote = wrote?;
    // It can't be opened for writing while any agent runs; the mount is what also holds
    // when none does, and touch(1) tells of it.
    let why = String::from_utf8_lossy(&wrote.stderr);
    ensure!(
        wrote.stdout.is_empty() && why.contains("Read-only"),
        "writing to the agent's program: {wrote:?}"
    );
    Ok(())
}

/// An image has links to a directory of the host where directories are expected: what
/// is made for every container isn't made there.
async fn no_way_out_by_links(node: &Node, pod: &mut Pod) -> Result<()> {
    const IMAGE: &str = "localhost/links:latest";
    let target = node.path("target");
    fs::create_dir(&target)?;
    let to = target.display().to_string();
    for name in ["dev", "proc", "sys"] {
        let mut layer = Layer::default().dir("bin", 0o755)?;
        // Within the image it is there as well: so mounting on the link works.
        let inside = target.strip_prefix("/")?.display().to_string();
        for (end, _) in inside.match_indices('/').chain([(inside.len(), "")]) {
            layer = layer.dir(inside.get(..end).unwrap_or_default(), 0o755)?;
        }
        layer = layer.symlink(name, &to)?;
        let archive = Archive::default()
            .layer(&layer.finish()?, Compression::Plain)?
            .finish(IMAGE, json!({"Entrypoint": ["/bin/true"]}))?;
        node.import(&archive, "links.tar").await?;
        let mut config = container_config(name, "");
        let image = Some(cri::ImageSpec {
            image: IMAGE.to_owned(),
            ..Default::default()
        });
        config.image.clone_from(&image);
        let refusal = pod.create(config).await.map(drop);
        let made: Vec<_> = fs::read_dir(&target)?.flatten().collect();
        ensure!(
            made.is_empty(),
            "made by a link in place of /{name}: {made:?}"
        );
        refused(
            refusal,
            tonic::Code::FailedPrecondition,
            &format!("/{name}"),
        )?;
        let remove = cri::RemoveImageRequest { image };
        node.images().remove_image(remove).await?;
    }
    fs::remove_dir(&target)?;
    Ok(())
}
