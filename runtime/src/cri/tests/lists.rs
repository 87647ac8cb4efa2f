//! Lists as streams.

use super::*;

#[tokio::test]
async fn streams_hold_what_lists_hold() {
    let (_node, mut clients) = node().await;
    let pod = run(&mut clients, "web").await;
    let config = records::container_config("c", 0, &["sleep"]);
    let id = create(&mut clients, &pod, config).await.unwrap();

    macro_rules! first {
        ($service:ident . $call:ident($request:expr), $items:ident) => {{
            let answer = clients.$service.$call($request).await.unwrap();
            let mut stream = answer.into_inner();
            let first = stream.message().await.unwrap().unwrap().$items;
            assert!(stream.message().await.unwrap().is_none());
            first
        }};
    }
    let pods = first!(
        runtime.stream_pod_sandboxes(StreamPodSandboxesRequest::default()),
        pod_sandboxes
    );
    assert_eq!(pods[0].id, pod);
    let containers = first!(
        runtime.stream_containers(StreamContainersRequest::default()),
        containers
    );
    assert_eq!(containers[0].id, id);
    let stats = first!(
        runtime.stream_container_stats(StreamContainerStatsRequest::default()),
        container_stats
    );
    assert_eq!(stats[0].attributes.as_ref().unwrap().id, id);
    let stats = first!(
        runtime.stream_pod_sandbox_stats(StreamPodSandboxStatsRequest::default()),
        pod_sandbox_stats
    );
    assert_eq!(stats[0].attributes.as_ref().unwrap().id, pod);
    let metrics = first!(
        runtime.stream_pod_sandbox_metrics(StreamPodSandboxMetricsRequest {}),
        pod_sandbox_metrics
    );
    assert_eq!(metrics[0].pod_sandbox_id, pod);
    let images = first!(images.stream_images(StreamImagesRequest::default()), images);
    assert_eq!(images[0].id, IMAGE_ID);

    let filter = ContainerFilter {
        id: "absent".into(),
        ..Default::default()
    };
    let request = StreamContainersRequest {
        filter: Some(filter),
    };
    let answer = clients.runtime.stream_containers(request).await.unwrap();
    assert!(answer.into_inner().message().await.unwrap().is_none());
}

/// More than a message may have: a list of it can't be answered, a stream can.
#[tokio::test]
async fn a_stream_has_no_limit() {
    let (node, mut clients) = node().await;
    let mut bytes = 0;
    for n in 0..40 {
        let mut record = records::pod(&format!("{n:064}"), crate::store::PodPhase::NotReady);
        let note = "x".repeat(1 << 20);
        bytes += note.len();
        record.config.annotations.insert("note".into(), note);
        node.pods.model().insert_pod(record);
    }
    assert!(bytes > 2 * bulkhead_cri_api::MESSAGE_BYTES_MAX);
    assert!(
        clients
            .runtime
            .list_pod_sandbox(ListPodSandboxRequest::default())
            .await
            .is_err()
    );
    let answer = clients
        .runtime
        .stream_pod_sandboxes(StreamPodSandboxesRequest::default())
        .await
        .unwrap();
    let mut stream = answer.into_inner();
    let mut ids = Vec::new();
    while let Some(chunk) = stream.message().await.unwrap() {
        ids.extend(chunk.pod_sandboxes.into_iter().map(|it| it.id));
    }
    assert_eq!(ids.len(), 40);
    assert!(ids.is_sorted());
}
