//! A pod's ordinary life.

use anyhow::{Result, ensure};
use bulkhead_cri_api::v1 as cri;

use super::{clean, look, node};
use crate::demo::http_get;
use bulkhead_e2e::{
    image,
    node::{PATIENCE, Programs},
    pod::{Pod, container_config, pod_config},
};

/// Version, Status, RuntimeConfig, UpdateRuntimeConfig, image listings.
pub(crate) async fn node_answers(programs: &Programs) -> Result<()> {
    let (node, _) = node(programs, "answers", "").await?;
    let mut runtime = node.runtime();
    let version = runtime.version(cri::VersionRequest {
        version: "0.1.0".to_owned(),
    });
    let version = version.await?.into_inner();
    ensure!(version.version == "0.1.0", "{version:?}");
    ensure!(version.runtime_api_version == "v1", "{version:?}");
    ensure!(version.runtime_name == "bulkhead", "{version:?}");

    let status = runtime.status(cri::StatusRequest { verbose: true }).await?;
    let status = status.into_inner();
    ensure!(!status.info.is_empty(), "verbose status without info");
    let conditions = status.status.unwrap_or_default().conditions;
    for wanted in ["RuntimeReady", "NetworkReady"] {
        ensure!(
            conditions.iter().any(|c| c.r#type == wanted && c.status),
            "{wanted} is not true: {conditions:?}"
        );
    }
    runtime
        .runtime_config(cri::RuntimeConfigRequest::default())
        .await?;
    runtime
        .update_runtime_config(cri::UpdateRuntimeConfigRequest {
            runtime_config: Some(cri::RuntimeConfig {
                network_config: Some(cri::NetworkConfig {
                    pod_cidr: "10.244.7.0/24".to_owned(),
                }),
            }),
        })
        .await?;

    let mut images = node.images();
    let list = images
        .list_images(cri::ListImagesRequest::default())
        .await?;
    let list = list.into_inner().images;
    ensure!(list.len() == 1, "{list:?}");
    let id = list
        .first()
        .map(|image| image.id.clone())
        .unwrap_or_default();
    for name in [image::DEMO, id.as_str()] {
        let request = cri::ImageStatusRequest {
            image: Some(cri::ImageSpec {
                image: name.to_owned(),
                ..Default::default()
            }),
            verbose: false,
        };
        let image = images.image_status(request).await?.into_inner().image;
        ensure!(
            image.is_some_and(|image| image.id == id && image.size > 0),
            "ImageStatus of {name}"
        );
    }
    let usage = images.image_fs_info(cri::ImageFsInfoRequest {}).await?;
    let usage = usage.into_inner().image_filesystems;
    let used = usage.first().and_then(|fs| fs.used_bytes.as_ref());
    ensure!(used.is_some_and(|used| used.value > 0), "{usage:?}");

    // The new pod CIDR is the one that pods get their addresses from. Its NAT rule
    // has taken the old one's place, so the world is looked at now.
    let world = look(&node)?;
    let mut pod = Pod::run(&node, "cidr").await?;
    let address = pod.address().await?;
    ensure!(address.to_string().starts_with("10.244.7."), "{address}");
    pod.remove().await?;
    clean(node, &world).await
}

/// RunPodSandbox to RemovePodSandbox, with what kubelet looks at on the way.
pub(crate) async fn pod_from_run_to_remove(programs: &Programs) -> Result<()> {
    let (node, world) = node(programs, "lifecycle", "").await?;
    let mut pod = Pod::run(&node, "web").await?;
    let status = pod.pod_status().await?;
    ensure!(status.state() == cri::PodSandboxState::SandboxReady);
    ensure!(status.labels.get("app").is_some_and(|app| app == "web"));
    ensure!(status.annotations.get("note").is_some_and(|n| n == "kept"));
    ensure!(status.created_at > 0);

    let id = pod
        .create(container_config("server", "exec httpd -f -p 80 -h /www"))
        .await?;
    let created = pod.status(&id).await?;
    ensure!(created.state() == cri::ContainerState::ContainerCreated);
    pod.start(&id).await?;
    let running = pod.status(&id).await?;
    ensure!(running.state() == cri::ContainerState::ContainerRunning);
    ensure!(running.created_at <= running.started_at);

    let other = pod
        .sh(
            "other",
            "until wget -q -O - http://127.0.0.1/; do sleep 0.1; done",
        )
        .await?;
    let other_status = pod.exited(&other, PATIENCE).await?;
    ensure!(other_status.exit_code == 0, "{other_status:?}");
    ensure!(other_status.reason == "Completed", "{other_status:?}");
    ensure!(pod.output("other", "stdout")? == "hello from a pod\n");
    ensure!(http_get((pod.address().await?, 80).into())? == "hello from a pod\n");

    let inside = pod
        .exec(&id, "hostname; cat /etc/resolv.conf; ip -4 addr show eth0")
        .await?;
    let inside = String::from_utf8_lossy(&inside.stdout).into_owned();
    ensure!(inside.starts_with("web\n"), "{inside}");
    for wanted in [
        "nameserver 10.96.0.10",
        "search svc.cluster.local",
        "ndots:5",
    ] {
        ensure!(inside.contains(wanted), "no {wanted:?} in {inside}");
    }
    let address = pod.address().await?.to_string();
    ensure!(
        inside.contains(&address),
        "eth0 has not {address}: {inside}"
    );

    pod.stop_container(&id, 2).await?;
    let stopped = pod.status(&id).await?;
    ensure!(stopped.state() == cri::ContainerState::ContainerExited);
    ensure!(stopped.started_at <= stopped.finished_at);
    // All of these may be asked for again.
    pod.stop_container(&id, 2).await?;
    pod.remove_container(&id).await?;
    pod.remove_container(&id).await?;
    pod.stop().await?;
    pod.stop().await?;
    ensure!(pod.pod_status().await?.state() == cri::PodSandboxState::SandboxNotready);
    pod.remove().await?;
    pod.remove().await?;
    let gone = pod.pod_status().await;
    ensure!(
        gone.as_ref()
            .is_err_and(|s| s.code() == tonic::Code::NotFound),
        "{gone:?}"
    );
    clean(node, &world).await
}

/// Overlay over the layers: changed, removed, opaque, writable.
pub(crate) async fn image_layers_are_seen_as_one(programs: &Programs) -> Result<()> {
    let (node, world) = node(programs, "layers", "").await?;
    let mut pod = Pod::run(&node, "layers").await?;
    let first = pod
        .sh(
            "first",
            "cat index.html; ls /www /opaque; echo changed > index.html; \
             rm -r /opaque; cat index.html; ls /; pwd",
        )
        .await?;
    ensure!(pod.exited(&first, PATIENCE).await?.exit_code == 0);
    let output = pod.output("first", "stdout")?;
    ensure!(
        output.starts_with("hello from a pod\n/opaque:\nseen\n\n/www:\nindex.html\nchanged\n"),
        "{output}"
    );
    ensure!(output.ends_with("/www\n"), "{output}");
    // What one container writes is not seen by the next.
    let second = pod.sh("second", "cat index.html /opaque/seen").await?;
    ensure!(pod.exited(&second, PATIENCE).await?.exit_code == 0);
    ensure!(pod.output("second", "stdout")? == "hello from a pod\ntop\n");
    pod.remove().await?;
    clean(node, &world).await
}

/// The same request twice, at the same time and later, is one pod and one container.
pub(crate) async fn creates_are_joined(programs: &Programs) -> Result<()> {
    let (node, world) = node(programs, "joined", "").await?;
    let config = pod_config(&node, "joined", 0);
    let (one, two) = tokio::join!(
        Pod::run_with(&node, config.clone()),
        Pod::run_with(&node, config.clone())
    );
    let (mut one, two) = (one?, two?);
    ensure!(one.id == two.id, "{} and {}", one.id, two.id);
    let again = Pod::run_with(&node, config.clone()).await?;
    ensure!(again.id == one.id);

    let config = container_config("c", "exec sleep 1000");
    let mut other = Pod::attach(&node, one.id.clone(), one.config.clone());
    let (first, second) = tokio::join!(one.create(config.clone()), other.create(config.clone()));
    let first = first?;
    ensure!(first == second?);
    ensure!(first == one.create(config).await?);

    // The next attempt is another pod.
    let mut next = Pod::run_with(&node, pod_config(&node, "joined", 1)).await?;
    ensure!(next.id != one.id);
    next.remove().await?;
    one.remove().await?;
    clean(node, &world).await
}

/// Users by name and number, groups by policy.
pub(crate) async fn users_and_groups(programs: &Programs) -> Result<()> {
    let (node, world) = node(programs, "users", "").await?;
    let mut pod = Pod::run(&node, "users").await?;
    let as_user = |name: &str, context: cri::LinuxContainerSecurityContext| {
        let mut config = container_config(name, "id -u; id -g; id -G; echo $HOME");
        config.linux = Some(cri::LinuxContainerConfig {
            security_context: Some(context),
            ..Default::default()
        });
        config
    };
    let by_name = cri::LinuxContainerSecurityContext {
        run_as_username: "web".to_owned(),
        ..Default::default()
    };
    let by_number = cri::LinuxContainerSecurityContext {
        run_as_user: Some(cri::Int64Value { value: 1000 }),
        run_as_group: Some(cri::Int64Value { value: 3000 }),
        supplemental_groups: vec![4000],
        ..Default::default()
    };
    let mut strict = by_number.clone();
    strict.set_supplemental_groups_policy(cri::SupplementalGroupsPolicy::Strict);
    for (name, context, wanted) in [
        ("name", by_name, "1000\n1000\n1000 2000\n/www\n"),
        ("merge", by_number, "1000\n3000\n3000 2000 4000\n/www\n"),
        ("strict", strict, "1000\n3000\n3000 4000\n/www\n"),
    ] {
        let id = pod.create(as_user(name, context)).await?;
        pod.start(&id).await?;
        let status = pod.exited(&id, PATIENCE).await?;
        let output = pod.output(name, "stdout")?;
        ensure!(status.exit_code == 0, "{name}: {status:?} {output}");
        let mut got: Vec<String> = output.lines().map(str::to_owned).collect();
        let mut want: Vec<String> = wanted.lines().map(str::to_owned).collect();
        for lines in [&mut got, &mut want] {
            if let Some(groups) = lines.get_mut(2) {
                let mut ids: Vec<&str> = groups.split(' ').collect();
                ids.sort_unstable();
                *groups = ids.join(" ");
            }
        }
        ensure!(got == want, "{name}: {got:?}, not {want:?}");
    }
    pod.remove().await?;
    clean(node, &world).await
}
