//! CheckpointContainer: refused, for there are no checkpoints yet.

use bulkhead_cri_api::v1;

use super::Cri;
use crate::error::{Error, Result};

pub(super) async fn checkpoint_container(
    cri: &Cri,
    request: v1::CheckpointContainerRequest,
) -> Result<v1::CheckpointContainerResponse> {
    let container = cri.pods.model().container(&request.container_id)?;
    Err(Error::precondition(format!(
        "checkpoint container {}: a container lives in its pod's virtual machine, and this \
         version can't save those; nothing was changed",
        container.id
    )))
}
