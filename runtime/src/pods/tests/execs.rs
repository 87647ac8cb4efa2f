//! ExecSync.

use super::*;
use crate::{Kind, pods::OUTPUT_MAX};

async fn exec(
    node: &Node,
    id: &str,
    command: &[&str],
    timeout: Option<u64>,
) -> Result<crate::pods::Captured> {
    let command = command.iter().map(|word| (*word).to_owned()).collect();
    node.pods
        .exec_sync(id, command, timeout.map(Duration::from_secs))
        .await
}

#[test]
fn output_and_exit_code_come_back() {
    on_virtual_time(async {
        let node = node().await;
        let (_, id) = running(&node, &["sleep"]).await.unwrap();
        let done = exec(&node, &id, &["echo", "hello", "there"], None)
            .await
            .unwrap();
        assert_eq!(
            (done.stdout.as_slice(), done.code),
            (&b"hello there\n"[..], 0)
        );
        assert_eq!(
            exec(&node, &id, &["exit", "3"], Some(5))
                .await
                .unwrap()
                .code,
            3
        );
    });
}

#[test]
fn a_flood_is_capped_and_still_read_to_its_end() {
    on_virtual_time(async {
        let node = node().await;
        let (_, id) = running(&node, &["sleep"]).await.unwrap();
        let done = exec(&node, &id, &["flood", "20000000"], None)
            .await
            .unwrap();
        assert_eq!(done.stdout.len(), OUTPUT_MAX);
        assert_eq!(done.code, 0);
    });
}

#[test]
fn a_timeout_kills_and_says_so() {
    on_virtual_time(async {
        let node = node().await;
        let (_, id) = running(&node, &["sleep"]).await.unwrap();
        let before = node.world.residue();
        let error = exec(&node, &id, &["sleep"], Some(3)).await.unwrap_err();
        assert_eq!(error.kind(), Kind::DeadlineExceeded);
        settled().await;
        assert!(
            node.world
                .events()
                .iter()
                .any(|event| event.starts_with("signal 9"))
        );
        assert_eq!(node.world.residue(), before);
    });
}

#[test]
fn what_cannot_run_is_refused_at_once() {
    on_virtual_time(async {
        let node = node().await;
        let (_, id) = running(&node, &["sleep"]).await.unwrap();
        let kind =
            async |command: &[&str]| exec(&node, &id, command, None).await.unwrap_err().kind();
        assert_eq!(kind(&["missing"]).await, Kind::InvalidArgument);
        assert_eq!(kind(&[]).await, Kind::InvalidArgument);
        assert_eq!(
            exec(&node, "nope", &["true"], None)
                .await
                .unwrap_err()
                .kind(),
            Kind::NotFound
        );
        node.pods.stop_container(&id, Duration::ZERO).await.unwrap();
        assert_eq!(kind(&["true"]).await, Kind::FailedPrecondition);
    });
}

#[test]
fn a_client_that_hangs_up_leaves_no_process() {
    on_virtual_time(async {
        let node = node().await;
        let (_, id) = running(&node, &["sleep"]).await.unwrap();
        let call = exec(&node, &id, &["sleep"], None);
        assert!(
            tokio::time::timeout(Duration::from_secs(1), call)
                .await
                .is_err()
        );
        settled().await;
        let sandbox = node.pods.model().pods()[0].sandbox().unwrap();
        assert_eq!(
            sandbox.processes().await.unwrap().len(),
            1,
            "only the container's own"
        );
    });
}
