//! Carries operations out on a node, and tells the model.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use bulkhead_cri_api::v1::{self as cri, ContainerState, runtime_service_client};
use tonic::{Status, transport::Channel};

use bulkhead_e2e::{
    node::{Node, PATIENCE},
    pod::{container_config, pod_config},
};

use super::{
    expected::{Container, Expected, Pod, lines_of_containers, lines_of_pods},
    nonsense,
    operation::Operation,
};

/// How long a state may take to be seen that nobody waits for: an exit, a death.
const SOON: Duration = Duration::from_secs(60);

type Client = runtime_service_client::RuntimeServiceClient<Channel>;

/// A node and what it should say.
pub(super) struct Driver {
    node: Node,
    handler: String,
    expected: Expected,
}

fn script(short: bool) -> &'static str {
    if short { "exit 5" } else { "exec sleep 100000" }
}

async fn run(mut client: Client, request: cri::RunPodSandboxRequest) -> Result<String, Status> {
    let response = client.run_pod_sandbox(request).await?;
    Ok(response.into_inner().pod_sandbox_id)
}

async fn create(
    mut client: Client,
    request: cri::CreateContainerRequest,
) -> Result<String, Status> {
    let response = client.create_container(request).await?;
    Ok(response.into_inner().container_id)
}

async fn start(mut client: Client, container_id: String) -> Result<(), Status> {
    let request = cri::StartContainerRequest { container_id };
    client.start_container(request).await.map(drop)
}

async fn remove(mut client: Client, container_id: String) -> Result<(), Status> {
    let request = cri::RemoveContainerRequest { container_id };
    client.remove_container(request).await.map(drop)
}

async fn stop_pod(mut client: Client, pod_sandbox_id: String) -> Result<(), Status> {
    let request = cri::StopPodSandboxRequest { pod_sandbox_id };
    client.stop_pod_sandbox(request).await.map(drop)
}

async fn remove_pod(mut client: Client, pod_sandbox_id: String) -> Result<(), Status> {
    let request = cri::RemovePodSandboxRequest { pod_sandbox_id };
    client.remove_pod_sandbox(request).await.map(drop)
}

/// A refusal that a client can act on; anything else is a fault of the node.
fn refused<T: std::fmt::Debug>(result: Result<T, Status>) -> Result<()> {
    match result {
        Ok(value) => bail!("accepted: {value:?}"),
        Err(status) => nonsense::is_a_refusal(&status),
    }
}

impl Driver {
    pub(super) fn new(node: Node, handler: String) -> Self {
        Self {
            node,
            handler,
            expected: Expected::default(),
        }
    }

    pub(super) fn node(&self) -> &Node {
        &self.node
    }

    fn client(&self) -> Client {
        self.node.runtime()
    }

    fn run_request(&self, p: u8) -> cri::RunPodSandboxRequest {
        cri::RunPodSandboxRequest {
            config: Some(pod_config(&self.node, &format!("model-{p}"), 0)),
            runtime_handler: self.handler.clone(),
        }
    }

    fn create_request(&self, p: u8, c: u8, short: bool) -> cri::CreateContainerRequest {
        cri::CreateContainerRequest {
            pod_sandbox_id: self.expected.pod_id(p),
            config: Some(container_config(&format!("c{c}"), script(short))),
            sandbox_config: self.run_request(p).config,
        }
    }

