//! The agent's calls, one method each.

use std::time::Duration;

use bulkhead_agent_api::{agent, agent_ttrpc::AgentClient};

use super::{
    client::{Agent, Repeat},
    figures, reply,
};
use crate::{
    clock,
    error::{Error, ErrorKind, Result},
    figures::SandboxStats,
    spec::{ClockChange, Created, Exit, Process, ProcessId},
};

impl Agent {
    fn usual(&self) -> Option<Duration> {
        Some(self.deadline)
    }

    /// Who the agent is.
    ///
    /// # Errors
    /// As every call: the agent's own refusal, [`DeadlineExceeded`](crate::ErrorKind::DeadlineExceeded), or
    /// [`SandboxDead`](crate::ErrorKind::SandboxDead).
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
    pub async fn create_container(
        &self,
        request: &agent::CreateContainerRequest,
    ) -> Result<Created> {
        let reply = self
            .call(
                "CreateContainer",
                Repeat::Never,
                self.usual(),
                async |c: AgentClient, x| c.create_container(x, request).await,
            )
            .await?;
        Ok(Created {
            user: reply::user(&reply)?,
        })
    }

    /// Changes a container's limits.
    ///
    /// # Errors
    /// See [`Agent::info`].
    pub async fn update_container(
        &self,
        container_id: &str,
        resources: &oci_spec::runtime::LinuxResources,
    ) -> Result<()> {
        let oci_resources = serde_json::to_vec(resources).map_err(|e| {
            Error::new(ErrorKind::Internal, "cannot write the limits as JSON").caused_by(e)
        })?;
        let request = agent::UpdateContainerRequest {
            container_id: container_id.to_owned(),
            oci_resources,
            ..Default::default()
        };
        self.call(
            "UpdateContainer",
            Repeat::Safe,
            self.usual(),
            async |c: AgentClient, x| c.update_container(x, &request).await,
        )
        .await
        .map(drop)
    }

    /// Brings CPUs online until `count` are; returns how many that is.
    ///
    /// # Errors
    /// See [`Agent::info`].
    pub async fn online_cpus(&self, count: u32) -> Result<u32> {
        let request = agent::OnlineCpusRequest {
            count,
            ..Default::default()
        };
        let reply = self
            .call(
                "OnlineCpus",
                Repeat::Safe,
                self.usual(),
                async |c: AgentClient, x| c.online_cpus(x, &request).await,
            )
            .await?;
        Ok(reply.online)
    }

    /// Moves the guest's clock.
    ///
    /// # Errors
    /// See [`Agent::info`].
    pub async fn change_clock(&self, change: ClockChange) -> Result<()> {
        let mut request = agent::SetClockRequest::new();
        match change {
            ClockChange::Step(ns) => request.step_ns = ns,
            ClockChange::Slew(ns) => request.slew_ns = ns,
        }
        self.call(
            "SetClock",
            Repeat::Never,
            self.usual(),
            async |c: AgentClient, x| c.set_clock(x, &request).await,
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
    pub async fn stats(&self) -> Result<SandboxStats> {
        let begun = clock::monotonic_ns();
        let reply = self
            .call(
                "Stats",
                Repeat::Safe,
                self.usual(),
                async |c: AgentClient, x| c.stats(x, &agent::StatsRequest::new()).await,
            )
            .await?;
        let round_trip_ns = clock::monotonic_ns().saturating_sub(begun);
        let half = i64::try_from(round_trip_ns / 2).unwrap_or(0);
        let (containers, guest, guest_unix_ns) = figures::stats(&reply)?;
        Ok(SandboxStats {
            at_unix_ns: clock::unix_ns().saturating_sub(half),
            round_trip_ns,
            guest_unix_ns,
            containers,
            guest,
            host: None,
        })
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
