//! UpdateRuntimeConfig: the node's pod CIDR, once the cluster has assigned it. See
//! `pods::pod_cidr` for what is answered when it can't be used.

use bulkhead_cri_api::v1;

use super::Cri;
use crate::error::Result;

pub(super) async fn update_runtime_config(
    cri: &Cri,
    request: v1::UpdateRuntimeConfigRequest,
) -> Result<v1::UpdateRuntimeConfigResponse> {
    let config = request.runtime_config.unwrap_or_default();
    let cidr = config.network_config.unwrap_or_default().pod_cidr;
    // kubelet says nothing for as long as it knows nothing.
    if !cidr.is_empty() {
        let pods = cri.pods.clone();
        crate::pods::detached(async move { pods.set_pod_cidr(&cidr).await }).await?;
    }
    Ok(v1::UpdateRuntimeConfigResponse {})
}
