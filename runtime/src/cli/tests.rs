//! Commands against a daemon without virtual machines.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context;
use clap::Parser;

use super::*;
use crate::testing::{Clients, IMAGE, Mode, Node, World, records};

/// A daemon and its socket.
struct Served {
    node: Node,
    world: Arc<World>,
    clients: Clients,
}

impl Served {
    async fn start() -> Self {
        let world = World::new();
        let node = Node::start(&world).await.unwrap();
        let clients = node.serve().await.unwrap();
        Self {
            node,
            world,
            clients,
        }
    }

    fn socket(&self) -> PathBuf {
        self.clients.socket()
    }

    /// Runs a command line; its exit status, and what it says if it fails.
    async fn bulkhead(&self, words: &str) -> (u8, String) {
        let words = std::iter::once("bulkhead").chain(words.split(' '));
        let cli = Cli::try_parse_from(words).unwrap();
        let mut config = Config::default();
        config.paths.socket = self.socket();
        match on_daemon(cli.command, &config).await {
            Ok(status) | Err(Failure::Silent(status)) => (status, String::new()),
            Err(Failure::Told(error, status)) => (status, in_full(&error)),
        }
    }

    /// A running container's id.
    async fn container(&self, name: &str) -> String {
        let pod = self
            .node
            .pods
            .run(records::pod_config(name, 0), String::new())
            .await
            .unwrap();
        let config = records::container_config(name, 0, &["sleep"]);
        let id = self.node.pods.create(&pod, config).await.unwrap();
        self.node.pods.start(&id).await.unwrap();
        id
    }
}

#[tokio::test]
async fn run_ends_as_its_command_and_leaves_nothing() {
    let served = Served::start().await;
    let before = served.world.residue();
    for (program, arguments, status) in [
        ("true", "", 0),
        ("exit", " 7", 7),
        ("oom", "", 137),
        ("missing", "", 127),
    ] {
        let line = format!("run --no-tty --entrypoint {program} {IMAGE}{arguments}");
        assert_eq!(served.bulkhead(&line).await.0, status, "{line}");
        assert_eq!(served.world.residue(), before, "{line}");
        assert!(served.node.pods.model().pods().is_empty(), "{line}");
    }
}

#[tokio::test]
async fn run_of_an_image_that_is_not_there_makes_no_pod() {
    let served = Served::start().await;
    let (status, said) = served.bulkhead("run --no-tty nothing").await;
    assert_eq!(status, RUNTIME_FAILED);
    assert!(said.contains("bulkhead image import"), "{said}");
    assert!(served.node.pods.model().pods().is_empty());
}

#[tokio::test]
async fn export_writes_a_file_or_says_why_not() {
    let served = Served::start().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("words.tar");
    let line = format!("image export --output {} {IMAGE}", file.display());
    let (status, said) = served.bulkhead(&line).await;
    assert_eq!(status, 0, "{said}");
    let written = std::fs::read(&file).unwrap();
    assert!(!written.is_empty() && written.starts_with(IMAGE.as_bytes()));
    std::fs::remove_file(&file).unwrap();
    let line = format!("image export --output {} none:1", file.display());
    let (status, said) = served.bulkhead(&line).await;
    assert!(status != 0 && said.contains("none:1"), "{status} {said}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn run_removes_its_pod_wherever_it_fails() {
    let served = Served::start().await;
    let before = served.world.residue();
    for point in 0.. {
        served.world.faults.set(Mode::FailAt(point));
        let line = format!("run --no-tty --entrypoint true {IMAGE}");
        let (status, said) = served.bulkhead(&line).await;
        let hit = served.world.faults.hit();
        served.world.faults.set(Mode::Pass);
        assert_eq!(served.world.residue(), before, "after {hit:?}: {said}");
        let Some(hit) = hit else {
            assert_eq!(status, 0, "nothing failed: {said}");
            assert!(point > 5, "there are many places to fail at");
            return;
        };
        // Some effects may fail without harm; otherwise the reason is told.
        assert!(status == 0 || !said.is_empty(), "{hit}: {status}");
    }
}

#[tokio::test]
async fn exec_finds_its_container_by_name_and_by_the_beginning_of_its_id() {
    let served = Served::start().await;
    let id = served.container("web").await;
    let short = &id[..8];
    for (line, status) in [
        ("exec web true".to_owned(), 0),
        (format!("exec {short} exit 9"), 9),
        (format!("exec {id} missing"), 127),
        ("exec nobody true".to_owned(), RUNTIME_FAILED),
    ] {
        let (found, said) = served.bulkhead(&line).await;
        assert_eq!(found, status, "{line}: {said}");
    }
}

#[tokio::test]
async fn lists_and_versions_are_printed() {
    let served = Served::start().await;
    served.container("web").await;
    for line in [
        "ps",
        "ps -a -o json",
        "image ls -o yaml",
        "version",
        "ps --timings web",
    ] {
        let (status, said) = served.bulkhead(line).await;
        assert_eq!(status, 0, "{line}: {said}");
    }
    let (status, said) = served.bulkhead("ps --timings nobody").await;
    assert!(status == FAILED && said.contains("no pod"), "{said}");
}

#[tokio::test]
async fn an_image_is_removed_once() {
    let served = Served::start().await;
    assert_eq!(served.bulkhead("image rm words").await, (0, String::new()));
    let (status, said) = served.bulkhead("image rm words").await;
    assert!(
        status == FAILED && said.contains("there is no image"),
        "{said}"
    );
}

#[tokio::test]
async fn importing_what_cannot_be_read_says_so() {
    let served = Served::start().await;
    let (status, said) = served.bulkhead("image import /nonexistent.tar").await;
    assert!(
        status == FAILED && said.contains("/nonexistent.tar"),
        "{said}"
    );
}

#[test]
fn causes_are_told_once() {
    let cause = || io::Error::other("disk on fire");
    let error = anyhow::Error::from(cause()).context("cannot write");
    assert_eq!(in_full(&error), "cannot write: disk on fire");
    let quoting = anyhow::Error::from(cause()).context("cannot write: disk on fire; buy one");
    assert_eq!(in_full(&quoting), "cannot write: disk on fire; buy one");
}

#[test]
fn a_reader_that_has_gone_is_no_failure_to_tell() {
    let broken: Result<(), io::Error> = Err(io::ErrorKind::BrokenPipe.into());
    let failure = Failure::from(broken.context("print").unwrap_err());
    assert!(matches!(failure, Failure::Silent(READER_GONE)));
}

#[test]
fn failures_of_the_runtime_have_their_own_status() {
    let failure = Failure::from(anyhow::anyhow!("x")).of_runtime();
    assert!(matches!(failure, Failure::Told(_, RUNTIME_FAILED)));
    let failure = Failure::Told(anyhow::anyhow!("x"), 127).of_runtime();
    assert!(matches!(failure, Failure::Told(_, 127)));
}
