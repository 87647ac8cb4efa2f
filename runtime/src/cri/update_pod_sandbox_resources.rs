//! UpdatePodSandboxResources: kubelet says what a pod's containers may use together.

use bulkhead_cri_api::v1;

use super::{Cri, validate};
use crate::error::Result;

pub(super) async fn update_pod_sandbox_resources(
    cri: &Cri,
    request: v1::UpdatePodSandboxResourcesRequest,
) -> Result<v1::UpdatePodSandboxResourcesResponse> {
    for wanted in request.overhead.iter().chain(&request.resources) {
        validate::resources(wanted)?;
    }
    cri.pods
        .update_pod(&request.pod_sandbox_id, request.resources, request.overhead)
        .await?;
    Ok(v1::UpdatePodSandboxResourcesResponse {})
}
