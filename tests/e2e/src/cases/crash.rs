//! Processes that are killed: the daemon at any step, the VMM.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bulkhead_cri_api::v1 as cri;

use super::{apart, clean, clean_after_restart, look, node};
use bulkhead_e2e::{
    node::{Node, PATIENCE, Programs},
    pod::{Pod, container_config, pod_config},
};

/// Kills the daemon at a sweep of moments in a create, from the request's arrival
/// to after its answer. Afterwards the pod (and the container) is whole or gone,
/// and the same request, sent again as kubelet does, succeeds.
pub(crate) async fn daemon_killed_at_each_step(programs: &Programs) -> Result<()> {
    let sweep = Sweep {
        name: "sweep",
        handler: "",
        sandbox: 13,
        container: 9,
    };
    sweep
        .run(programs, |node, name| pod_config(node, name, 0))
        .await
}

/// The same without virtual machines, at many more moments.
pub(crate) async fn daemon_killed_at_many_moments(programs: &Programs) -> Result<()> {
    let times = if apart() { 6 } else { 1 };
    let sweep = Sweep {
        name: "sweep-many",
        handler: "",
        sandbox: 8 * times,
        container: 4 * times,
    };
    sweep
        .run(&programs.without_vms(), |node, name| {
            pod_config(node, name, 0)
        })
        .await
}

/// At how many moments of a create the daemon is killed.
pub(super) struct Sweep {
    pub(super) name: &'static str,
    pub(super) handler: &'static str,
    /// Moments of RunPodSandbox, the last of them right after the answer.
    pub(super) sandbox: u32,
    /// Moments of CreateContainer and StartContainer, likewise.
    pub(super) container: u32,
}

impl Sweep {
    /// Does it; `config_of` gives a pod's configuration by its name.
    pub(super) async fn run(
        self,
        programs: &Programs,
        config_of: impl Fn(&Node, &str) -> cri::PodSandboxConfig,
    ) -> Result<()> {
        let handler = self.handler;
        let (mut node, _) = node(programs, self.name, "").await?;

        // How long an undisturbed create takes here sets the sweep's scale.
        let began = Instant::now();
        let mut pod = Pod::run_as(&node, config_of(&node, "calibrate"), handler).await?;
        let run = began.elapsed();
        let began = Instant::now();
        pod.sh("c", "exec sleep 100000").await?;
        let start = began.elapsed();
        pod.remove().await?;
        let world = look(&node)?;

        let mut whole = 0;
        let mut gone = 0;
        for step in 0..self.sandbox {
            // They reach a little beyond the create's usual end; the last kill comes right
            // after the answer, however long that takes.
            let last = self.sandbox - 1;
            let delay = if step == last {
                PATIENCE
            } else {
                run * 3 / 2 * step / last
            };
            let name = format!("sweep-{step}");
            let config = config_of(&node, &name);
            kill_during(&mut node, delay, async |node: &Node| {
                let pod = Pod::run_as(node, config.clone(), handler).await;
                pod.map(drop)
            })
            .await?;
            let found = listed(&node, &name).await?;
            ensure!(
                found.is_some() || step < last,
                "a pod that was reported ready is gone"
            );
            match found {
                Some(id) => {
                    whole += 1;
                    let mut pod = Pod::attach(&node, id, config.clone());
                    let id = pod.sh("probe", "echo alive").await?;
                    ensure!(pod.exited(&id, PATIENCE).await?.exit_code == 0);
                    ensure!(pod.output("probe", "stdout")? == "alive\n");
                }
                None => gone += 1,
            }
            let mut pod = Pod::run_as(&node, config, handler).await?;
            pod.remove().await?;
            let differences = world.but_for_the_daemon(&look(&node)?);
            ensure!(differences.is_empty(), "step {step}: {differences:#?}");
        }
        println!("    sandbox creates: {whole} whole, {gone} gone after {run:.1?} of create");
        // The first kill comes before anything is done.
        ensure!(gone > 1, "the sweep missed the create");

        let mut pod = Pod::run_as(&node, config_of(&node, "whole"), handler).await?;
        for step in 0..self.container {
            let last = self.container - 1;
            let delay = if step == last {
                PATIENCE
            } else {
                start * 4 / 3 * step / last
            };
            let config = container_config(&format!("c{step}"), "echo up; exec sleep 100000");
            let pod_id = pod.id.clone();
            let sandbox = pod.config.clone();
            let request = config.clone();
            kill_during(&mut node, delay, async |node: &Node| {
                let mut pod = Pod::attach(node, pod_id.clone(), sandbox.clone());
                let id = pod.create(request.clone()).await?;
                pod.start(&id).await?;
                Ok(())
            })
            .await?;
            ensure!(
                pod.pod_status().await?.state() == cri::PodSandboxState::SandboxReady,
                "step {step}: the pod did not survive"
            );
            // Whole or gone: creating again joins or makes it, and it can be run.
            let id = pod.create(config).await?;
            if pod.status(&id).await?.state() == cri::ContainerState::ContainerCreated {
                pod.start(&id).await?;
            }
            let answer = pod.exec(&id, "echo in").await?;
            ensure!(answer.stdout.as_ref() == b"in\n", "step {step}: {answer:?}");
            pod.stop_container(&id, 0).await?;
            pod.remove_container(&id).await?;
        }
        pod.remove().await?;
        clean_after_restart(node, &world).await
    }
}

