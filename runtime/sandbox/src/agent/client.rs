//! Calls to the guest agent: one ttrpc connection, made when first used and anew
//! after it broke; every call has a deadline and ends when the sandbox does.

use std::{future::Future, time::Duration};

use bulkhead_agent_api::{AGENT_PORT, agent, agent_ttrpc::AgentClient};
use tokio::{
    sync::{Mutex, watch},
    time::{Instant, sleep, timeout_at},
};
use ttrpc::{asynchronous::transport::Socket, context::Context};

use super::{Dialer, reply, reply::Lifetime};
use crate::{
    clock,
    error::{Error, ErrorKind, Result},
    rpc,
    spec::{ContainerStats, Exit, GuestStats, Process, ProcessId, SandboxExit},
};

/// First and longest pause before a call is tried again on a new connection.
const RETRY: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// May a call be made twice?
#[derive(Clone, Copy, PartialEq, Eq)]
enum Repeat {
    /// A second one changes nothing: tried again when the connection breaks.
    Safe,
    /// It would do it twice: an error tells the caller that nobody knows.
    Never,
}

/// The agent of one guest.
#[derive(Debug)]
pub struct Agent {
    dialer: Dialer,
    deadline: Duration,
    started_unix_ns: i64,
    exited: watch::Receiver<Option<SandboxExit>>,
    connection: Mutex<Slot>,
}

/// The connection under way, and how many there were: so that a call that failed
/// on an old one does not close its successor.
#[derive(Default)]
struct Slot {
    client: Option<AgentClient>,
    generation: u64,
}

impl std::fmt::Debug for Slot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Slot({}, {})", self.client.is_some(), self.generation)
    }
}

impl Agent {
    /// The agent behind `dialer`, of a sandbox started at `started_unix_ns`.
    #[must_use]
    pub fn new(
        dialer: Dialer,
        deadline: Duration,
        started_unix_ns: i64,
        exited: watch::Receiver<Option<SandboxExit>>,
    ) -> Self {
        Self {
            dialer,
            deadline,
            started_unix_ns,
            exited,
            connection: Mutex::default(),
        }
    }

    /// Reaches the guest's other ports.
    #[must_use]
    pub fn dialer(&self) -> &Dialer {
        &self.dialer
    }

    /// Between which times the guest's events lie, as of now.
    #[must_use]
    pub fn lifetime(&self) -> Lifetime {
        Lifetime {
            from_unix_ns: self.started_unix_ns,
            now_unix_ns: clock::unix_ns(),
        }
    }

    /// The error of a call to a sandbox that has ended, once it has.
    pub async fn sandbox_dead(&self) -> Error {
        let mut exited = self.exited.clone();
        let message = match exited.wait_for(Option::is_some).await {
            Ok(exit) => exit.as_ref().map(|exit| exit.message.clone()),
            Err(_) => None,
        };
        let message = message.unwrap_or_else(|| "the sandbox has ended".to_owned());
        Error::new(ErrorKind::SandboxDead, message)
    }

    /// Whether the sandbox is known to have ended.
    #[must_use]
    pub fn exit_known(&self) -> bool {
        self.exited.borrow().is_some()
    }

    async fn client(&self) -> std::io::Result<(AgentClient, u64)> {
        let mut slot = self.connection.lock().await;
        if let Some(client) = &slot.client {
            return Ok((client.clone(), slot.generation));
        }
        let stream = self.dialer.dial(AGENT_PORT).await?;
        let client = AgentClient::new(ttrpc::asynchronous::Client::new(Socket::new(stream)));
        slot.client = Some(client.clone());
        slot.generation += 1;
        Ok((client, slot.generation))
    }

    async fn forget_connection(&self, generation: u64) {
        let mut slot = self.connection.lock().await;
        if slot.generation == generation {
            slot.client = None;
        }
    }

    /// Makes a call. `deadline` of `None` waits as long as the sandbox lives.
    async fn call<T, F, Fut>(
        &self,
        name: &str,
        repeat: Repeat,
        deadline: Option<Duration>,
        make: F,
    ) -> Result<T>
    where
        F: Fn(AgentClient, Context) -> Fut + Send + Sync,
        Fut: Future<Output = ttrpc::Result<T>> + Send,
    {
        tokio::select! {
            biased;
            result = self.call_until(name, repeat, deadline, make) => result,
            dead = self.sandbox_dead() => Err(dead),
        }
    }

