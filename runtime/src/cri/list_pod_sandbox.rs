//! ListPodSandbox: kubelet asks every second.

use bulkhead_cri_api::v1;

use super::{Cri, convert, filter};
use crate::error::Result;

pub(super) async fn list_pod_sandbox(
    cri: &Cri,
    request: v1::ListPodSandboxRequest,
) -> Result<v1::ListPodSandboxResponse> {
    let items = pod_sandboxes(cri, request.filter.unwrap_or_default()).collect();
    Ok(v1::ListPodSandboxResponse { items })
}

/// The pods that a filter lets through, as they are when the iterator comes to them.
pub(super) fn pod_sandboxes(
    cri: &Cri,
    wanted: v1::PodSandboxFilter,
) -> impl Iterator<Item = v1::PodSandbox> + Send + use<> {
    cri.pods
        .model()
        .pods()
        .into_iter()
        .map(|pod| pod.record())
        .filter(move |record| record.phase.is_listed() && filter::pod(&wanted, record))
        .map(|record| convert::pod(&record))
}