/// Starts `work`, kills the daemon after `delay`, and starts it again.
async fn kill_during(
    node: &mut Node,
    delay: Duration,
    work: impl AsyncFn(&Node) -> Result<()>,
) -> Result<()> {
    {
        let under_way = work(node);
        tokio::pin!(under_way);
        tokio::select! {
            _ = &mut under_way => {}
            () = tokio::time::sleep(delay) => {}
        }
    }
    node.kill().await?;
    node.start().await.context("starting again after the kill")
}

async fn listed(node: &Node, name: &str) -> Result<Option<String>> {
    let mut runtime = node.runtime();
    let list = runtime
        .list_pod_sandbox(cri::ListPodSandboxRequest::default())
        .await?
        .into_inner()
        .items;
    Ok(list
        .into_iter()
        .find(|pod| pod.metadata.as_ref().is_some_and(|m| m.name == name))
        .map(|pod| pod.id))
}

/// Three kills while a container logs as fast as it can: every line is there once.
pub(crate) async fn daemon_killed_under_a_fast_log(programs: &Programs) -> Result<()> {
    let (mut node, world) = node(programs, "fastlog", "").await?;
    let mut pod = Pod::run(&node, "fastlog").await?;
    let lines = 60_000;
    let id = pod
        .sh("c", &format!("seq 1 {lines}; echo done >&2; exit 5"))
        .await?;
    for kill in 0..3 {
        tokio::time::sleep(Duration::from_millis(300 + 200 * kill)).await;
        node.kill().await?;
        node.start().await?;
    }
    let status = pod.exited(&id, PATIENCE).await?;
    ensure!(status.exit_code == 5, "{status:?}");
    let output = pod.output("c", "stdout")?;
    let mut expected = 1;
    for line in output.lines() {
        ensure!(
            line == expected.to_string(),
            "line {expected} of the log is {line:?}"
        );
        expected += 1;
    }
    ensure!(
        expected == lines + 1,
        "the log ends after {} lines",
        expected - 1
    );
    ensure!(pod.output("c", "stderr")? == "done\n");
    pod.remove().await?;
    clean_after_restart(node, &world).await
}

/// A container that ends while no daemon runs: its last words and its exit code
/// are there when one does.
pub(crate) async fn exits_during_an_outage_are_kept(programs: &Programs) -> Result<()> {
    let (mut node, _) = node(programs, "outage", "").await?;
    let mut pod = Pod::run(&node, "outage").await?;
    let id = pod.sh("c", "sleep 2; echo last words; exit 42").await?;
    node.kill().await?;
    tokio::time::sleep(Duration::from_secs(5)).await;
    node.start().await?;
    let status = pod.exited(&id, PATIENCE).await?;
    ensure!(status.exit_code == 42, "{status:?}");
    ensure!(pod.output("c", "stdout")? == "last words\n");
    pod.remove().await?;
    node.stop().await
}

/// A killed VMM: the pod is NOTREADY and its container EXITED at once, and what
/// is left can be removed.
pub(crate) async fn vmm_killed(programs: &Programs) -> Result<()> {
    let (node, world) = node(programs, "vmmkill", "").await?;
    let mut pod = Pod::run(&node, "victim").await?;
    let id = pod.sh("c", "exec sleep 100000").await?;
    let mut killed = 0;
    for entry in std::fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|n| n.parse::<i32>().ok())
        else {
            continue;
        };
        let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        // Its first argument is a title: the program and the pod.
        if command.starts_with(format!("bulkhead-vmm {}", pod.id).as_bytes()) {
            let pid = nix::unistd::Pid::from_raw(pid);
            nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?;
            killed += 1;
        }
    }
    ensure!(killed > 0, "no VMM was found");
    let status = pod.exited(&id, PATIENCE).await?;
    ensure!(status.exit_code != 0, "{status:?}");
    ensure!(!status.reason.is_empty(), "{status:?}");
    ensure!(pod.pod_status().await?.state() == cri::PodSandboxState::SandboxNotready);
    let exec = pod.exec_within(&id, &["/bin/true"], 5).await;
    ensure!(exec.is_err(), "exec in a dead pod: {exec:?}");
    pod.remove().await?;
    clean(node, &world).await
}
