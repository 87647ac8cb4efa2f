//! The whole interface over a real socket, as crictl uses it.

mod events;
mod lists;
mod stats;
mod updates;

use bulkhead_cri_api::v1::{self, *};
use tonic::Code;

use crate::testing::{Clients, IMAGE, IMAGE_ID, Node, World, records};

async fn node() -> (Node, Clients) {
    let node = Node::start(&World::new()).await.unwrap();
    let clients = node.serve().await.unwrap();
    (node, clients)
}

fn image(name: &str) -> Option<ImageSpec> {
    Some(ImageSpec {
        image: name.to_owned(),
        ..Default::default()
    })
}

async fn run(clients: &mut Clients, name: &str) -> String {
    let config = Some(records::pod_config(name, 0));
    let request = RunPodSandboxRequest {
        config,
        runtime_handler: String::new(),
    };
    clients
        .runtime
        .run_pod_sandbox(request)
        .await
        .unwrap()
        .into_inner()
        .pod_sandbox_id
}

async fn create(
    clients: &mut Clients,
    pod: &str,
    config: ContainerConfig,
) -> Result<String, tonic::Status> {
    let request = CreateContainerRequest {
        pod_sandbox_id: pod.to_owned(),
        config: Some(config),
        sandbox_config: None,
    };
    Ok(clients
        .runtime
        .create_container(request)
        .await?
        .into_inner()
        .container_id)
}

async fn start(clients: &mut Clients, id: &str) {
    let request = StartContainerRequest {
        container_id: id.to_owned(),
    };
    clients.runtime.start_container(request).await.unwrap();
}

async fn status(clients: &mut Clients, id: &str) -> v1::ContainerStatus {
    let request = ContainerStatusRequest {
        container_id: id.to_owned(),
        verbose: true,
    };
    let answer = clients
        .runtime
        .container_status(request)
        .await
        .unwrap()
        .into_inner();
    assert!(serde_json::from_str::<serde_json::Value>(&answer.info["info"]).is_ok());
    answer.status.unwrap()
}

