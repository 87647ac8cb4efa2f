//! SandboxTimings: where a start's time went.

use bulkhead_cri_api::operator::{SandboxTimingsRequest, SandboxTimingsResponse, Timing};

use super::Operator;
use crate::error::Result;

pub(super) fn sandbox_timings(
    operator: &Operator,
    request: &SandboxTimingsRequest,
) -> Result<SandboxTimingsResponse> {
    let record = operator.pods.model().pod(&request.pod_sandbox_id)?.record();
    let timings = record
        .timings
        .iter()
        .map(|it| Timing {
            phase: it.phase.clone(),
            took_ns: it.took_ns,
        })
        .collect();
    Ok(SandboxTimingsResponse { timings })
}
