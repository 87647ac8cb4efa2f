//! StartContainer: an error is the program's failure to start.

use bulkhead_cri_api::v1;

use super::Cri;
use crate::error::Result;

pub(super) async fn start_container(
    cri: &Cri,
    request: v1::StartContainerRequest,
) -> Result<v1::StartContainerResponse> {
    cri.pods.start(&request.container_id).await?;
    Ok(v1::StartContainerResponse {})
}
