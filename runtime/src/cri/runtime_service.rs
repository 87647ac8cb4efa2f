//! Which handler serves which RPC of `RuntimeService`.

use bulkhead_cri_api::v1::{runtime_service_server::RuntimeService, *};
use tonic::Request;

use super::{
    Cri, Reply, attach, checkpoint_container, checkpoint_pod, chunks::Answers, container_stats,
    container_status, create_container, exec, exec_sync, get_container_events,
    list_container_stats, list_containers, list_metric_descriptors, list_pod_sandbox,
    list_pod_sandbox_metrics, list_pod_sandbox_stats, pod_sandbox_stats, pod_sandbox_status,
    port_forward, remove_container, remove_pod_sandbox, reopen_container_log, reply, restore_pod,
    run_pod_sandbox, runtime_config, start_container, status, stop_container, stop_pod_sandbox,
    stream_container_stats, stream_containers, stream_pod_sandbox_metrics,
    stream_pod_sandbox_stats, stream_pod_sandboxes, update_container_resources,
    update_pod_sandbox_resources, update_runtime_config, version,
};

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
        request: Request<UpdatePodSandboxResourcesRequest>,
    ) -> Reply<UpdatePodSandboxResourcesResponse> {
        reply(
            "UpdatePodSandboxResources",
            update_pod_sandbox_resources::update_pod_sandbox_resources(self, request.into_inner()),
        )
        .await
    }

    async fn update_container_resources(
        &self,
        request: Request<UpdateContainerResourcesRequest>,
    ) -> Reply<UpdateContainerResourcesResponse> {
        reply(
            "UpdateContainerResources",
            update_container_resources::update_container_resources(self, request.into_inner()),
        )
        .await
    }

    async fn exec(&self, request: Request<ExecRequest>) -> Reply<ExecResponse> {
        reply("Exec", async { exec::exec(self, request.into_inner()) }).await
    }

    async fn attach(&self, request: Request<AttachRequest>) -> Reply<AttachResponse> {
        reply("Attach", async {
            attach::attach(self, request.into_inner())
        })
        .await
    }

    async fn port_forward(
        &self,
        request: Request<PortForwardRequest>,
    ) -> Reply<PortForwardResponse> {
        reply("PortForward", async {
            port_forward::port_forward(self, &request.into_inner())
        })
        .await
    }

    async fn container_stats(
        &self,
        request: Request<ContainerStatsRequest>,
    ) -> Reply<ContainerStatsResponse> {
        reply(
            "ContainerStats",
            container_stats::container_stats(self, request.into_inner()),
        )
        .await
    }

    async fn list_container_stats(
        &self,
        request: Request<ListContainerStatsRequest>,
    ) -> Reply<ListContainerStatsResponse> {
        reply(
            "ListContainerStats",
            list_container_stats::list_container_stats(self, request.into_inner()),
        )
        .await
    }

    async fn pod_sandbox_stats(
        &self,
        request: Request<PodSandboxStatsRequest>,
    ) -> Reply<PodSandboxStatsResponse> {
        reply(
            "PodSandboxStats",
            pod_sandbox_stats::pod_sandbox_stats(self, request.into_inner()),
        )
        .await
    }

    async fn list_pod_sandbox_stats(
        &self,
        request: Request<ListPodSandboxStatsRequest>,
    ) -> Reply<ListPodSandboxStatsResponse> {
        reply(
            "ListPodSandboxStats",
            list_pod_sandbox_stats::list_pod_sandbox_stats(self, request.into_inner()),
        )
        .await
    }

    async fn list_metric_descriptors(
        &self,
        request: Request<ListMetricDescriptorsRequest>,
    ) -> Reply<ListMetricDescriptorsResponse> {
        reply(
            "ListMetricDescriptors",
            list_metric_descriptors::list_metric_descriptors(self, request.into_inner()),
        )
        .await
    }

    async fn list_pod_sandbox_metrics(
        &self,
        request: Request<ListPodSandboxMetricsRequest>,
    ) -> Reply<ListPodSandboxMetricsResponse> {
        reply(
            "ListPodSandboxMetrics",
            list_pod_sandbox_metrics::list_pod_sandbox_metrics(self, request.into_inner()),
        )
        .await
    }

    async fn checkpoint_container(
        &self,
        request: Request<CheckpointContainerRequest>,
    ) -> Reply<CheckpointContainerResponse> {
        reply(
            "CheckpointContainer",
            checkpoint_container::checkpoint_container(self, request.into_inner()),
        )
        .await
    }

    async fn checkpoint_pod(
        &self,
        request: Request<CheckpointPodRequest>,
    ) -> Reply<CheckpointPodResponse> {
        reply(
            "CheckpointPod",
            checkpoint_pod::checkpoint_pod(self, request.into_inner()),
        )
        .await
    }

    async fn restore_pod(&self, request: Request<RestorePodRequest>) -> Reply<RestorePodResponse> {
        reply(
            "RestorePod",
            restore_pod::restore_pod(self, request.into_inner()),
        )
        .await
    }

    type StreamPodSandboxesStream = Answers<StreamPodSandboxesResponse>;
    async fn stream_pod_sandboxes(
        &self,
        request: Request<StreamPodSandboxesRequest>,
    ) -> Reply<Self::StreamPodSandboxesStream> {
        reply(
            "StreamPodSandboxes",
            stream_pod_sandboxes::stream_pod_sandboxes(self, request.into_inner()),
        )
        .await
    }

    type StreamContainersStream = Answers<StreamContainersResponse>;
    async fn stream_containers(
        &self,
        request: Request<StreamContainersRequest>,
    ) -> Reply<Self::StreamContainersStream> {
        reply(
            "StreamContainers",
            stream_containers::stream_containers(self, request.into_inner()),
        )
        .await
    }

    type StreamContainerStatsStream = Answers<StreamContainerStatsResponse>;
    async fn stream_container_stats(
        &self,
        request: Request<StreamContainerStatsRequest>,
    ) -> Reply<Self::StreamContainerStatsStream> {
        reply(
            "StreamContainerStats",
            stream_container_stats::stream_container_stats(self, request.into_inner()),
        )
        .await
    }

    type StreamPodSandboxStatsStream = Answers<StreamPodSandboxStatsResponse>;
    async fn stream_pod_sandbox_stats(
        &self,
        request: Request<StreamPodSandboxStatsRequest>,
    ) -> Reply<Self::StreamPodSandboxStatsStream> {
        reply(
            "StreamPodSandboxStats",
            stream_pod_sandbox_stats::stream_pod_sandbox_stats(self, request.into_inner()),
        )
        .await
    }

    type StreamPodSandboxMetricsStream = Answers<StreamPodSandboxMetricsResponse>;
    async fn stream_pod_sandbox_metrics(
        &self,
        request: Request<StreamPodSandboxMetricsRequest>,
    ) -> Reply<Self::StreamPodSandboxMetricsStream> {
        reply(
            "StreamPodSandboxMetrics",
            stream_pod_sandbox_metrics::stream_pod_sandbox_metrics(self, request.into_inner()),
        )
        .await
    }

    type GetContainerEventsStream = Answers<ContainerEventResponse>;
    async fn get_container_events(
        &self,
        request: Request<GetEventsRequest>,
    ) -> Reply<Self::GetContainerEventsStream> {
        reply(
            "GetContainerEvents",
            get_container_events::get_container_events(self, request.into_inner()),
        )
        .await
    }
}
