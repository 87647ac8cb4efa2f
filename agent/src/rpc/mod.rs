//! The service: one file a group of calls.
//!
//! A handler checks, calls the part that does the work, and answers. Whatever
//! makes or removes something runs in a task of its own, so that a caller who
//! hangs up does not leave it half done.

mod machine;
mod processes;
mod sandbox;

use std::sync::Arc;

use async_trait::async_trait;
use bulkhead_agent_api::{
    agent::{
        AttachLayersRequest, ConfigureSandboxRequest, CreateContainerRequest,
        CreateContainerResponse, Empty, ExecRequest, ExecResponse, ForgetProcessRequest,
        InfoRequest, InfoResponse, ListProcessesRequest, ListProcessesResponse, OnlineCpusRequest,
        OnlineCpusResponse, ReleaseLayersRequest, RemoveContainerRequest, ReseedRandomRequest,
        ResizePtyRequest, SetClockRequest, ShutdownRequest, SignalProcessRequest,
        StartContainerRequest, StartContainerResponse, StatsRequest, StatsResponse,
        UpdateContainerRequest, WaitProcessRequest, WaitProcessResponse,
    },
    agent_ttrpc,
};
use ttrpc::r#async::TtrpcContext;

use crate::{
    container::Containers,
    disks::Disks,
    error::{Error, Result},
    listen::Listener,
    stats::upper::UpperCache,
};
use sandbox::Sandbox;

/// The agent's service.
#[derive(Clone, Debug)]
pub struct Service {
    containers: Arc<Containers>,
    sandbox: Arc<Sandbox>,
    uppers: Arc<UpperCache>,
}

impl Service {
    /// A service over these containers and disks.
    #[must_use]
    pub fn new(containers: Arc<Containers>, disks: Arc<dyn Disks>) -> Self {
        let place = containers.place().clone();
        Self {
            containers,
            sandbox: Arc::new(Sandbox::new(place, disks)),
            uppers: Arc::default(),
        }
    }

    /// Serves on `listener`.
    ///
    /// # Errors
    /// When the server cannot start.
    pub async fn serve(self, listener: Listener) -> Result<ttrpc::r#async::Server> {
        let incoming = futures::stream::unfold(listener, |listener| async {
            let connection = listener.accept().await;
            if connection.is_err() {
                // Out of descriptors, most likely: do not spin.
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
            Some((connection, listener))
        });
        let mut server = ttrpc::r#async::Server::new()
            .add_listener(ttrpc::r#async::transport::Listener::new(incoming))
            .register_service(agent_ttrpc::create_agent(Arc::new(self)));
        server
            .start()
            .await
            .map_err(|why| Error::internal(format!("start the ttrpc server: {why}")))?;
        Ok(server)
    }
}

/// Runs work to its end even if its caller hangs up.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T>> + Send + 'static,
) -> Result<T> {
    tokio::spawn(work)
        .await
        .map_err(|why| Error::internal(format!("a task failed: {why}")))?
}

#[async_trait]
impl agent_ttrpc::Agent for Service {
    async fn info(&self, _: &TtrpcContext, _: InfoRequest) -> ttrpc::Result<InfoResponse> {
        Ok(machine::info(self.sandbox.is_configured().await))
    }

    async fn configure_sandbox(
        &self,
        _: &TtrpcContext,
        request: ConfigureSandboxRequest,
    ) -> ttrpc::Result<Empty> {
        let sandbox = Arc::clone(&self.sandbox);
        to_the_end(async move { sandbox.configure(request).await }).await?;
        Ok(Empty::new())
    }

    async fn attach_layers(
        &self,
        _: &TtrpcContext,
        request: AttachLayersRequest,
    ) -> ttrpc::Result<Empty> {
        let containers = Arc::clone(&self.containers);
        to_the_end(async move { containers.layers().attach(&request.serials).await }).await?;
        Ok(Empty::new())
    }

    async fn release_layers(
        &self,
        _: &TtrpcContext,
        request: ReleaseLayersRequest,
    ) -> ttrpc::Result<Empty> {
        let containers = Arc::clone(&self.containers);
        to_the_end(async move { containers.layers().release(&request.serials).await }).await?;
        Ok(Empty::new())
    }

    async fn create_container(
        &self,
        _: &TtrpcContext,
        request: CreateContainerRequest,
    ) -> ttrpc::Result<CreateContainerResponse> {
        self.sandbox.require_configured().await?;
        let containers = Arc::clone(&self.containers);
        let made = to_the_end(async move { containers.create(request).await }).await?;
        Ok(CreateContainerResponse {
            pid: made.pid,
            uid: made.uid,
            gid: made.gid,
            supplemental_groups: made.groups,
            ..Default::default()
        })
    }

