//! Every effect of every deed fails once; nothing may be left, and a second try
//! must work.

use super::*;
use crate::testing::{Mode, Residue};

/// Runs the whole life of a pod as kubelet does: what fails is asked for again.
/// Returns how many calls failed.
async fn life(node: &Node) -> usize {
    let mut failed = 0;
    let world = &node.world;
    let before = world.residue();
    let config = || records::pod_config("p", 0);
    let pod = loop {
        match node.pods.run(config(), String::new()).await {
            Ok(id) => break id,
            Err(_) => {
                failed += 1;
                assert_eq!(world.residue(), before, "after {:?}", world.faults.hit());
                assert!(node.pods.model().pods().is_empty());
            }
        }
    };
    let before = world.residue();
    let mut attempt = 0;
    let container = loop {
        let config = records::container_config("c", attempt, &["sleep"]);
        let id = match node.pods.create(&pod, config).await {
            Ok(id) => id,
            Err(_) => {
                failed += 1;
                settled().await;
                assert_eq!(world.residue(), before, "after {:?}", world.faults.hit());
                continue;
            }
        };
        match node.pods.start(&id).await {
            Ok(()) => break id,
            Err(_) => {
                failed += 1;
                settled().await;
                check_whole(node);
                assert_eq!(super::container(node, &id).reason, "StartError");
                node.pods.remove_container(&id).await.unwrap();
                attempt += 1;
            }
        }
    };
    settled().await;
    // Facts that could not be written are written again in their time.
    tokio::time::sleep(Duration::from_secs(30)).await;
    check_whole(node);
    while node
        .pods
        .exec_sync(&container, vec!["true".into()], None)
        .await
        .is_err()
    {
        failed += 1;
    }
    while node
        .pods
        .stop_container(&container, Duration::from_secs(1))
        .await
        .is_err()
    {
        failed += 1;
    }
    while node.pods.remove_container(&container).await.is_err() {
        failed += 1;
    }
    while node.pods.stop(&pod).await.is_err() {
        failed += 1;
    }
    while node.pods.remove(&pod).await.is_err() {
        failed += 1;
    }
    failed
}

#[test]
fn each_effect_fails_once() {
    let mut at = 0;
    loop {
        let hit = on_virtual_time(async {
            let node = node().await;
            node.world.faults.set(Mode::FailAt(at));
            let failed = life(&node).await;
            let hit = node.world.faults.hit();
            tokio::time::sleep(Duration::from_secs(60)).await;
            assert_eq!(node.world.residue(), Residue::default(), "after {hit:?}");
            assert!(node.pods.model().pods().is_empty() && node.network.leased().is_empty());
            assert!(
                failed <= 1,
                "one failure, {failed} failed calls, at {hit:?}"
            );
            hit
        });
        if hit.is_none() {
            break;
        }
        at += 1;
    }
    assert!(at > 20, "only {at} effects");
}

#[test]
fn undoing_fails_too_and_is_done_later() {
    for seed in 1..40 {
        on_virtual_time(async {
            let node = node().await;
            node.world.faults.set(Mode::Random {
                one_in: 3,
                seed: seed * 7919,
            });
            for attempt in 0..10 {
                let _ = node
                    .pods
                    .run(records::pod_config("p", attempt), String::new())
                    .await;
            }
            node.world.faults.set(Mode::Pass);
            tokio::time::sleep(Duration::from_secs(60)).await;
            check_whole(&node);
            for pod in node.pods.model().pods() {
                node.pods.remove(&pod.id).await.unwrap();
            }
            assert_eq!(node.world.residue(), Residue::default());
        });
    }
}

#[test]
fn a_removal_that_fails_can_be_repeated_by_the_client() {
    on_virtual_time(async {
        let node = node().await;
        let (pod, _) = running(&node, &["sleep"]).await.unwrap();
        node.pods.stop(&pod).await.unwrap();
        node.world.faults.set(Mode::FailAt(2));
        assert!(node.pods.remove(&pod).await.is_err());
        assert!(node.pods.model().pod(&pod).is_ok(), "still listed");
        node.pods.remove(&pod).await.unwrap();
        assert_eq!(node.world.residue(), Residue::default());
        node.pods.remove(&pod).await.unwrap();
        node.pods.stop(&pod).await.unwrap();
    });
}
