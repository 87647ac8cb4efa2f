//! Creates that are asked for again, at once or later.

use super::*;
use crate::Kind;

#[test]
fn one_pod_for_twenty_calls_at_once() {
    on_virtual_time(async {
        let node = node().await;
        let calls = (0..20).map(|_| node.pods.run(records::pod_config("p", 0), String::new()));
        let ids = futures::future::try_join_all(calls).await.unwrap();
        assert!(ids.iter().all(|id| *id == ids[0]));
        let launches = node.world.events();
        assert_eq!(launches, [format!("launch {}", ids[0])]);

        let calls = (0..20).map(|_| {
            node.pods
                .create(&ids[0], records::container_config("c", 0, &["sleep"]))
        });
        let containers = futures::future::try_join_all(calls).await.unwrap();
        assert!(containers.iter().all(|id| *id == containers[0]));
        check_whole(&node);
    });
}

#[test]
fn twenty_pods_at_once() {
    on_virtual_time(async {
        let node = node().await;
        let before = node.world.residue();
        let calls = (0..20).map(|n| {
            node.pods
                .run(records::pod_config(&format!("p{n}"), 0), String::new())
        });
        let ids = futures::future::try_join_all(calls).await.unwrap();
        check_whole(&node);
        let records: Vec<_> = ids.iter().map(|id| pod(&node, id)).collect();
        let uids: std::collections::BTreeSet<_> = records.iter().map(|it| it.vmm_uid).collect();
        assert_eq!(uids.len(), 20, "a uid to each");
        let removals = ids.iter().map(|id| node.pods.remove(id));
        futures::future::try_join_all(removals).await.unwrap();
        assert_eq!(node.world.residue(), before);
    });
}

#[test]
fn a_client_that_hangs_up_aborts_nothing() {
    on_virtual_time(async {
        let node = node().await;
        let pods = node.pods.clone();
        let call =
            tokio::spawn(async move { pods.run(records::pod_config("p", 0), String::new()).await });
        tokio::task::yield_now().await;
        call.abort();
        settled().await;
        let [made] = &node.pods.model().pods()[..] else {
            panic!("one pod")
        };
        let id = node
            .pods
            .run(records::pod_config("p", 0), String::new())
            .await
            .unwrap();
        assert_eq!(id, made.id);
        check_whole(&node);
    });
}

#[test]
fn another_configuration_or_an_ended_pod_is_no_retry() {
    on_virtual_time(async {
        let node = node().await;
        let (id, container) = running(&node, &["sleep"]).await.unwrap();
        let mut other = records::pod_config("p", 0);
        other.hostname = "other".into();
        let error = node.pods.run(other, String::new()).await.unwrap_err();
        assert_eq!(error.kind(), Kind::AlreadyExists);
        assert!(error.to_string().contains(&id), "{error}");
        let other = records::container_config("c", 0, &["true"]);
        let error = node.pods.create(&id, other).await.unwrap_err();
        assert_eq!(error.kind(), Kind::AlreadyExists);
        assert!(error.to_string().contains(&container), "{error}");

        node.pods.stop(&id).await.unwrap();
        let again = node
            .pods
            .run(records::pod_config("p", 0), String::new())
            .await;
        assert_eq!(again.unwrap_err().kind(), Kind::AlreadyExists);
        // As kubelet does it.
        let next = node
            .pods
            .run(records::pod_config("p", 1), String::new())
            .await
            .unwrap();
        assert_ne!(next, id);
        check_whole(&node);
    });
}

#[test]
fn unknown_handlers_and_full_nodes_are_refused() {
    on_virtual_time(async {
        let node = node().await;
        let error = node
            .pods
            .run(records::pod_config("p", 0), "kata".into())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), Kind::InvalidArgument);
        assert!(error.to_string().contains("\"kata\""), "{error}");
        node.pods
            .run(records::pod_config("p", 0), "bulkhead".into())
            .await
            .unwrap();
        check_whole(&node);
    });
}
