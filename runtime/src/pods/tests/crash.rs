//! The daemon is killed at every point of a pod's life, and started again.

use super::*;
use crate::testing::{Faults, Mode, Residue};

/// The life of a pod with two containers; each call as often as it takes.
async fn life(node: &Node) -> Result<()> {
    let pods = &node.pods;
    let pod = match by_key(node) {
        Some(pod) => pod,
        None => pods.run(records::pod_config("p", 0), String::new()).await?,
    };
    let long = pods
        .create(&pod, records::container_config("long", 0, &["sleep"]))
        .await?;
    let short = pods
        .create(&pod, records::container_config("short", 0, &["exit", "3"]))
        .await?;
    for id in [&long, &short] {
        if container(node, id).phase == ContainerPhase::Created {
            pods.start(id).await?;
        }
    }
    settled().await;
    assert_eq!(container(node, &short).exit_code, 3);
    pods.exec_sync(&long, vec!["true".into()], None).await?;
    pods.remove_container(&short).await?;
    pods.stop_container(&long, Duration::from_secs(1)).await?;
    assert_eq!(container(node, &long).exit_code, 143);
    pods.stop(&pod).await?;
    pods.remove(&pod).await
}

fn by_key(node: &Node) -> Option<String> {
    Some(node.pods.model().pods().first()?.id.clone())
}

async fn frozen(faults: &Faults) {
    while !faults.is_frozen() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// What a client does after the daemon came back: it looks, and goes on.
async fn rest_of_life(node: &Node) {
    check_whole(node);
    for pod in node.pods.model().pods() {
        node.pods.stop(&pod.id).await.unwrap();
        check_whole(node);
        node.pods.remove(&pod.id).await.unwrap();
    }
    settled().await;
    assert_eq!(node.world.residue(), Residue::default());
    // And the same pod again, from the beginning.
    life(node).await.unwrap();
    assert_eq!(node.world.residue(), Residue::default());
}

#[test]
fn killed_at_every_point() {
    let mut at = 0;
    loop {
        let hit = on_virtual_time(async {
            let world = World::new();
            let node = Node::start(&world).await.unwrap();
            world.faults.set(Mode::FreezeAt(at));
            tokio::select! {
                biased;
                () = frozen(&world.faults) => {}
                result = life(&node) => result.unwrap(),
            }
            let hit = world.faults.hit();
            drop(node);
            world.daemon_died();
            world.faults.set(Mode::Pass);
            let node = Node::start(&world).await.unwrap();
            settled().await;
            rest_of_life(&node).await;
            hit
        });
        if hit.is_none() {
            break;
        }
        at += 1;
    }
    assert!(at > 30, "only {at} points");
}

#[test]
fn killed_again_while_it_takes_up() {
    for first in [3, 6, 9, 12, 15, 20, 25, 30] {
        let mut second = 0;
        loop {
            let hit = on_virtual_time(async {
                let world = World::new();
                let node = Node::start(&world).await.unwrap();
                world.faults.set(Mode::FreezeAt(first));
                tokio::select! {
                    biased;
                    () = frozen(&world.faults) => {}
                    result = life(&node) => result.unwrap(),
                }
                drop(node);
                world.daemon_died();
                world.faults.set(Mode::FreezeAt(second));
                tokio::select! {
                    biased;
                    () = frozen(&world.faults) => {}
                    node = async { let n = Node::start(&world).await; settled().await; n } => {
                        drop(node.unwrap());
                    }
                }
                let hit = world.faults.hit();
                world.daemon_died();
                world.faults.set(Mode::Pass);
                let node = Node::start(&world).await.unwrap();
                settled().await;
                rest_of_life(&node).await;
                hit
            });
            if hit.is_none() {
                break;
            }
            second += 1;
        }
    }
}

#[test]
fn a_restart_is_invisible_to_a_pod() {
    on_virtual_time(async {
        let world = World::new();
        let node = Node::start(&world).await.unwrap();
        let (pod, long) = running(&node, &["sleep"]).await.unwrap();
        let config = records::container_config("created", 0, &["sleep"]);
        let created = node.pods.create(&pod, config).await.unwrap();
        let before = (
            super::pod(&node, &pod),
            container(&node, &long),
            container(&node, &created),
        );
        for _ in 0..5 {
            world.daemon_died();
            let node = Node::start(&world).await.unwrap();
            settled().await;
            check_whole(&node);
            let after = (
                super::pod(&node, &pod),
                container(&node, &long),
                container(&node, &created),
            );
            assert_eq!(before, after);
            assert_eq!(node.report.adopted, 1);
        }
        // What happens while nobody looks is learnt.
        world.daemon_died();
        world.end_container(&long, 42);
        let node = Node::start(&world).await.unwrap();
        settled().await;
        assert_eq!(container(&node, &long).phase, ContainerPhase::Exited);
        assert_eq!(container(&node, &long).exit_code, 42);
        // The pod goes on: started, exec'd into, removed.
        node.pods.start(&created).await.unwrap();
        node.pods
            .exec_sync(&created, vec!["true".into()], None)
            .await
            .unwrap();
        node.pods.remove(&pod).await.unwrap();
        assert_eq!(world.residue(), Residue::default());
    });
}

#[test]
fn what_died_while_nobody_looked_is_reported_dead() {
    on_virtual_time(async {
        let world = World::new();
        let node = Node::start(&world).await.unwrap();
        let (pod, id) = running(&node, &["sleep"]).await.unwrap();
        drop(node);
        world.daemon_died();
        world.kill_vm(&pod, "guest-panic", "");
        let node = Node::start(&world).await.unwrap();
        assert_eq!(super::pod(&node, &pod).phase, PodPhase::NotReady);
        let record = container(&node, &id);
        assert_eq!(
            (record.phase, record.exit_code),
            (ContainerPhase::Exited, 255)
        );
        assert_eq!(record.reason, "SandboxDied");
        check_whole(&node);
        node.pods.remove(&pod).await.unwrap();
        assert_eq!(world.residue(), Residue::default());
    });
}

#[test]
fn an_unreadable_record_takes_nobody_along() {
    on_virtual_time(async {
        let world = World::new();
        let node = Node::start(&world).await.unwrap();
        let (bad, _) = running(&node, &["sleep"]).await.unwrap();
        let good = node
            .pods
            .run(records::pod_config("q", 0), String::new())
            .await
            .unwrap();
        drop(node);
        world.daemon_died();
        world.corrupt_record(&format!("pods/{bad}"));
        let node = Node::start(&world).await.unwrap();
        settled().await;
        assert_eq!(node.report.quarantined.len(), 1);
        assert!(node.pods.model().pod(&bad).is_err());
        assert_eq!(super::pod(&node, &good).phase, PodPhase::Ready);
        check_whole(&node);
    });
}
