//! Ends: asked for and not.

use super::*;
use crate::{Kind, testing::Residue};

#[test]
fn a_container_ends_by_itself() {
    on_virtual_time(async {
        let node = node().await;
        for (command, code, reason) in [
            (&["true"][..], 0, "Completed"),
            (&["exit", "7"], 7, "Error"),
            (&["oom"], 137, "OOMKilled"),
        ] {
            let (pod, id) = running(&node, command).await.unwrap();
            let record = container(&node, &id);
            assert_eq!(record.phase, ContainerPhase::Exited);
            assert_eq!((record.exit_code, record.reason.as_str()), (code, reason));
            check_whole(&node);
            node.pods.remove(&pod).await.unwrap();
        }
    });
}

#[test]
fn a_program_that_cannot_be_started_says_so_twice() {
    on_virtual_time(async {
        let node = node().await;
        let pod = node
            .pods
            .run(records::pod_config("p", 0), String::new())
            .await
            .unwrap();
        let config = records::container_config("c", 0, &["missing"]);
        let id = node.pods.create(&pod, config).await.unwrap();
        let error = node.pods.start(&id).await.unwrap_err();
        // Not NOT_FOUND: the container is there.
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(error.to_string().contains("missing"), "{error}");
        settled().await;
        let record = container(&node, &id);
        assert_eq!(
            (record.exit_code, record.reason.as_str()),
            (128, "StartError")
        );
        assert!(record.message.contains("no such file"));
        assert_eq!(
            node.pods.start(&id).await.unwrap_err().kind(),
            Kind::FailedPrecondition
        );
        check_whole(&node);
    });
}

#[test]
fn a_dead_sandbox_takes_its_containers_along_at_once() {
    on_virtual_time(async {
        let node = node().await;
        let (id, running_one) = running(&node, &["sleep"]).await.unwrap();
        let config = records::container_config("d", 0, &["sleep"]);
        let created = node.pods.create(&id, config).await.unwrap();
        node.world
            .kill_vm(&id, "guest-panic", "Kernel panic - not syncing");
        settled().await;
        assert_eq!(pod(&node, &id).phase, PodPhase::NotReady);
        for container_id in [&running_one, &created] {
            let record = container(&node, container_id);
            assert_eq!(
                (record.phase, record.exit_code),
                (ContainerPhase::Exited, 255)
            );
            assert!(
                record.message.contains("Kernel panic"),
                "{}",
                record.message
            );
        }
        check_whole(&node);
        let config = records::container_config("e", 0, &["sleep"]);
        let error = node.pods.create(&id, config).await.unwrap_err();
        assert_eq!(error.kind(), Kind::FailedPrecondition);
        node.pods
            .stop_container(&running_one, Duration::ZERO)
            .await
            .unwrap();
        node.pods.remove(&id).await.unwrap();
        assert_eq!(node.world.residue(), Residue::default());
    });
}

#[test]
fn stopping_asks_before_it_kills() {
    on_virtual_time(async {
        let node = node().await;
        let (pod, polite) = running(&node, &["sleep"]).await.unwrap();
        node.pods
            .stop_container(&polite, Duration::from_secs(30))
            .await
            .unwrap();
        assert_eq!(container(&node, &polite).exit_code, 143);
        let config = records::container_config("s", 0, &["stubborn"]);
        let stubborn = node.pods.create(&pod, config).await.unwrap();
        // Neither a created nor an exited container has anything to stop.
        node.pods
            .stop_container(&stubborn, Duration::ZERO)
            .await
            .unwrap();
        assert_eq!(container(&node, &stubborn).phase, ContainerPhase::Created);
        node.pods.start(&stubborn).await.unwrap();
        let begun = tokio::time::Instant::now();
        node.pods
            .stop_container(&stubborn, Duration::from_secs(30))
            .await
            .unwrap();
        assert!(begun.elapsed() >= Duration::from_secs(30));
        assert_eq!(container(&node, &stubborn).exit_code, 137);
        let events = node.world.events();
        let signals: Vec<_> = events.iter().filter(|it| it.contains(&stubborn)).collect();
        assert!(signals[1].starts_with("signal 15") && signals[2].starts_with("signal 9"));
        node.pods
            .stop_container(&stubborn, Duration::ZERO)
            .await
            .unwrap();
        check_whole(&node);
    });
}

#[test]
fn a_guest_that_hangs_can_always_be_stopped_and_removed() {
    on_virtual_time(async {
        let node = node().await;
        let (id, hung) = running(&node, &["sleep"]).await.unwrap();
        node.world.hang_vm(&id);
        let stopped = node
            .pods
            .stop_container(&hung, Duration::from_secs(1))
            .await;
        assert_eq!(stopped.unwrap_err().kind(), Kind::DeadlineExceeded);
        node.pods.stop(&id).await.unwrap();
        assert_eq!(pod(&node, &id).phase, PodPhase::NotReady);
        assert_eq!(container(&node, &hung).exit_code, 137);
        check_whole(&node);
        node.pods.remove(&id).await.unwrap();
        assert_eq!(node.world.residue(), Residue::default());
    });
}

#[test]
fn a_pod_stopped_while_containers_are_made_keeps_none_of_them() {
    for delay in 0..12 {
        on_virtual_time(async {
            let node = node().await;
            let id = node
                .pods
                .run(records::pod_config("p", 0), String::new())
                .await
                .unwrap();
            let makes: Vec<_> = (0..5)
                .map(|n| {
                    let (pods, id) = (node.pods.clone(), id.clone());
                    tokio::spawn(async move {
                        let config = records::container_config(&format!("c{n}"), 0, &["sleep"]);
                        let made = pods.create(&id, config).await?;
                        pods.start(&made).await
                    })
                })
                .collect();
            for _ in 0..delay {
                tokio::task::yield_now().await;
            }
            node.pods.stop(&id).await.unwrap();
            for make in makes {
                let _ = make.await.unwrap();
            }
            settled().await;
            check_whole(&node);
            node.pods.remove(&id).await.unwrap();
            assert_eq!(node.world.residue(), Residue::default());
        });
    }
}

#[test]
fn removing_and_stopping_at_once_is_no_contradiction() {
    on_virtual_time(async {
        let node = node().await;
        let (id, container_id) = running(&node, &["stubborn"]).await.unwrap();
        let (stop, stop_pod, remove, remove_pod, again) = tokio::join!(
            node.pods
                .stop_container(&container_id, Duration::from_secs(10)),
            node.pods.stop(&id),
            node.pods.remove_container(&container_id),
            node.pods.remove(&id),
            node.pods.remove(&id),
        );
        for result in [stop, stop_pod, remove, remove_pod, again] {
            result.unwrap();
        }
        settled().await;
        assert_eq!(node.world.residue(), Residue::default());
    });
}