    /// Carries one out, then compares the node with the model.
    pub(super) async fn apply(&mut self, operation: &Operation) -> Result<()> {
        match *operation {
            Operation::Run(p) => self.run(p).await?,
            Operation::RunOther(p) => self.run_other(p).await?,
            Operation::RunGivenUp(p, wait) => {
                {
                    let given_up = run(self.client(), self.run_request(p));
                    let _ = tokio::time::timeout(Duration::from_millis(wait), given_up).await;
                }
                self.run(p).await?;
            }
            Operation::StopPod(p) => {
                stop_pod(self.client(), self.expected.pod_id(p)).await?;
                if let Some(pod) = self.expected.pods.get_mut(&p) {
                    pod.end();
                }
            }
            Operation::RemovePod(p) => {
                remove_pod(self.client(), self.expected.pod_id(p)).await?;
                self.expected.pods.remove(&p);
            }
            Operation::Create(p, c, short) => self.create(p, c, short).await?,
            Operation::CreateTwice(p, c) => {
                let request = self.create_request(p, c, false);
                let (one, two) = tokio::join!(
                    create(self.client(), request.clone()),
                    create(self.client(), request)
                );
                match (&one, &two) {
                    (Ok(one), Ok(two)) => ensure!(one == two, "two containers of one key"),
                    (Err(_), Err(_)) => {}
                    _ => bail!("one of two equal creates failed: {one:?}, {two:?}"),
                }
                self.created(p, c, false, one)?;
            }
            Operation::Start(p, c) => {
                let id = self.expected.container_id(p, c);
                let result = start(self.client(), id).await;
                self.started(p, c, result).await?;
            }
            Operation::StartTwice(p, c) => {
                let id = self.expected.container_id(p, c);
                let (one, two) =
                    tokio::join!(start(self.client(), id.clone()), start(self.client(), id));
                self.started(p, c, one.or(two)).await?;
            }
            Operation::Stop(p, c) => {
                let request = cri::StopContainerRequest {
                    container_id: self.expected.container_id(p, c),
                    timeout: 0,
                };
                self.client().stop_container(request).await?;
                if let Some(container) = self.expected.container(p, c)
                    && container.state == ContainerState::ContainerRunning
                {
                    container.state = ContainerState::ContainerExited;
                }
            }
            Operation::Remove(p, c) => {
                let id = self.expected.container_id(p, c);
                remove(self.client(), id).await?;
                self.removed(p, c);
            }
            Operation::RemoveWhileStarting(p, c) => {
                let id = self.expected.container_id(p, c);
                // Whether it started first is nobody's business.
                let (_, removal) =
                    tokio::join!(start(self.client(), id.clone()), remove(self.client(), id));
                removal?;
                self.removed(p, c);
            }
            Operation::StopWhileCreating(p, c) => self.stop_while_creating(p, c).await?,
            Operation::Exec(p, c) => self.exec(p, c).await?,
            Operation::Filters(p) => self.filters(p).await?,
            Operation::Nonsense(which) => {
                let pod = self.expected.pod_id(p_of(which));
                nonsense::send(self.client(), which, &pod, self.run_request(p_of(which))).await?;
            }
            Operation::KillVmm(p) => self.kill_vmm(p).await?,
            Operation::Restart => self.restart().await?,
            Operation::RestartWhileRunning(p, wait) => {
                let under_way = tokio::spawn(run(self.client(), self.run_request(p)));
                tokio::time::sleep(Duration::from_millis(wait)).await;
                self.restart().await?;
                let _ = under_way.await?;
                self.run(p).await?;
            }
            Operation::RestartWhileCreating(p, c, wait) => {
                let request = self.create_request(p, c, false);
                let under_way = tokio::spawn(create(self.client(), request));
                tokio::time::sleep(Duration::from_millis(wait)).await;
                self.restart().await?;
                let _ = under_way.await?;
                self.create(p, c, false).await?;
            }
        }
        self.compare().await
    }

    async fn run(&mut self, p: u8) -> Result<()> {
        let result = run(self.client(), self.run_request(p)).await;
        match self.expected.pods.get(&p) {
            Some(pod) if pod.ready => {
                let id = result.context("joining a pod that is ready")?;
                ensure!(id == pod.id, "a second pod of one key: {id}");
            }
            Some(_) => refused(result)?,
            None => {
                let id = result.context("RunPodSandbox")?;
                self.expected.pods.insert(p, Pod::new(id));
            }
        }
        Ok(())
    }

    async fn run_other(&mut self, p: u8) -> Result<()> {
        if !self.expected.pods.contains_key(&p) {
            return Ok(());
        }
        let mut request = self.run_request(p);
        if let Some(config) = &mut request.config {
            config.labels.insert("other".to_owned(), "yes".to_owned());
        }
        refused(run(self.client(), request).await)
    }

    async fn create(&mut self, p: u8, c: u8, short: bool) -> Result<()> {
        let result = create(self.client(), self.create_request(p, c, short)).await;
        self.created(p, c, short, result)
    }

    fn created(&mut self, p: u8, c: u8, short: bool, result: Result<String, Status>) -> Result<()> {
        let Some(pod) = self.expected.pods.get_mut(&p).filter(|pod| pod.ready) else {
            return refused(result);
        };
        match pod.containers.get(&c) {
            Some(container) if container.short == short => {
                let id = result.context("joining a container that is there")?;
                ensure!(id == container.id, "a second container of one key: {id}");
            }
            Some(_) => refused(result)?,
            None => {
                let id = result.context("CreateContainer")?;
                let state = ContainerState::ContainerCreated;
                pod.containers.insert(c, Container { id, short, state });
            }
        }
        Ok(())
    }

    async fn started(&mut self, p: u8, c: u8, result: Result<(), Status>) -> Result<()> {
        match self.expected.container(p, c) {
            Some(container) if container.state == ContainerState::ContainerCreated => {
                result.context("StartContainer")?;
                let (id, short) = (container.id.clone(), container.short);
                container.state = if short {
                    ContainerState::ContainerExited
                } else {
                    ContainerState::ContainerRunning
                };
                if short {
                    self.exits_with_5(&id).await?;
                }
                Ok(())
            }
            _ => refused(result),
        }
    }

    async fn exits_with_5(&self, id: &str) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let request = cri::ContainerStatusRequest {
                container_id: id.to_owned(),
                verbose: false,
            };
            let response = self.client().container_status(request).await?.into_inner();
            let status = response.status.context("no status")?;
            if status.state() == ContainerState::ContainerExited {
                ensure!(
                    status.exit_code == 5
                        && status.created_at <= status.started_at
                        && status.started_at <= status.finished_at,
                    "{status:?}"
                );
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "has not exited: {status:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    fn removed(&mut self, p: u8, c: u8) {
        if let Some(pod) = self.expected.pods.get_mut(&p) {
            pod.containers.remove(&c);
        }
    }

