//! Which handler serves which RPC of `RuntimeService`.

use bulkhead_cri_api::v1::{runtime_service_server::RuntimeService, *};
use tonic::{Request, Status};

use super::{
    Cri, Reply, container_status, create_container, exec_sync, list_containers, list_pod_sandbox,
    pod_sandbox_status, remove_container, remove_pod_sandbox, reopen_container_log, reply,
    run_pod_sandbox, runtime_config, start_container, status, stop_container, stop_pod_sandbox,
    unimplemented::unimplemented, update_runtime_config, version,
};

/// Streams that no RPC serves yet.
type None<T> = tokio_stream::Empty<std::result::Result<T, Status>>;

#[tonic::async_trait]
impl RuntimeService for Cri {
    async fn version(&self, request: Request<VersionRequest>) -> Reply<VersionResponse> {
        reply("Version", version::version(self, request.into_inner())).await
    }

    async fn status(&self, request: Request<StatusRequest>) -> Reply<StatusResponse> {
        reply("Status", status::status(self, request.into_inner())).await
    }

    async fn runtime_config(
        &self,
        request: Request<RuntimeConfigRequest>,
    ) -> Reply<RuntimeConfigResponse> {
        reply(
            "RuntimeConfig",
            runtime_config::runtime_config(self, request.into_inner()),
        )
        .await
    }

    async fn update_runtime_config(
        &self,
        request: Request<UpdateRuntimeConfigRequest>,
    ) -> Reply<UpdateRuntimeConfigResponse> {
        reply(
            "UpdateRuntimeConfig",
            update_runtime_config::update_runtime_config(self, request.into_inner()),
        )
        .await
    }

    async fn run_pod_sandbox(
        &self,
        request: Request<RunPodSandboxRequest>,
    ) -> Reply<RunPodSandboxResponse> {
        reply(
            "RunPodSandbox",
            run_pod_sandbox::run_pod_sandbox(self, request.into_inner()),
        )
        .await
    }

    async fn stop_pod_sandbox(
        &self,
        request: Request<StopPodSandboxRequest>,
    ) -> Reply<StopPodSandboxResponse> {
        reply(
            "StopPodSandbox",
            stop_pod_sandbox::stop_pod_sandbox(self, request.into_inner()),
        )
        .await
    }

    async fn remove_pod_sandbox(
        &self,
        request: Request<RemovePodSandboxRequest>,
    ) -> Reply<RemovePodSandboxResponse> {
        reply(
            "RemovePodSandbox",
            remove_pod_sandbox::remove_pod_sandbox(self, request.into_inner()),
        )
        .await
    }

    async fn pod_sandbox_status(
        &self,
        request: Request<PodSandboxStatusRequest>,
    ) -> Reply<PodSandboxStatusResponse> {
        reply(
            "PodSandboxStatus",
            pod_sandbox_status::pod_sandbox_status(self, request.into_inner()),
        )
        .await
    }

    async fn list_pod_sandbox(
        &self,
        request: Request<ListPodSandboxRequest>,
    ) -> Reply<ListPodSandboxResponse> {
        reply(
            "ListPodSandbox",
            list_pod_sandbox::list_pod_sandbox(self, request.into_inner()),
        )
        .await
    }

    async fn create_container(
        &self,
        request: Request<CreateContainerRequest>,
    ) -> Reply<CreateContainerResponse> {
        reply(
            "CreateContainer",
            create_container::create_container(self, request.into_inner()),
        )
        .await
    }

    async fn start_container(
        &self,
        request: Request<StartContainerRequest>,
    ) -> Reply<StartContainerResponse> {
        reply(
            "StartContainer",
            start_container::start_container(self, request.into_inner()),
        )
        .await
    }

    async fn stop_container(
        &self,
        request: Request<StopContainerRequest>,
    ) -> Reply<StopContainerResponse> {
        reply(
            "StopContainer",
            stop_container::stop_container(self, request.into_inner()),
        )
        .await
    }

    async fn remove_container(
        &self,
        request: Request<RemoveContainerRequest>,
    ) -> Reply<RemoveContainerResponse> {
        reply(
            "RemoveContainer",
            remove_container::remove_container(self, request.into_inner()),
        )
        .await
    }

    async fn container_status(
        &self,
        request: Request<ContainerStatusRequest>,
    ) -> Reply<ContainerStatusResponse> {
        reply(
            "ContainerStatus",
            container_status::container_status(self, request.into_inner()),
        )
        .await
    }

    async fn list_containers(
        &self,
        request: Request<ListContainersRequest>,
    ) -> Reply<ListContainersResponse> {
        reply(
            "ListContainers",
            list_containers::list_containers(self, request.into_inner()),
        )
        .await
    }

    async fn reopen_container_log(
        &self,
        request: Request<ReopenContainerLogRequest>,
    ) -> Reply<ReopenContainerLogResponse> {
        reply(
            "ReopenContainerLog",
            reopen_container_log::reopen_container_log(self, request.into_inner()),
        )
        .await
    }

    async fn exec_sync(&self, request: Request<ExecSyncRequest>) -> Reply<ExecSyncResponse> {
        reply("ExecSync", exec_sync::exec_sync(self, request.into_inner())).await
    }

