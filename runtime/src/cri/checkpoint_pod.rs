//! CheckpointPod: refused, for there are no checkpoints yet.

use bulkhead_cri_api::v1;

use super::Cri;
use crate::error::{Error, Result};

pub(super) async fn checkpoint_pod(
    cri: &Cri,
    request: v1::CheckpointPodRequest,
) -> Result<v1::CheckpointPodResponse> {
    let pod = cri.pods.model().pod(&request.pod_sandbox_id)?;
    Err(Error::precondition(format!(
        "checkpoint pod {}: this version can't save a running virtual machine; nothing was changed",
        pod.id
    )))
}