#[tokio::test]
async fn what_crictl_does() {
    let (node, mut clients) = node().await;
    let version = VersionRequest {
        version: "0.1.0".into(),
    };
    let version = clients.runtime.version(version).await.unwrap().into_inner();
    assert_eq!(
        (
            version.version.as_str(),
            version.runtime_api_version.as_str()
        ),
        ("0.1.0", "v1")
    );
    assert_eq!(version.runtime_name, "bulkhead");

    // crictl info, images, pull
    let info = clients
        .runtime
        .status(StatusRequest { verbose: true })
        .await
        .unwrap()
        .into_inner();
    let conditions = info.status.unwrap().conditions;
    assert!(conditions.iter().all(|it| it.status), "{conditions:?}");
    assert_eq!(conditions[0].r#type, "RuntimeReady");
    assert_eq!(conditions[1].r#type, "NetworkReady");
    assert!(info.info.contains_key("version") && info.runtime_handlers.len() == 3);
    let images = clients
        .images
        .list_images(ListImagesRequest::default())
        .await
        .unwrap();
    let images = images.into_inner().images;
    assert_eq!(
        (images[0].id.as_str(), images[0].repo_tags[0].as_str()),
        (IMAGE_ID, IMAGE)
    );
    let pull = PullImageRequest {
        image: image(IMAGE),
        ..Default::default()
    };
    let pulled = clients.images.pull_image(pull).await.unwrap().into_inner();
    assert_eq!(pulled.image_ref, images[0].id);

    // runp, create, start
    let pod = run(&mut clients, "web").await;
    let id = create(
        &mut clients,
        &pod,
        records::container_config("c", 0, &["sleep"]),
    )
    .await
    .unwrap();
    assert_eq!(
        status(&mut clients, &id).await.state(),
        ContainerState::ContainerCreated
    );
    start(&mut clients, &id).await;

    // ps, pods: with shortened ids and filters
    let filter = ContainerFilter {
        pod_sandbox_id: pod[..13].to_owned(),
        state: Some(ContainerStateValue {
            state: ContainerState::ContainerRunning.into(),
        }),
        label_selector: [("tier".to_owned(), "c".to_owned())].into(),
        ..Default::default()
    };
    let list = ListContainersRequest {
        filter: Some(filter),
    };
    let listed = clients
        .runtime
        .list_containers(list)
        .await
        .unwrap()
        .into_inner()
        .containers;
    assert_eq!((listed.len(), listed[0].id.as_str()), (1, id.as_str()));
    assert_eq!(listed[0].image_id, IMAGE_ID);
    let filter = PodSandboxFilter {
        label_selector: [("app".to_owned(), "other".to_owned())].into(),
        ..Default::default()
    };
    let list = ListPodSandboxRequest {
        filter: Some(filter),
    };
    assert!(
        clients
            .runtime
            .list_pod_sandbox(list)
            .await
            .unwrap()
            .into_inner()
            .items
            .is_empty()
    );

    // inspectp
    let request = PodSandboxStatusRequest {
        pod_sandbox_id: pod[..13].to_owned(),
        verbose: true,
    };
    let inspected = clients
        .runtime
        .pod_sandbox_status(request)
        .await
        .unwrap()
        .into_inner();
    let sandbox = inspected.status.unwrap();
    assert_eq!(sandbox.state(), PodSandboxState::SandboxReady);
    assert_eq!(
        sandbox.annotations,
        records::pod_config("web", 0).annotations
    );
    assert_eq!(sandbox.metadata, records::pod_config("web", 0).metadata);
    assert_eq!(sandbox.network.unwrap().ip, "10.1.0.2");
    assert!(sandbox.linux.unwrap().namespaces.unwrap().options.is_some());
    assert_eq!(inspected.containers_statuses.len(), 1);
    assert!(inspected.timestamp > 0 && inspected.info["info"].contains("guest boot"));

    // exec -s
    let exec = ExecSyncRequest {
        container_id: id[..13].to_owned(),
        cmd: vec!["echo".into(), "hi".into()],
        timeout: 5,
    };
    let output = clients.runtime.exec_sync(exec).await.unwrap().into_inner();
    assert_eq!(
        (output.stdout.as_ref(), output.exit_code),
        (&b"hi\n"[..], 0)
    );

    // logs: the path; rotation
    let found = status(&mut clients, &id).await;
    assert_eq!(found.log_path, "/var/log/pods/default_web_uid-web/c/0.log");
    assert_eq!(
        (found.image_id.as_str(), found.stop_signal()),
        (IMAGE_ID, Signal::Sigterm)
    );
    assert!(found.image_ref.contains("words@sha256:") && found.started_at >= found.created_at);
    let reopen = ReopenContainerLogRequest {
        container_id: id.clone(),
    };
    clients.runtime.reopen_container_log(reopen).await.unwrap();

    // stop, rm, stopp, rmp; twice each
    for _ in 0..2 {
        let stop = StopContainerRequest {
            container_id: id.clone(),
            timeout: 10,
        };
        clients.runtime.stop_container(stop).await.unwrap();
    }
    let found = status(&mut clients, &id).await;
    assert_eq!(
        (found.state(), found.exit_code),
        (ContainerState::ContainerExited, 143)
    );
    assert!(found.finished_at >= found.started_at);
    for _ in 0..2 {
        let remove = RemoveContainerRequest {
            container_id: id.clone(),
        };
        clients.runtime.remove_container(remove).await.unwrap();
    }
    for _ in 0..2 {
        let stop = StopPodSandboxRequest {
            pod_sandbox_id: pod.clone(),
        };
        clients.runtime.stop_pod_sandbox(stop).await.unwrap();
    }
    let request = PodSandboxStatusRequest {
        pod_sandbox_id: pod.clone(),
        verbose: false,
    };
    let inspected = clients
        .runtime
        .pod_sandbox_status(request)
        .await
        .unwrap()
        .into_inner();
    let sandbox = inspected.status.unwrap();
    assert_eq!(sandbox.state(), PodSandboxState::SandboxNotready);
    assert_eq!(sandbox.network.unwrap().ip, "");
    for _ in 0..2 {
        let remove = RemovePodSandboxRequest {
            pod_sandbox_id: pod.clone(),
        };
        clients.runtime.remove_pod_sandbox(remove).await.unwrap();
    }
    let remove = RemoveImageRequest {
        image: image("words"),
    };
    clients.images.remove_image(remove.clone()).await.unwrap();
    clients.images.remove_image(remove).await.unwrap();
    assert_eq!(node.world.residue(), crate::testing::Residue::default());
}

#[tokio::test]
async fn what_kubelet_needs_to_begin() {
    let (node, mut clients) = node().await;
    let usage = clients
        .images
        .image_fs_info(ImageFsInfoRequest {})
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        (
            usage.image_filesystems.len(),
            usage.container_filesystems.len()
        ),
        (1, 1)
    );
    assert!(
        !usage.image_filesystems[0]
            .fs_id
            .as_ref()
            .unwrap()
            .mountpoint
            .is_empty()
    );
    let config = clients
        .runtime
        .runtime_config(RuntimeConfigRequest {})
        .await
        .unwrap();
    assert_eq!(
        config.into_inner().linux.unwrap().cgroup_driver(),
        CgroupDriver::Cgroupfs
    );

    let cidr = |cidr: &str| UpdateRuntimeConfigRequest {
        runtime_config: Some(RuntimeConfig {
            network_config: Some(NetworkConfig {
                pod_cidr: cidr.to_owned(),
            }),
        }),
    };
    clients
        .runtime
        .update_runtime_config(cidr(""))
        .await
        .unwrap();
    clients
        .runtime
        .update_runtime_config(cidr("10.9.0.0/24"))
        .await
        .unwrap();
    // kubelet is told nothing of it, but whoever asks is.
    clients
        .runtime
        .update_runtime_config(cidr("10.66.0.0/16"))
        .await
        .unwrap();
    let verbose = StatusRequest { verbose: true };
    let answer = clients.runtime.status(verbose).await.unwrap().into_inner();
    assert!(answer.info["refusedPodCidr"].contains("collides"));
    let bad = clients
        .runtime
        .update_runtime_config(cidr("10.9.0.0/99"))
        .await;
    assert_eq!(bad.unwrap_err().code(), Code::InvalidArgument);
    let records = crate::testing::MemoryRecords::new(node.world.clone());
    let loaded = crate::store::Records::load(&records).await.unwrap();
    assert_eq!(loaded.pod_cidr.as_deref(), Some("10.9.0.0/24"));

    let absent = ImageStatusRequest {
        image: image("not/there:1"),
        verbose: false,
    };
    let answer = clients
        .images
        .image_status(absent)
        .await
        .unwrap()
        .into_inner();
    assert!(answer.image.is_none());
    let present = ImageStatusRequest {
        image: image(IMAGE_ID),
        verbose: true,
    };
    let answer = clients
        .images
        .image_status(present)
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.image.unwrap().uid.unwrap().value, 1000);
    let pull = PullImageRequest {
        image: image("not/there:1"),
        ..Default::default()
    };
    let refused = clients.images.pull_image(pull).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert!(
        refused.message().contains("bulkhead image import"),
        "{}",
        refused.message()
    );
}