    async fn update_pod_sandbox_resources(
        &self,
        _: Request<UpdatePodSandboxResourcesRequest>,
    ) -> Reply<UpdatePodSandboxResourcesResponse> {
        reply(
            "UpdatePodSandboxResources",
            unimplemented("UpdatePodSandboxResources"),
        )
        .await
    }

    async fn update_container_resources(
        &self,
        _: Request<UpdateContainerResourcesRequest>,
    ) -> Reply<UpdateContainerResourcesResponse> {
        reply(
            "UpdateContainerResources",
            unimplemented("UpdateContainerResources"),
        )
        .await
    }

    async fn exec(&self, _: Request<ExecRequest>) -> Reply<ExecResponse> {
        reply("Exec", unimplemented("Exec")).await
    }

    async fn attach(&self, _: Request<AttachRequest>) -> Reply<AttachResponse> {
        reply("Attach", unimplemented("Attach")).await
    }

    async fn port_forward(&self, _: Request<PortForwardRequest>) -> Reply<PortForwardResponse> {
        reply("PortForward", unimplemented("PortForward")).await
    }

    async fn container_stats(
        &self,
        _: Request<ContainerStatsRequest>,
    ) -> Reply<ContainerStatsResponse> {
        reply("ContainerStats", unimplemented("ContainerStats")).await
    }

    async fn list_container_stats(
        &self,
        _: Request<ListContainerStatsRequest>,
    ) -> Reply<ListContainerStatsResponse> {
        reply("ListContainerStats", unimplemented("ListContainerStats")).await
    }

    async fn pod_sandbox_stats(
        &self,
        _: Request<PodSandboxStatsRequest>,
    ) -> Reply<PodSandboxStatsResponse> {
        reply("PodSandboxStats", unimplemented("PodSandboxStats")).await
    }

    async fn list_pod_sandbox_stats(
        &self,
        _: Request<ListPodSandboxStatsRequest>,
    ) -> Reply<ListPodSandboxStatsResponse> {
        reply("ListPodSandboxStats", unimplemented("ListPodSandboxStats")).await
    }

    async fn list_metric_descriptors(
        &self,
        _: Request<ListMetricDescriptorsRequest>,
    ) -> Reply<ListMetricDescriptorsResponse> {
        reply(
            "ListMetricDescriptors",
            unimplemented("ListMetricDescriptors"),
        )
        .await
    }

    async fn list_pod_sandbox_metrics(
        &self,
        _: Request<ListPodSandboxMetricsRequest>,
    ) -> Reply<ListPodSandboxMetricsResponse> {
        reply(
            "ListPodSandboxMetrics",
            unimplemented("ListPodSandboxMetrics"),
        )
        .await
    }

    async fn checkpoint_container(
        &self,
        _: Request<CheckpointContainerRequest>,
    ) -> Reply<CheckpointContainerResponse> {
        reply("CheckpointContainer", unimplemented("CheckpointContainer")).await
    }

    async fn checkpoint_pod(
        &self,
        _: Request<CheckpointPodRequest>,
    ) -> Reply<CheckpointPodResponse> {
        reply("CheckpointPod", unimplemented("CheckpointPod")).await
    }

    async fn restore_pod(&self, _: Request<RestorePodRequest>) -> Reply<RestorePodResponse> {
        reply("RestorePod", unimplemented("RestorePod")).await
    }

    type StreamPodSandboxesStream = None<StreamPodSandboxesResponse>;
    async fn stream_pod_sandboxes(
        &self,
        _: Request<StreamPodSandboxesRequest>,
    ) -> Reply<Self::StreamPodSandboxesStream> {
        reply("StreamPodSandboxes", unimplemented("StreamPodSandboxes")).await
    }

    type StreamContainersStream = None<StreamContainersResponse>;
    async fn stream_containers(
        &self,
        _: Request<StreamContainersRequest>,
    ) -> Reply<Self::StreamContainersStream> {
        reply("StreamContainers", unimplemented("StreamContainers")).await
    }

    type StreamContainerStatsStream = None<StreamContainerStatsResponse>;
    async fn stream_container_stats(
        &self,
        _: Request<StreamContainerStatsRequest>,
    ) -> Reply<Self::StreamContainerStatsStream> {
        reply(
            "StreamContainerStats",
            unimplemented("StreamContainerStats"),
        )
        .await
    }

    type StreamPodSandboxStatsStream = None<StreamPodSandboxStatsResponse>;
    async fn stream_pod_sandbox_stats(
        &self,
        _: Request<StreamPodSandboxStatsRequest>,
    ) -> Reply<Self::StreamPodSandboxStatsStream> {
        reply(
            "StreamPodSandboxStats",
            unimplemented("StreamPodSandboxStats"),
        )
        .await
    }

    type StreamPodSandboxMetricsStream = None<StreamPodSandboxMetricsResponse>;
    async fn stream_pod_sandbox_metrics(
        &self,
        _: Request<StreamPodSandboxMetricsRequest>,
    ) -> Reply<Self::StreamPodSandboxMetricsStream> {
        reply(
            "StreamPodSandboxMetrics",
            unimplemented("StreamPodSandboxMetrics"),
        )
        .await
    }

    type GetContainerEventsStream = None<ContainerEventResponse>;
    async fn get_container_events(
        &self,
        _: Request<GetEventsRequest>,
    ) -> Reply<Self::GetContainerEventsStream> {
        reply("GetContainerEvents", unimplemented("GetContainerEvents")).await
    }
}
