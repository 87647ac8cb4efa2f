//! ReopenContainerLog: after kubelet has renamed the file.

use bulkhead_cri_api::v1;

use super::Cri;
use crate::error::Result;

pub(super) async fn reopen_container_log(
    cri: &Cri,
    request: v1::ReopenContainerLogRequest,
) -> Result<v1::ReopenContainerLogResponse> {
    cri.pods.reopen_log(&request.container_id).await?;
    Ok(v1::ReopenContainerLogResponse {})
}