#[tokio::test]
async fn errors_have_their_codes() {
    let (_node, mut clients) = node().await;
    let pod = run(&mut clients, "web").await;
    let other = run(&mut clients, "other").await;
    let code = |result: Result<String, tonic::Status>| result.unwrap_err().code();

    let config = || records::container_config("c", 0, &["sleep"]);
    assert_eq!(
        code(create(&mut clients, "absent", config()).await),
        Code::NotFound
    );
    assert_eq!(
        code(create(&mut clients, "", config()).await),
        Code::InvalidArgument
    );
    let mut unknown = config();
    unknown.image = image("not/there:1");
    assert_eq!(
        code(create(&mut clients, &pod, unknown).await),
        Code::NotFound
    );
    let mut volume = config();
    volume.mounts = vec![Mount {
        host_path: "/".into(),
        ..Default::default()
    }];
    assert_eq!(
        code(create(&mut clients, &pod, volume).await),
        Code::FailedPrecondition
    );
    let mut traversal = config();
    traversal.log_path = "../../../etc/cron.d/x".into();
    assert_eq!(
        code(create(&mut clients, &pod, traversal).await),
        Code::InvalidArgument
    );

    let id = create(&mut clients, &pod, config()).await.unwrap();
    let exec = |timeout| ExecSyncRequest {
        container_id: id.clone(),
        cmd: vec!["sleep".into()],
        timeout,
    };
    let refused = clients.runtime.exec_sync(exec(0)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "not started yet");
    start(&mut clients, &id).await;
    assert_eq!(
        clients.runtime.exec_sync(exec(1)).await.unwrap_err().code(),
        Code::DeadlineExceeded
    );
    assert_eq!(
        clients
            .runtime
            .exec_sync(exec(-1))
            .await
            .unwrap_err()
            .code(),
        Code::InvalidArgument
    );
    let again = StartContainerRequest {
        container_id: id.clone(),
    };
    let refused = clients.runtime.start_container(again).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);

    let absent = ContainerStatusRequest {
        container_id: other,
        verbose: false,
    };
    let refused = clients.runtime.container_status(absent).await.unwrap_err();
    assert_eq!(
        refused.code(),
        Code::NotFound,
        "a pod's id is no container's"
    );
    let missing = RunPodSandboxRequest::default();
    let refused = clients.runtime.run_pod_sandbox(missing).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_message_beyond_the_limit_is_refused_and_the_daemon_goes_on() {
    let (_node, mut clients) = node().await;
    let mut config = records::pod_config("web", 0);
    config
        .annotations
        .insert("big".into(), "x".repeat(17 * 1024 * 1024));
    let request = RunPodSandboxRequest {
        config: Some(config),
        runtime_handler: String::new(),
    };
    let refused = clients.runtime.run_pod_sandbox(request).await.unwrap_err();
    assert!(
        matches!(refused.code(), Code::OutOfRange | Code::ResourceExhausted),
        "{refused:?}"
    );
    run(&mut clients, "web").await;
}

