//! StreamContainers: ListContainers without a limit.

use bulkhead_cri_api::v1;

use super::{
    Cri,
    chunks::{Answers, chunked},
    list_containers::containers,
};
use crate::error::Result;

pub(super) async fn stream_containers(
    cri: &Cri,
    request: v1::StreamContainersRequest,
) -> Result<Answers<v1::StreamContainersResponse>> {
    let containers = containers(cri, request.filter.unwrap_or_default());
    Ok(chunked(containers, |containers| {
        v1::StreamContainersResponse { containers }
    }))
}