    async fn call_until<T, F, Fut>(
        &self,
        name: &str,
        repeat: Repeat,
        deadline: Option<Duration>,
        make: F,
    ) -> Result<T>
    where
        F: Fn(AgentClient, Context) -> Fut + Send + Sync,
        Fut: Future<Output = ttrpc::Result<T>> + Send,
    {
        let late = || {
            Error::new(
                ErrorKind::DeadlineExceeded,
                format!("the guest agent did not answer {name} in time"),
            )
        };
        let until = deadline.map(|d| Instant::now() + d);
        let mut pause = RETRY.0;
        loop {
            let attempt = async {
                let (client, generation) = match self.client().await {
                    Ok(connected) => connected,
                    Err(e) => {
                        let e = Error::new(ErrorKind::Internal, "cannot reach the guest agent")
                            .caused_by(e);
                        // Nothing was sent: trying again is safe for every call.
                        return Err((e, true));
                    }
                };
                let left = until.map(|until| until.saturating_duration_since(Instant::now()));
                let context = left.map_or_else(Context::default, ttrpc::context::with_duration);
                match make(client, context).await {
                    Ok(reply) => Ok(reply),
                    Err(e) => {
                        let broken = rpc::is_transport(&e);
                        if broken {
                            self.forget_connection(generation).await;
                        }
                        let again = broken && repeat == Repeat::Safe;
                        Err((rpc::error("guest agent", name, &e), again))
                    }
                }
            };
            let result = match until {
                Some(until) => timeout_at(until, attempt).await.map_err(|_| late())?,
                None => attempt.await,
            };
            match result {
                Ok(reply) => return Ok(reply),
                Err((e, false)) => return Err(e),
                Err((e, true)) => {
                    if until.is_some_and(|until| Instant::now() + pause >= until) {
                        return Err(e);
                    }
                    sleep(pause).await;
                    pause = (pause * 2).min(RETRY.1);
                }
            }
        }
    }

    fn usual(&self) -> Option<Duration> {
        Some(self.deadline)
    }

    /// Who the agent is.
    ///
    /// # Errors
    /// As every call: the agent's own refusal, [`ErrorKind::DeadlineExceeded`], or
    /// [`ErrorKind::SandboxDead`].
    pub async fn info(&self, deadline: Duration) -> Result<agent::InfoResponse> {
        let reply = self
            .call(
                "Info",
                Repeat::Safe,
                Some(deadline),
                async |c: AgentClient, x| c.info(x, &agent::InfoRequest::new()).await,
            )
            .await?;
        Ok(reply::info(reply))
    }

    /// Configures the pod.
    ///
    /// # Errors
    /// See [`Agent::info`].
    pub async fn configure(&self, request: &agent::ConfigureSandboxRequest) -> Result<()> {
        self.call(
            "ConfigureSandbox",
            Repeat::Safe,
            self.usual(),
            async |c: AgentClient, x| c.configure_sandbox(x, request).await,
        )
        .await
        .map(drop)
    }

    /// Mixes a seed into the guest's entropy.
    ///
    /// # Errors
    /// See [`Agent::info`].
    pub async fn reseed(&self, seed: &[u8]) -> Result<()> {
        let request = agent::ReseedRandomRequest {
            seed: seed.to_vec(),
            ..Default::default()
        };
        self.call(
            "ReseedRandom",
            Repeat::Safe,
            self.usual(),
            async |c: AgentClient, x| c.reseed_random(x, &request).await,
        )
        .await
        .map(drop)
    }

    /// Waits for disks to appear in the guest and mounts them.
    ///
    /// # Errors
    /// See [`Agent::info`].
    pub async fn attach_layers(&self, serials: &[String]) -> Result<()> {
        let request = agent::AttachLayersRequest {
            serials: serials.to_vec(),
            ..Default::default()
        };
        self.call(
            "AttachLayers",
            Repeat::Safe,
            self.usual(),
            async |c: AgentClient, x| c.attach_layers(x, &request).await,
        )
        .await
        .map(drop)
    }

    /// Makes the guest let go of disks.
    ///
    /// # Errors
    /// See [`Agent::info`].
    pub async fn release_layers(&self, serials: &[String]) -> Result<()> {
        let request = agent::ReleaseLayersRequest {
            serials: serials.to_vec(),
            ..Default::default()
        };
        self.call(
            "ReleaseLayers",
            Repeat::Safe,
            self.usual(),
            async |c: AgentClient, x| c.release_layers(x, &request).await,
        )
        .await
        .map(drop)
    }

    /// Creates a container.
    ///
    /// # Errors
    /// See [`Agent::info`].
    pub async fn create_container(&self, request: &agent::CreateContainerRequest) -> Result<()> {
        self.call(
            "CreateContainer",
            Repeat::Never,
            self.usual(),
            async |c: AgentClient, x| c.create_container(x, request).await,
        )
        .await
        .map(drop)
    }

    /// Starts a container's program; returns its start time, Unix ns.
    ///
    /// # Errors
    /// See [`Agent::info`]; also the execve's own.
    pub async fn start_container(&self, container_id: &str) -> Result<i64> {
        let request = agent::StartContainerRequest {
            container_id: container_id.to_owned(),
            ..Default::default()
        };
        let reply = self
            .call(
                "StartContainer",
                Repeat::Never,
                self.usual(),
                async |c: AgentClient, x| c.start_container(x, &request).await,
            )
            .await?;
        Ok(self.lifetime().clamp(reply.started_unix_ns))
    }

