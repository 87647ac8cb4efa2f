//! RemoveContainer.

use bulkhead_cri_api::v1;

use super::Cri;
use crate::error::Result;

pub(super) async fn remove_container(
    cri: &Cri,
    request: v1::RemoveContainerRequest,
) -> Result<v1::RemoveContainerResponse> {
    cri.pods.remove_container(&request.container_id).await?;
    Ok(v1::RemoveContainerResponse {})
}
