//! RunPodSandbox: the answer means that the pod's virtual machine is up.

use bulkhead_cri_api::v1;

use super::{Cri, required, validate};
use crate::error::Result;

pub(super) async fn run_pod_sandbox(
    cri: &Cri,
    request: v1::RunPodSandboxRequest,
) -> Result<v1::RunPodSandboxResponse> {
    let config = required(request.config, "config")?;
    validate::pod(&config)?;
    let pod_sandbox_id = cri.pods.run(config, request.runtime_handler).await?;
    Ok(v1::RunPodSandboxResponse { pod_sandbox_id })
}
