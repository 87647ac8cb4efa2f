//! StopPodSandbox: everything in it ends, and its addresses are free again.

use bulkhead_cri_api::v1;

use super::Cri;
use crate::error::Result;

pub(super) async fn stop_pod_sandbox(
    cri: &Cri,
    request: v1::StopPodSandboxRequest,
) -> Result<v1::StopPodSandboxResponse> {
    cri.pods.stop(&request.pod_sandbox_id).await?;
    Ok(v1::StopPodSandboxResponse {})
}
