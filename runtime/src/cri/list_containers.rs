//! ListContainers: kubelet asks every second.

use bulkhead_cri_api::v1;

use super::{Cri, convert, filter};
use crate::error::Result;

pub(super) async fn list_containers(
    cri: &Cri,
    request: v1::ListContainersRequest,
) -> Result<v1::ListContainersResponse> {
    let wanted = request.filter.unwrap_or_default();
    let containers = cri
        .pods
        .model()
        .containers()
        .iter()
        .map(|container| container.record())
        .filter(|record| record.phase.is_listed() && filter::container(&wanted, record))
        .map(|record| convert::container(&record))
        .collect();
    Ok(v1::ListContainersResponse { containers })
}
