//! StreamPodSandboxes: ListPodSandbox without a limit.

use bulkhead_cri_api::v1;

use super::{
    Cri,
    chunks::{Answers, chunked},
    list_pod_sandbox::pod_sandboxes,
};
use crate::error::Result;

pub(super) async fn stream_pod_sandboxes(
    cri: &Cri,
    request: v1::StreamPodSandboxesRequest,
) -> Result<Answers<v1::StreamPodSandboxesResponse>> {
    let pods = pod_sandboxes(cri, request.filter.unwrap_or_default());
    Ok(chunked(pods, |pod_sandboxes| {
        v1::StreamPodSandboxesResponse { pod_sandboxes }
    }))
}
