//! PodSandboxStats: from the newest sample.

use bulkhead_cri_api::v1;

use super::{Cri, usage};
use crate::error::{Error, Result};

pub(super) async fn pod_sandbox_stats(
    cri: &Cri,
    request: v1::PodSandboxStatsRequest,
) -> Result<v1::PodSandboxStatsResponse> {
    let pod = cri.pods.model().pod(&request.pod_sandbox_id)?;
    let id = pod.id.clone();
    let measured = usage::measured(cri, vec![pod], |_| true).await;
    let stats = measured.first().map(|it| usage::pod(cri, it));
    if stats.is_none() {
        return Err(Error::not_found(format!("pod {id} was removed")));
    }
    Ok(v1::PodSandboxStatsResponse { stats })
}
