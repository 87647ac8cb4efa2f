//! Events.

use std::time::Duration;

use super::*;

async fn listen(clients: &mut Clients) -> tonic::Streaming<ContainerEventResponse> {
    let request = GetEventsRequest {};
    let answer = clients.runtime.get_container_events(request).await;
    answer.unwrap().into_inner()
}

async fn next(events: &mut tonic::Streaming<ContainerEventResponse>) -> ContainerEventResponse {
    let event = tokio::time::timeout(Duration::from_secs(30), events.message());
    event.await.expect("an event").unwrap().expect("no end")
}

fn kind(event: &ContainerEventResponse) -> (String, ContainerEventType) {
    (event.container_id.clone(), event.container_event_type())
}

#[tokio::test]
async fn a_life_is_told_as_it_happens() {
    use ContainerEventType::{
        ContainerCreatedEvent as Created, ContainerDeletedEvent as Deleted,
        ContainerStartedEvent as Started, ContainerStoppedEvent as Stopped,
    };
    let (node, mut clients) = node().await;
    let mut events = listen(&mut clients).await;
    let mut other = listen(&mut clients).await;
    let pod = run(&mut clients, "web").await;
    let config = records::container_config("c", 0, &["sleep"]);
    let id = create(&mut clients, &pod, config).await.unwrap();
    start(&mut clients, &id).await;
    node.world.end_container(&id, 3);

    let mut seen = Vec::new();
    for _ in 0..5 {
        let event = next(&mut events).await;
        assert!(event.created_at > 0);
        let status = event.pod_sandbox_status.as_ref().unwrap();
        assert_eq!(
            (status.id.as_str(), status.state()),
            (pod.as_str(), PodSandboxState::SandboxReady)
        );
        seen.push(kind(&event));
        if event.container_event_type() == Stopped {
            let container = &event.containers_statuses[0];
            assert_eq!(
                (container.id.as_str(), container.exit_code),
                (id.as_str(), 3)
            );
            assert_eq!(container.state(), ContainerState::ContainerExited);
        }
    }
    let (c, p) = (|it| (id.clone(), it), |it| (pod.clone(), it));
    assert_eq!(
        seen,
        [p(Created), p(Started), c(Created), c(Started), c(Stopped)]
    );

    let remove = RemovePodSandboxRequest {
        pod_sandbox_id: pod.clone(),
    };
    clients.runtime.remove_pod_sandbox(remove).await.unwrap();
    let mut seen = Vec::new();
    for _ in 0..3 {
        seen.push(kind(&next(&mut events).await));
    }
    assert_eq!(seen, [p(Stopped), c(Deleted), p(Deleted)]);
    // Everybody hears the same.
    for _ in 0..8 {
        next(&mut other).await;
    }
}

#[tokio::test]
async fn the_death_of_a_machine_is_told_at_once() {
    let (node, mut clients) = node().await;
    let pod = run(&mut clients, "web").await;
    let config = records::container_config("c", 0, &["sleep"]);
    let id = create(&mut clients, &pod, config).await.unwrap();
    start(&mut clients, &id).await;
    let mut events = listen(&mut clients).await;
    node.world
        .kill_vm(&pod, "guest-panic", "Kernel panic - not syncing: oops");
    let first = next(&mut events).await;
    assert_eq!(
        kind(&first),
        (pod.clone(), ContainerEventType::ContainerStoppedEvent)
    );
    assert_eq!(
        first.pod_sandbox_status.unwrap().state(),
        PodSandboxState::SandboxNotready
    );
    let second = next(&mut events).await;
    assert_eq!(
        kind(&second),
        (id.clone(), ContainerEventType::ContainerStoppedEvent)
    );
    let container = &second.containers_statuses[0];
    assert_eq!(container.reason, "SandboxDied");
    assert!(
        container
            .message
            .contains("Kernel panic - not syncing: oops")
    );
    assert!(container.created_at <= container.started_at);
    assert!(container.started_at <= container.finished_at);
}