#[tokio::test]
async fn output_as_large_as_an_answer_may_be_arrives() {
    let (_node, mut clients) = node().await;
    let pod = run(&mut clients, "web").await;
    let config = records::container_config("c", 0, &["sleep"]);
    let id = create(&mut clients, &pod, config).await.unwrap();
    start(&mut clients, &id).await;
    let cmd = vec!["flood".to_owned(), "40000000".to_owned()];
    let exec = ExecSyncRequest {
        container_id: id,
        cmd,
        timeout: 0,
    };
    let answer = clients.runtime.exec_sync(exec).await.unwrap().into_inner();
    assert_eq!(answer.stdout.len(), crate::pods::OUTPUT_MAX);
}

#[tokio::test]
async fn lists_of_a_thousand_pods_are_quick() {
    let (node, _clients) = node().await;
    for n in 0..1000 {
        let record = records::pod(&format!("{n:064}"), crate::store::PodPhase::NotReady);
        node.pods.model().insert_pod(record);
    }
    let streaming = bulkhead_streaming::listen(&Default::default()).await;
    let cri = super::Cri::new(
        node.pods.clone(),
        super::Node::default(),
        streaming.unwrap().0,
    );
    let begun = std::time::Instant::now();
    let listed = super::list_pod_sandbox::list_pod_sandbox(&cri, Default::default())
        .await
        .unwrap();
    assert_eq!(listed.items.len(), 1000);
    // Two milliseconds in a release build; this guards against something quadratic.
    assert!(
        begun.elapsed() < std::time::Duration::from_millis(500),
        "{:?}",
        begun.elapsed()
    );
}
