//! ListPodSandboxMetrics: from the newest sample of each pod.

use bulkhead_cri_api::v1;

use super::{Cri, metrics, usage};
use crate::{error::Result, store::PodPhase};

pub(super) async fn list_pod_sandbox_metrics(
    cri: &Cri,
    _: v1::ListPodSandboxMetricsRequest,
) -> Result<v1::ListPodSandboxMetricsResponse> {
    Ok(v1::ListPodSandboxMetricsResponse {
        pod_metrics: pod_metrics(cri).await,
    })
}

/// Metrics of all ready pods that have been measured.
pub(super) async fn pod_metrics(cri: &Cri) -> Vec<v1::PodSandboxMetrics> {
    let mut pods = cri.pods.model().pods();
    pods.retain(|pod| pod.record().phase == PodPhase::Ready);
    usage::measured(cri, pods, |_| true)
        .await
        .iter()
        .filter_map(|it| {
            let sample = it.sample.as_deref()?;
            Some(metrics::of_pod(&it.pod, &it.containers, sample))
        })
        .collect()
}
