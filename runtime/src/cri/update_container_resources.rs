//! UpdateContainerResources: limits of a container that lives.

use bulkhead_cri_api::v1;

use super::{Cri, required, validate};
use crate::error::Result;

pub(super) async fn update_container_resources(
    cri: &Cri,
    request: v1::UpdateContainerResourcesRequest,
) -> Result<v1::UpdateContainerResourcesResponse> {
    let wanted = required(request.linux, "linux resources")?;
    validate::resources(&wanted)?;
    cri.pods
        .update_container(&request.container_id, wanted)
        .await?;
    Ok(v1::UpdateContainerResourcesResponse {})
}
