//! ListContainers: kubelet asks every second.

use bulkhead_cri_api::v1;

use super::{Cri, convert, filter};
use crate::error::Result;

pub(super) async fn list_containers(
    cri: &Cri,
    request: v1::ListContainersRequest,
) -> Result<v1::ListContainersResponse> {
    let containers = containers(cri, request.filter.unwrap_or_default()).collect();
    Ok(v1::ListContainersResponse { containers })
}

/// The containers that a filter lets through, as they are when the iterator comes to
/// them.
pub(super) fn containers(
    cri: &Cri,
    wanted: v1::ContainerFilter,
) -> impl Iterator<Item = v1::Container> + Send + use<> {
    cri.pods
        .model()
        .containers()
        .into_iter()
        .map(|container| container.record())
        .filter(move |record| record.phase.is_listed() && filter::container(&wanted, record))
        .map(|record| convert::container(&record))
}
