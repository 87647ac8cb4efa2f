//! RestorePod: refused, for there are no checkpoints yet.

use bulkhead_cri_api::v1;

use super::Cri;
use crate::error::{Error, Result};

pub(super) async fn restore_pod(
    _: &Cri,
    _: v1::RestorePodRequest,
) -> Result<v1::RestorePodResponse> {
    Err(Error::precondition(
        "restore a pod: this version can't restore a virtual machine from a checkpoint; run the \
         pod anew with RunPodSandbox",
    ))
}
