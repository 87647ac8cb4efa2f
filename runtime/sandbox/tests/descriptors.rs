//! No path of a start leaks a descriptor. A binary of its own: other tests' would
//! count too.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "tests share helpers, and a failed unwrap is a failed test"
)]

mod bench;

use std::time::Duration;

use bench::{Bench, POD};
use bulkhead_sandbox::Launcher as _;

/// Not a test: the process that the launcher starts.
#[test]
fn standin() {
    bench::standin();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_descriptor_is_closed() {
    for how in ["", "standin.kvm", "standin.panic", "standin.unconfigurable"] {
        let bench = Bench::misbehaving(how);
        let before = descriptors();
        match bench.launcher.launch(bench.spec()).await {
            Ok(pod) => {
                pod.create_container(bench.container("c", "echo hello"))
                    .await
                    .unwrap();
                pod.start_container("c").await.unwrap();
                pod.remove_container("c").await.unwrap();
                drop(pod);
                bench.launcher.destroy(POD).await.unwrap();
            }
            Err(_) => assert!(!how.is_empty()),
        }
        bench.assert_nothing_left();
        let mut after = descriptors();
        for _ in 0..50 {
            if after == before {
                break;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            after = descriptors();
        }
        assert_eq!(after, before, "{how}: open descriptors");
    }
}

fn descriptors() -> usize {
    std::fs::read_dir("/proc/self/fd").unwrap().count()
}