    async fn start_container(
        &self,
        _: &TtrpcContext,
        request: StartContainerRequest,
    ) -> ttrpc::Result<StartContainerResponse> {
        let containers = Arc::clone(&self.containers);
        let started_unix_ns =
            to_the_end(async move { containers.start(&request.container_id).await }).await?;
        Ok(StartContainerResponse {
            started_unix_ns,
            ..Default::default()
        })
    }

    async fn exec(&self, _: &TtrpcContext, request: ExecRequest) -> ttrpc::Result<ExecResponse> {
        let containers = Arc::clone(&self.containers);
        let pid = to_the_end(async move { containers.exec(request).await }).await?;
        Ok(ExecResponse {
            pid,
            ..Default::default()
        })
    }

    async fn signal_process(
        &self,
        _: &TtrpcContext,
        request: SignalProcessRequest,
    ) -> ttrpc::Result<Empty> {
        self.containers.signal(
            &request.container_id,
            &request.exec_id,
            request.signal,
            request.all,
        )?;
        Ok(Empty::new())
    }

    async fn wait_process(
        &self,
        _: &TtrpcContext,
        request: WaitProcessRequest,
    ) -> ttrpc::Result<WaitProcessResponse> {
        let process = self
            .containers
            .process(&request.container_id, &request.exec_id)?;
        Ok(WaitProcessResponse {
            exit: Some(process.wait().await.into()).into(),
            ..Default::default()
        })
    }

    async fn forget_process(
        &self,
        _: &TtrpcContext,
        request: ForgetProcessRequest,
    ) -> ttrpc::Result<Empty> {
        self.containers
            .forget(&request.container_id, &request.exec_id)
            .await?;
        Ok(Empty::new())
    }

    async fn resize_pty(
        &self,
        _: &TtrpcContext,
        request: ResizePtyRequest,
    ) -> ttrpc::Result<Empty> {
        let window = request.window.get_or_default();
        self.containers
            .process(&request.container_id, &request.exec_id)?
            .resize(window.rows, window.columns)?;
        Ok(Empty::new())
    }

    async fn remove_container(
        &self,
        _: &TtrpcContext,
        request: RemoveContainerRequest,
    ) -> ttrpc::Result<Empty> {
        let containers = Arc::clone(&self.containers);
        to_the_end(async move { containers.remove(&request.container_id).await }).await?;
        Ok(Empty::new())
    }

    async fn list_processes(
        &self,
        _: &TtrpcContext,
        _: ListProcessesRequest,
    ) -> ttrpc::Result<ListProcessesResponse> {
        Ok(processes::list(&self.containers))
    }

    async fn stats(&self, _: &TtrpcContext, request: StatsRequest) -> ttrpc::Result<StatsResponse> {
        Ok(processes::stats(&self.containers, &self.uppers, &request.container_id).await?)
    }

    async fn update_container(
        &self,
        _: &TtrpcContext,
        request: UpdateContainerRequest,
    ) -> ttrpc::Result<Empty> {
        let containers = Arc::clone(&self.containers);
        to_the_end(async move {
            let UpdateContainerRequest {
                container_id,
                oci_resources,
                ..
            } = request;
            containers.update(&container_id, &oci_resources).await
        })
        .await?;
        Ok(Empty::new())
    }

    async fn online_cpus(
        &self,
        _: &TtrpcContext,
        request: OnlineCpusRequest,
    ) -> ttrpc::Result<OnlineCpusResponse> {
        self.guest_only("bring CPUs online")?;
        let online =
            crate::disks::layers::blocking(move || machine::online_cpus(request.count)).await?;
        Ok(OnlineCpusResponse {
            online,
            ..Default::default()
        })
    }

    async fn reseed_random(
        &self,
        _: &TtrpcContext,
        request: ReseedRandomRequest,
    ) -> ttrpc::Result<Empty> {
        self.guest_only("reseed the random number generator")?;
        machine::reseed(&request.seed)?;
        Ok(Empty::new())
    }

    async fn set_clock(&self, _: &TtrpcContext, request: SetClockRequest) -> ttrpc::Result<Empty> {
        self.guest_only("set the clock")?;
        machine::set_clock(&request)?;
        Ok(Empty::new())
    }

    async fn shutdown(&self, _: &TtrpcContext, request: ShutdownRequest) -> ttrpc::Result<Empty> {
        let containers = Arc::clone(&self.containers);
        let grace = std::time::Duration::from_millis(request.grace_ms.into());
        to_the_end(async move {
            machine::shutdown(&containers, grace).await;
            Ok(())
        })
        .await?;
        Ok(Empty::new())
    }
}

impl Service {
    fn guest_only(&self, what: &str) -> Result<()> {
        if self.containers.place().is_guest() {
            return Ok(());
        }
        Err(Error::precondition(format!(
            "{what}: this agent serves host pods, the machine is not its own"
        )))
    }
}
