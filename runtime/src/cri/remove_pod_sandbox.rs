//! RemovePodSandbox: nothing of it is left.

use bulkhead_cri_api::v1;

use super::Cri;
use crate::error::Result;

pub(super) async fn remove_pod_sandbox(
    cri: &Cri,
    request: v1::RemovePodSandboxRequest,
) -> Result<v1::RemovePodSandboxResponse> {
    cri.pods.remove(&request.pod_sandbox_id).await?;
    Ok(v1::RemovePodSandboxResponse {})
}
