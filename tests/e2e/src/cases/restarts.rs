//! A daemon that is killed and restarted again and again under a pod at work.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail, ensure};
use bulkhead_cri_api::v1 as cri;

use super::{clean_after_restart, node};
use crate::demo::http_get;
use bulkhead_e2e::{
    node::{Node, PATIENCE, Programs},
    pod::Pod,
};

const RESTARTS: u32 = 50;

/// Serves a page, and says so once in a while.
const SERVE: &str = "httpd -f -p 80 -h /www & \
    i=0; trap 'exit 7' TERM; while :; do i=$((i+1)); echo line $i; sleep 0.02; done";

/// No request to the pod fails, its log is whole, an exec works after each restart,
/// and nobody who asks is ever told that it is not ready.
pub(crate) async fn fifty_under_a_busy_pod(programs: &Programs) -> Result<()> {
    let (mut node, world) = node(programs, "restarts", "").await?;
    let mut pod = Pod::run(&node, "busy").await?;
    let id = pod.sh("c", SERVE).await?;
    let up = "until wget -q -O - http://127.0.0.1/; do sleep 0.1; done";
    pod.exec(&id, up).await?;

    let client = Client::start(pod.address().await?);
    for restart in 1..=RESTARTS {
        // Kills fall into every moment of what a start does.
        tokio::time::sleep(Duration::from_millis(u64::from(restart * 37 % 200))).await;
        node.kill().await?;
        node.start().await?;
        seen_as_running(&node, &pod, &id)
            .await
            .with_context(|| format!("after restart {restart}"))?;
        let answer = pod.exec(&id, "echo in").await?;
        ensure!(answer.stdout.as_ref() == b"in\n", "{answer:?}");
    }
    let answered = client.finish()?;
    ensure!(answered > 0, "the client asked for nothing");

    pod.stop_container(&id, 30).await?;
    let status = pod.exited(&id, PATIENCE).await?;
    ensure!(status.exit_code == 7, "{status:?}");
    let output = pod.output("c", "stdout")?;
    for (index, line) in output.lines().enumerate() {
        let expected = format!("line {}", index + 1);
        ensure!(line == expected, "{expected:?} of the log is {line:?}");
    }
    println!(
        "    {RESTARTS} restarts, {answered} requests answered, {} lines whole",
        output.lines().count()
    );
    pod.remove().await?;
    clean_after_restart(node, &world).await
}

/// What kubelet would see of it.
async fn seen_as_running(node: &Node, pod: &Pod, container: &str) -> Result<()> {
    let mut runtime = node.runtime();
    let request = cri::ListPodSandboxRequest::default();
    let pods = runtime.list_pod_sandbox(request).await?.into_inner().items;
    ensure!(
        pods.iter()
            .any(|it| it.id == pod.id && it.state() == cri::PodSandboxState::SandboxReady),
        "{pods:?}"
    );
    let request = cri::ListContainersRequest::default();
    let containers = runtime.list_containers(request).await?.into_inner();
    ensure!(
        containers
            .containers
            .iter()
            .any(|it| it.id == container && it.state() == cri::ContainerState::ContainerRunning),
        "{containers:?}"
    );
    Ok(())
}

/// Asks a pod's server for its page, again and again, on a thread of its own.
struct Client {
    stop: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<Result<()>>,
}

impl Client {
    fn start(address: std::net::IpAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answered = Arc::new(AtomicU64::new(0));
        let (ends, counts) = (stop.clone(), answered.clone());
        let thread = std::thread::spawn(move || {
            while !ends.load(Ordering::Relaxed) {
                let page = http_get((address, 80).into())?;
                ensure!(page == "hello from a pod\n", "{page:?}");
                counts.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(50));
            }
            Ok(())
        });
        Self {
            stop,
            answered,
            thread,
        }
    }

    /// How many requests were answered; an error if one was not.
    fn finish(self) -> Result<u64> {
        self.stop.store(true, Ordering::Relaxed);
        match self.thread.join() {
            Ok(outcome) => outcome.context("a request to the pod failed")?,
            Err(_) => bail!("the client panicked"),
        }
        Ok(self.answered.load(Ordering::Relaxed))
    }
}
