//! The lifecycle on a world without virtual machines.

mod crash;
mod deaths;
mod execs;
mod failures;
mod hosts;
mod joining;
mod random;

use std::{sync::Arc, time::Duration};

use bulkhead_sandbox::PlaceKind;

use crate::{
    error::Result,
    pods::placement::Shared,
    store::{ContainerPhase, ContainerRecord, PodPhase, PodRecord},
    testing::{Node, World, records},
};

/// Runs a test on virtual time: waiting costs nothing, and lets everything else
/// that can happen happen first.
pub(super) fn on_virtual_time<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .start_paused(true)
        .build()
        .unwrap()
        .block_on(test)
}

/// Lets everything happen that can.
pub(super) async fn settled() {
    tokio::time::sleep(Duration::from_millis(20)).await;
}

pub(super) async fn node() -> Node {
    Node::start(&World::new()).await.unwrap()
}

/// A pod with a running container of `command`.
pub(super) async fn running(node: &Node, command: &[&str]) -> Result<(String, String)> {
    let pod = node
        .pods
        .run(records::pod_config("p", 0), String::new())
        .await?;
    let container = node
        .pods
        .create(&pod, records::container_config("c", 0, command))
        .await?;
    node.pods.start(&container).await?;
    settled().await;
    Ok((pod, container))
}

pub(super) fn pod(node: &Node, id: &str) -> Arc<PodRecord> {
    node.pods.model().pod(id).unwrap().record()
}

pub(super) fn container(node: &Node, id: &str) -> Arc<ContainerRecord> {
    node.pods.model().container(id).unwrap().record()
}

/// Records, model and world tell the same story, and nothing is half done.
pub(super) fn check_whole(node: &Node) {
    let residue = node.world.residue();
    let model = node.pods.model();
    let mut vms = Vec::new();
    let mut holding = Vec::new();
    let mut keys = Vec::new();
    for pod in model.pods() {
        let record = pod.record();
        keys.push(format!("pods/{}", pod.id));
        match record.phase {
            PodPhase::Ready => {
                vms.push(pod.id.clone());
                assert!(record.sandbox.is_some());
                let on_hosts_network =
                    record.place == PlaceKind::Host && Shared::of(&record.config).network;
                assert_eq!(record.lease.is_none(), on_hosts_network);
                if record.lease.is_some() {
                    holding.push(pod.id.clone());
                }
            }
            PodPhase::NotReady => {
                if record.lease.is_some() {
                    holding.push(pod.id.clone());
                }
            }
            half => panic!("pod {} is {half:?}", pod.id),
        }
    }
    for container in model.containers() {
        let record = container.record();
        keys.insert(keys.len(), format!("containers/{}", container.id));
        let ready = pod(node, &record.pod_id).phase == PodPhase::Ready;
        match record.phase {
            ContainerPhase::Created | ContainerPhase::Running => {
                assert!(ready, "{} lives in a dead pod", record.id);
                assert!(residue.containers.contains(&record.id));
            }
            ContainerPhase::Exited => {
                let times = [record.created_at, record.started_at, record.finished_at];
                assert!(times.is_sorted() && times[0] > 0, "{times:?}");
            }
            half => panic!("container {} is {half:?}", record.id),
        }
    }
    for id in &residue.containers {
        assert!(
            model.container(id).is_ok(),
            "the guest has {id}, no record knows it"
        );
    }
    keys.sort();
    assert_eq!(residue.records, keys, "disk and model differ");
    assert_eq!(residue.vms, vms, "sandboxes and ready pods differ");
    assert_eq!(node.network.leased(), holding, "leases differ");
    for pod in &residue.taps {
        assert!(vms.contains(pod), "a tap without a pod");
    }
    for pod in &residue.files {
        assert!(model.pod(pod).is_ok(), "files without a pod");
    }
}
