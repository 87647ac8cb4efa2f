//! CreateContainer: everything but the program's first instruction.

use bulkhead_cri_api::v1;

use super::{Cri, required, validate};
use crate::error::Result;

pub(super) async fn create_container(
    cri: &Cri,
    request: v1::CreateContainerRequest,
) -> Result<v1::CreateContainerResponse> {
    // `sandbox_config` repeats what RunPodSandbox was given: the pod's own counts.
    let config = required(request.config, "config")?;
    validate::container(&config)?;
    let container_id = cri.pods.create(&request.pod_sandbox_id, config).await?;
    Ok(v1::CreateContainerResponse { container_id })
}
