//! ContainerStats: from the newest sample.

use bulkhead_cri_api::v1;

use super::{Cri, usage};
use crate::error::{Error, Result};

pub(super) async fn container_stats(
    cri: &Cri,
    request: v1::ContainerStatsRequest,
) -> Result<v1::ContainerStatsResponse> {
    let model = cri.pods.model();
    let container = model.container(&request.container_id)?;
    let pod = model.pod(&container.key.pod_id)?;
    let measured = usage::measured(cri, vec![pod], |it| it.id == container.id).await;
    let gone = || Error::not_found(format!("container {} was removed", container.id));
    let measured = measured.into_iter().next().ok_or_else(gone)?;
    let record = measured.containers.first().ok_or_else(gone)?;
    Ok(v1::ContainerStatsResponse {
        stats: Some(usage::container(cri, record, measured.sample.as_deref())),
    })
}