    /// Removes a container.
    ///
    /// # Errors
    /// See [`Agent::info`].
    pub async fn remove_container(&self, container_id: &str) -> Result<()> {
        let request = agent::RemoveContainerRequest {
            container_id: container_id.to_owned(),
            ..Default::default()
        };
        self.call(
            "RemoveContainer",
            Repeat::Safe,
            self.usual(),
            async |c: AgentClient, x| c.remove_container(x, &request).await,
        )
        .await
        .map(drop)
    }

    /// Starts a further process.
    ///
    /// # Errors
    /// See [`Agent::info`]; also the execve's own.
    pub async fn exec(&self, request: &agent::ExecRequest) -> Result<()> {
        self.call(
            "Exec",
            Repeat::Never,
            self.usual(),
            async |c: AgentClient, x| c.exec(x, request).await,
        )
        .await
        .map(drop)
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// See [`Agent::info`].
    pub async fn signal(&self, process: &ProcessId, signal: u32, all: bool) -> Result<()> {
        let request = agent::SignalProcessRequest {
            container_id: process.container_id.clone(),
            exec_id: process.exec_id.clone(),
            signal,
            all,
            ..Default::default()
        };
        self.call(
            "SignalProcess",
            Repeat::Never,
            self.usual(),
            async |c: AgentClient, x| c.signal_process(x, &request).await,
        )
        .await
        .map(drop)
    }

    /// Waits until a process has ended, however long that takes.
    ///
    /// # Errors
    /// See [`Agent::info`].
    pub async fn wait(&self, process: &ProcessId) -> Result<Exit> {
        let request = agent::WaitProcessRequest {
            container_id: process.container_id.clone(),
            exec_id: process.exec_id.clone(),
            ..Default::default()
        };
        let reply = self
            .call(
                "WaitProcess",
                Repeat::Safe,
                None,
                async |c: AgentClient, x| c.wait_process(x, &request).await,
            )
            .await?;
        reply::exit(reply.exit.as_ref(), self.lifetime())
    }

    /// Forgets an exec process that has ended.
    ///
    /// # Errors
    /// See [`Agent::info`].
    pub async fn forget(&self, process: &ProcessId) -> Result<()> {
        let request = agent::ForgetProcessRequest {
            container_id: process.container_id.clone(),
            exec_id: process.exec_id.clone(),
            ..Default::default()
        };
        self.call(
            "ForgetProcess",
            Repeat::Safe,
            self.usual(),
            async |c: AgentClient, x| c.forget_process(x, &request).await,
        )
        .await
        .map(drop)
    }

    /// Changes a terminal's size.
    ///
    /// # Errors
    /// See [`Agent::info`].
    pub async fn resize(&self, process: &ProcessId, rows: u32, columns: u32) -> Result<()> {
        let request = agent::ResizePtyRequest {
            container_id: process.container_id.clone(),
            exec_id: process.exec_id.clone(),
            window: Some(agent::WindowSize {
                rows,
                columns,
                ..Default::default()
            })
            .into(),
            ..Default::default()
        };
        self.call(
            "ResizePty",
            Repeat::Safe,
            self.usual(),
            async |c: AgentClient, x| c.resize_pty(x, &request).await,
        )
        .await
        .map(drop)
    }

    /// Every process the agent knows.
    ///
    /// # Errors
    /// See [`Agent::info`].
    pub async fn processes(&self) -> Result<Vec<Process>> {
        let reply = self
            .call(
                "ListProcesses",
                Repeat::Safe,
                self.usual(),
                async |c: AgentClient, x| {
                    c.list_processes(x, &agent::ListProcessesRequest::new())
                        .await
                },
            )
            .await?;
        reply::processes(&reply, self.lifetime())
    }

    /// Resource use.
    ///
    /// # Errors
    /// See [`Agent::info`].
    pub async fn stats(&self) -> Result<(Vec<ContainerStats>, GuestStats)> {
        let reply = self
            .call(
                "Stats",
                Repeat::Safe,
                self.usual(),
                async |c: AgentClient, x| c.stats(x, &agent::StatsRequest::new()).await,
            )
            .await?;
        reply::stats(&reply)
    }

    /// Asks the guest to end its containers and power off.
    ///
    /// # Errors
    /// See [`Agent::info`].
    pub async fn shutdown(&self, grace: Duration) -> Result<()> {
        let request = agent::ShutdownRequest {
            grace_ms: u32::try_from(grace.as_millis()).unwrap_or(u32::MAX),
            ..Default::default()
        };
        let deadline = Some(self.deadline.min(Duration::from_secs(2)));
        self.call(
            "Shutdown",
            Repeat::Never,
            deadline,
            async |c: AgentClient, x| c.shutdown(x, &request).await,
        )
        .await
        .map(drop)
    }
}
