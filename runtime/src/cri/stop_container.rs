//! StopContainer: stop signal, grace, kill.

use std::time::Duration;

use bulkhead_cri_api::v1;

use super::Cri;
use crate::error::Result;

pub(super) async fn stop_container(
    cri: &Cri,
    request: v1::StopContainerRequest,
) -> Result<v1::StopContainerResponse> {
    // Negative is as good as none; beyond a century is as good as for ever.
    let seconds = u32::try_from(request.timeout.max(0)).unwrap_or(u32::MAX);
    let grace = Duration::from_secs(u64::from(seconds));
    cri.pods
        .stop_container(&request.container_id, grace)
        .await?;
    Ok(v1::StopContainerResponse {})
}
