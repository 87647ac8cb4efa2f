//! Changing limits; what is not there yet.

use super::*;

fn limits(memory: i64, quota: i64) -> LinuxContainerResources {
    LinuxContainerResources {
        memory_limit_in_bytes: memory,
        cpu_quota: quota,
        cpu_period: 100_000,
        ..Default::default()
    }
}

async fn update(
    clients: &mut Clients,
    id: &str,
    linux: LinuxContainerResources,
) -> Result<(), tonic::Status> {
    let request = UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: Some(linux),
        ..Default::default()
    };
    let answer = clients.runtime.update_container_resources(request).await;
    answer.map(drop)
}

#[tokio::test]
async fn limits_change_and_are_remembered() {
    let world = World::new();
    let node = Node::start(&world).await.unwrap();
    let mut clients = node.serve().await.unwrap();
    let pod = run(&mut clients, "web").await;
    let mut config = records::container_config("c", 0, &["sleep"]);
    config.linux = Some(LinuxContainerConfig {
        resources: Some(limits(64 << 20, 50_000)),
        ..Default::default()
    });
    let id = create(&mut clients, &pod, config.clone()).await.unwrap();
    start(&mut clients, &id).await;
    update(&mut clients, &id, limits(128 << 20, 0))
        .await
        .unwrap();

    let told = world
        .gauges(&pod, |gauges| gauges.limits[&id].clone())
        .unwrap();
    assert_eq!(told.memory().as_ref().unwrap().limit(), Some(128 << 20));
    assert_eq!(
        told.cpu().as_ref().unwrap().quota(),
        None,
        "it was not given"
    );
    let wanted = limits(128 << 20, 50_000);
    let found = status(&mut clients, &id).await.resources.unwrap().linux;
    assert_eq!(found, Some(wanted.clone()));
    // A retry of the create is still the same create.
    assert_eq!(create(&mut clients, &pod, config).await.unwrap(), id);

    drop((clients, node));
    world.daemon_died();
    let node = Node::start(&world).await.unwrap();
    let mut clients = node.serve().await.unwrap();
    let found = status(&mut clients, &id).await.resources.unwrap().linux;
    assert_eq!(found, Some(wanted));
    update(&mut clients, &id, limits(-1, 0)).await.unwrap();
    let found = status(&mut clients, &id).await.resources.unwrap().linux;
    assert_eq!(found.unwrap().memory_limit_in_bytes, -1);
}

#[tokio::test]
async fn what_can_not_hold_is_refused_and_changes_nothing() {
    let (node, mut clients) = node().await;
    let pod = run(&mut clients, "web").await;
    let config = records::container_config("c", 0, &["sleep"]);
    let id = create(&mut clients, &pod, config).await.unwrap();
    start(&mut clients, &id).await;
    let code = |result: Result<(), tonic::Status>| result.unwrap_err().code();
    // Less than it holds; more than the machine has.
    node.world
        .gauges(&pod, |gauges| gauges.memory_bytes = 100 << 20);
    for bytes in [50 << 20, 1 << 40] {
        let refused = update(&mut clients, &id, limits(bytes, 0)).await;
        assert_eq!(code(refused), Code::FailedPrecondition);
    }
    let mut hostile = limits(0, 0);
    hostile.unified = [("../memory.max".to_owned(), "1".to_owned())].into();
    assert_eq!(
        code(update(&mut clients, &id, hostile).await),
        Code::InvalidArgument
    );
    for bad in [limits(-2, 0), limits(i64::MIN, 0)] {
        assert_eq!(
            code(update(&mut clients, &id, bad).await),
            Code::InvalidArgument
        );
    }
    let missing = UpdateContainerResourcesRequest {
        container_id: id.clone(),
        ..Default::default()
    };
    let refused = clients.runtime.update_container_resources(missing).await;
    assert_eq!(refused.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(
        code(update(&mut clients, "absent", limits(0, 0)).await),
        Code::NotFound
    );
    assert!(
        node.world
            .gauges(&pod, |gauges| gauges.limits.is_empty())
            .unwrap()
    );
    let found = status(&mut clients, &id).await.resources.unwrap().linux;
    assert_eq!(found, None);

    let stop = StopContainerRequest {
        container_id: id.clone(),
        timeout: 0,
    };
    clients.runtime.stop_container(stop).await.unwrap();
    let ended = update(&mut clients, &id, limits(200 << 20, 0)).await;
    assert_eq!(code(ended), Code::FailedPrecondition);
}

#[tokio::test]
async fn a_pods_limits_bring_cpus_online() {
    let (node, mut clients) = node().await;
    let pod = run(&mut clients, "web").await;
    let cpus = i64::from(node.pods.settings().sizing.max_vcpus);
    let request = |linux| UpdatePodSandboxResourcesRequest {
        pod_sandbox_id: pod.clone(),
        resources: Some(linux),
        ..Default::default()
    };
    // More than there are: as many as there are.
    let all = limits(100 << 20, (cpus + 10) * 100_000);
    clients
        .runtime
        .update_pod_sandbox_resources(request(all))
        .await
        .unwrap();
    let online = node
        .world
        .gauges(&pod, |gauges| gauges.online_cpus)
        .unwrap();
    assert_eq!(i64::from(online), cpus.max(1));
    let memory = clients
        .runtime
        .update_pod_sandbox_resources(request(limits(1 << 40, 0)))
        .await
        .unwrap_err();
    assert_eq!(memory.code(), Code::FailedPrecondition);
    assert!(
        memory.message().contains("can't be added"),
        "{}",
        memory.message()
    );
}

#[tokio::test]
async fn checkpoints_are_refused_clearly() {
    let (_node, mut clients) = node().await;
    let pod = run(&mut clients, "web").await;
    let config = records::container_config("c", 0, &["sleep"]);
    let id = create(&mut clients, &pod, config).await.unwrap();
    let request = CheckpointContainerRequest {
        container_id: id,
        ..Default::default()
    };
    let one = clients
        .runtime
        .checkpoint_container(request)
        .await
        .map(drop);
    let request = CheckpointPodRequest {
        pod_sandbox_id: pod,
        ..Default::default()
    };
    let two = clients.runtime.checkpoint_pod(request).await.map(drop);
    let request = RestorePodRequest::default();
    let three = clients.runtime.restore_pod(request).await.map(drop);
    for refused in [one, two, three] {
        let refused = refused.unwrap_err();
        assert_eq!(refused.code(), Code::FailedPrecondition);
        assert!(
            refused.message().contains("this version"),
            "{}",
            refused.message()
        );
    }
}

#[tokio::test]
async fn the_user_is_who_the_guest_says() {
    let (_node, mut clients) = node().await;
    let pod = run(&mut clients, "web").await;
    let config = records::container_config("c", 0, &["sleep"]);
    let id = create(&mut clients, &pod, config).await.unwrap();
    let user = status(&mut clients, &id).await.user.unwrap().linux.unwrap();
    assert_eq!((user.uid, user.gid), (1000, 100));
    assert_eq!(user.supplemental_groups, [100, 7]);
}
