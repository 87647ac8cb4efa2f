//! ListPodSandboxStats: from the newest sample of each pod.

use bulkhead_cri_api::v1;

use super::{Cri, filter, usage};
use crate::{error::Result, store::PodPhase};

pub(super) async fn list_pod_sandbox_stats(
    cri: &Cri,
    request: v1::ListPodSandboxStatsRequest,
) -> Result<v1::ListPodSandboxStatsResponse> {
    let stats = pod_stats(cri, request.filter.unwrap_or_default()).await;
    Ok(v1::ListPodSandboxStatsResponse { stats })
}

/// Statistics of the ready pods that a filter lets through.
pub(super) async fn pod_stats(
    cri: &Cri,
    wanted: v1::PodSandboxStatsFilter,
) -> Vec<v1::PodSandboxStats> {
    let mut pods = cri.pods.model().pods();
    pods.retain(|pod| {
        let record = pod.record();
        record.phase == PodPhase::Ready && filter::pod_stats(&wanted, &record)
    });
    usage::measured(cri, pods, |_| true)
        .await
        .iter()
        .map(|it| usage::pod(cri, it))
        .collect()
}
