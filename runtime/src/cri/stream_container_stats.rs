//! StreamContainerStats: ListContainerStats without a limit.

use bulkhead_cri_api::v1;

use super::{
    Cri,
    chunks::{Answers, chunked},
    list_container_stats::container_stats,
};
use crate::error::Result;

pub(super) async fn stream_container_stats(
    cri: &Cri,
    request: v1::StreamContainerStatsRequest,
) -> Result<Answers<v1::StreamContainerStatsResponse>> {
    let stats = container_stats(cri, request.filter.unwrap_or_default()).await;
    Ok(chunked(stats.into_iter(), |container_stats| {
        v1::StreamContainerStatsResponse { container_stats }
    }))
}
