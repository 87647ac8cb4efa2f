//! Directories, files and devices of the node.

use std::{fs, path::Path, process::Command};

use anyhow::{Result, ensure};
use bulkhead_cri_api::v1 as cri;

use super::{config, refused, says, security, started};
use crate::cases::{clean, node};
use bulkhead_e2e::{
    node::Programs,
    pod::{Pod, container_config},
};

/// Paths of the host, as read-only and as propagating as asked; devices.
pub(crate) async fn paths_and_devices(programs: &Programs) -> Result<()> {
    let (node, world) = node(programs, "host-paths", "").await?;
    let root = node.path("volumes");
    let sub = root.join("sub");
    fs::create_dir_all(&sub)?;
    let text = |path: &Path| path.display().to_string();
    run("mount", &["-t", "tmpfs", "volumes", &text(&root)])?;
    run("mount", &["--make-shared", &text(&root)])?;
    fs::create_dir(&sub)?;
    run("mount", &["-t", "tmpfs", "sub", &text(&sub)])?;
    fs::write(root.join("file"), "from the host")?;
    let link = node.path("link");
    std::os::unix::fs::symlink(&root, &link)?;
    let mount = |inside: &str, change: &dyn Fn(&mut cri::Mount)| {
        let mut mount = cri::Mount {
            host_path: text(&link),
            container_path: inside.to_owned(),
            ..Default::default()
        };
        change(&mut mount);
        mount
    };
    let mut pod = Pod::run_as(&node, config(&node, "paths", &[]), "host").await?;
    let mut wanted = container_config("c", "exec sleep 100000");
    security(&mut wanted).privileged = true;
    wanted.mounts = vec![
        mount("/rw", &|_| {}),
        mount("/ro", &|it| it.readonly = true),
        mount("/rro", &|it| {
            (it.readonly, it.recursive_read_only) = (true, true)
        }),
        mount("/slave", &|it| {
            it.set_propagation(cri::MountPropagation::PropagationHostToContainer)
        }),
        mount("/both", &|it| {
            it.set_propagation(cri::MountPropagation::PropagationBidirectional)
        }),
        mount("/one/file", &|it| it.host_path = text(&root.join("file"))),
    ];
    let id = started(&mut pod, wanted.clone()).await?;
    ensure!(says(&mut pod, &id, "cat /rw/file /one/file").await? == "from the hostfrom the host");
    says(
        &mut pod,
        &id,
        "echo inside > /rw/new && echo inside > /rw/sub/new",
    )
    .await?;
    ensure!(fs::read_to_string(root.join("new"))? == "inside\n");
    let script = "for p in /ro/x /ro/sub/x /rro/x /rro/sub/x; do (: > $p) 2>/dev/null && echo $p; done; true";
    let writable = says(&mut pod, &id, script).await?;
    ensure!(writable == "/ro/sub/x", "writable: {writable}");

    fs::create_dir(root.join("late"))?;
    run("mount", &["-t", "tmpfs", "late", &text(&root.join("late"))])?;
    fs::write(root.join("late/note"), "")?;
    let seen = says(&mut pod, &id, "cd /; ls -d */late/note").await?;
    ensure!(seen == "both/late/note\nslave/late/note", "{seen}");
    says(
        &mut pod,
        &id,
        "mkdir /both/back && mount -t tmpfs back /both/back && : > /both/back/note",
    )
    .await?;
    ensure!(
        root.join("back/note").exists(),
        "it does not propagate to the host"
    );
    says(&mut pod, &id, "umount /both/back").await?;
    ensure!(!root.join("back/note").exists());

    // Privileged: all devices. Otherwise those that it was given.
    says(&mut pod, &id, "test -c /dev/kvm && : < /dev/kvm").await?;
    let mut plain = container_config("plain", "exec sleep 100000");
    plain.devices = vec![cri::Device {
        host_path: "/dev/kvm".to_owned(),
        container_path: "/dev/given".to_owned(),
        permissions: "rw".to_owned(),
    }];
    let plain = started(&mut pod, plain).await?;
    says(&mut pod, &plain, "test ! -e /dev/kvm && : < /dev/given").await?;

    for (change, code) in [
        (
            mount("/dev", &|it| it.host_path = "/dev".to_owned()),
            tonic::Code::InvalidArgument,
        ),
        (
            mount("/x", &|it| it.host_path = "/no/such/path".to_owned()),
            tonic::Code::InvalidArgument,
        ),
        (
            mount("/x", &|it| it.recursive_read_only = true),
            tonic::Code::InvalidArgument,
        ),
    ] {
        let mut wrong = container_config("wrong", "true");
        wrong.mounts = vec![change];
        refused(pod.create(wrong).await.map(drop), code, "")?;
    }
    let mut vm = Pod::run(&node, "vm").await?;
    wanted.metadata = container_config("vm", "").metadata;
    let refusal = vm.create(wanted).await.map(drop);
    refused(refusal, tonic::Code::FailedPrecondition, "mounts")?;
    vm.remove().await?;
    pod.remove().await?;
    for mounted in [root.join("late"), sub, root.clone()] {
        run("umount", &[&text(&mounted)])?;
    }
    clean(node, &world).await
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    let status = Command::new(program).args(args).status()?;
    ensure!(status.success(), "{program} {args:?}: {status}");
    Ok(())
}