    async fn stop_while_creating(&mut self, p: u8, c: u8) -> Result<()> {
        let request = self.create_request(p, c, false);
        let (created, stopped) = tokio::join!(
            create(self.client(), request),
            stop_pod(self.client(), self.expected.pod_id(p))
        );
        stopped?;
        let Some(pod) = self.expected.pods.get_mut(&p) else {
            return refused(created);
        };
        pod.end();
        // Made before the pod ended, or not at all: the answer says which.
        if let Ok(id) = created
            && !pod.containers.contains_key(&c)
        {
            let container = Container {
                id,
                short: false,
                state: ContainerState::ContainerExited,
            };
            pod.containers.insert(c, container);
        }
        Ok(())
    }

    async fn exec(&mut self, p: u8, c: u8) -> Result<()> {
        let request = cri::ExecSyncRequest {
            container_id: self.expected.container_id(p, c),
            cmd: ["sh", "-c", "echo in; exit 3"].map(str::to_owned).into(),
            timeout: 0,
        };
        let result = self.client().exec_sync(request).await;
        match self.expected.container(p, c) {
            Some(container) if container.state == ContainerState::ContainerRunning => {
                let answer = result.context("ExecSync")?.into_inner();
                ensure!(
                    answer.exit_code == 3 && answer.stdout.as_ref() == b"in\n",
                    "{answer:?}"
                );
                Ok(())
            }
            _ => refused(result),
        }
    }

    async fn filters(&mut self, p: u8) -> Result<()> {
        let id = self.expected.pod_id(p);
        let there = usize::from(self.expected.pods.contains_key(&p));
        let containers = self.expected.pods.get(&p).map(|pod| pod.containers.len());
        let label = [("app".to_owned(), format!("model-{p}"))];
        for filter in [
            cri::PodSandboxFilter {
                id: id.clone(),
                ..Default::default()
            },
            cri::PodSandboxFilter {
                label_selector: label.into(),
                ..Default::default()
            },
        ] {
            let request = cri::ListPodSandboxRequest {
                filter: Some(filter),
            };
            let items = self.client().list_pod_sandbox(request).await?.into_inner();
            ensure!(
                items.items.len() == there && items.items.iter().all(|it| it.id == id),
                "{items:?}"
            );
        }
        let request = cri::ListContainersRequest {
            filter: Some(cri::ContainerFilter {
                pod_sandbox_id: id.clone(),
                ..Default::default()
            }),
        };
        let listed = self.client().list_containers(request).await?.into_inner();
        ensure!(
            listed.containers.len() == containers.unwrap_or(0),
            "{listed:?}"
        );
        Ok(())
    }

    async fn kill_vmm(&mut self, p: u8) -> Result<()> {
        let Some(pod) = self.expected.pods.get_mut(&p).filter(|pod| pod.ready) else {
            return Ok(());
        };
        let request = cri::PodSandboxStatusRequest {
            pod_sandbox_id: pod.id.clone(),
            verbose: true,
        };
        let mut client = self.node.runtime();
        let response = client.pod_sandbox_status(request).await?.into_inner();
        let text = response.info.get("info").context("no verbose status")?;
        let facts: serde_json::Value = serde_json::from_str(text)?;
        let pid = facts
            .pointer("/sandbox/vmmPid")
            .or_else(|| facts.pointer("/sandbox/agentPid"))
            .and_then(serde_json::Value::as_i64)
            .with_context(|| format!("no process in the verbose status: {facts}"))?;
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid)?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?;
        pod.end();
        Ok(())
    }

    async fn restart(&mut self) -> Result<()> {
        self.node.kill().await?;
        self.node.start().await.context("starting again")
    }

    /// The node's lists say what the model says, at once or soon.
    async fn compare(&self) -> Result<()> {
        let deadline = Instant::now() + SOON;
        loop {
            let request = cri::ListPodSandboxRequest::default();
            let pods = self.client().list_pod_sandbox(request).await?.into_inner();
            let request = cri::ListContainersRequest::default();
            let containers = self.client().list_containers(request).await?.into_inner();
            let listed = (
                lines_of_pods(&pods.items),
                lines_of_containers(&containers.containers),
            );
            let expected = (self.expected.pod_lines(), self.expected.container_lines());
            if listed == expected {
                return Ok(());
            }
            ensure!(
                Instant::now() < deadline,
                "the node says\n{listed:#?}\nand the model\n{expected:#?}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Removes everything.
    pub(super) async fn finish(self) -> Result<Node> {
        for pod in self.expected.pods.values() {
            remove_pod(self.client(), pod.id.clone()).await?;
        }
        let request = cri::ListContainersRequest::default();
        let left = self.client().list_containers(request).await?.into_inner();
        ensure!(left.containers.is_empty(), "left: {left:?}");
        Ok(self.node)
    }
}

/// Any slot.
fn p_of(which: u64) -> u8 {
    u8::try_from(which >> 32 & 3).unwrap_or(0)
}
