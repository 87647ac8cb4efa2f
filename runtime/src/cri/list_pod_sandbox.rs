//! ListPodSandbox: kubelet asks every second.

use bulkhead_cri_api::v1;

use super::{Cri, convert, filter};
use crate::error::Result;

pub(super) async fn list_pod_sandbox(
    cri: &Cri,
    request: v1::ListPodSandboxRequest,
) -> Result<v1::ListPodSandboxResponse> {
    let wanted = request.filter.unwrap_or_default();
    let items = cri
        .pods
        .model()
        .pods()
        .iter()
        .map(|pod| pod.record())
        .filter(|record| record.phase.is_listed() && filter::pod(&wanted, record))
        .map(|record| convert::pod(&record))
        .collect();
    Ok(v1::ListPodSandboxResponse { items })
}
