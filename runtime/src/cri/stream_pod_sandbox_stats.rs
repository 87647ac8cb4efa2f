//! StreamPodSandboxStats: ListPodSandboxStats without a limit.

use bulkhead_cri_api::v1;

use super::{
    Cri,
    chunks::{Answers, chunked},
    list_pod_sandbox_stats::pod_stats,
};
use crate::error::Result;

pub(super) async fn stream_pod_sandbox_stats(
    cri: &Cri,
    request: v1::StreamPodSandboxStatsRequest,
) -> Result<Answers<v1::StreamPodSandboxStatsResponse>> {
    let stats = pod_stats(cri, request.filter.unwrap_or_default()).await;
    Ok(chunked(stats.into_iter(), |pod_sandbox_stats| {
        v1::StreamPodSandboxStatsResponse { pod_sandbox_stats }
    }))
}
