//! StreamPodSandboxMetrics: ListPodSandboxMetrics without a limit.

use bulkhead_cri_api::v1;

use super::{
    Cri,
    chunks::{Answers, chunked},
    list_pod_sandbox_metrics::pod_metrics,
};
use crate::error::Result;

pub(super) async fn stream_pod_sandbox_metrics(
    cri: &Cri,
    _: v1::StreamPodSandboxMetricsRequest,
) -> Result<Answers<v1::StreamPodSandboxMetricsResponse>> {
    let metrics = pod_metrics(cri).await;
    Ok(chunked(metrics.into_iter(), |pod_sandbox_metrics| {
        v1::StreamPodSandboxMetricsResponse {
            pod_sandbox_metrics,
        }
    }))
}
