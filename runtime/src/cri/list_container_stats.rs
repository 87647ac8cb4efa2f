//! ListContainerStats: from the newest sample of each pod.

use bulkhead_cri_api::v1;

use super::{Cri, filter, usage};
use crate::error::Result;

pub(super) async fn list_container_stats(
    cri: &Cri,
    request: v1::ListContainerStatsRequest,
) -> Result<v1::ListContainerStatsResponse> {
    let stats = container_stats(cri, request.filter.unwrap_or_default()).await;
    Ok(v1::ListContainerStatsResponse { stats })
}

/// Statistics of the containers that a filter lets through.
pub(super) async fn container_stats(
    cri: &Cri,
    wanted: v1::ContainerStatsFilter,
) -> Vec<v1::ContainerStats> {
    let through = |record: &_| filter::container_stats(&wanted, record);
    let mut pods = cri.pods.model().pods();
    // A pod without any of them isn't asked for a sample.
    pods.retain(|pod| {
        let containers = cri.pods.model().containers_in(&pod.id);
        containers.iter().any(|it| through(&it.record()))
    });
    usage::measured(cri, pods, through)
        .await
        .iter()
        .flat_map(|it| {
            it.containers
                .iter()
                .map(|record| usage::container(cri, record, it.sample.as_deref()))
        })
        .collect()
}
