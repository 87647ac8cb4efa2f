//! ListMetricDescriptors: kubelet asks once, when it starts.

use bulkhead_cri_api::v1;

use super::{Cri, metrics};
use crate::error::Result;

pub(super) async fn list_metric_descriptors(
    _: &Cri,
    _: v1::ListMetricDescriptorsRequest,
) -> Result<v1::ListMetricDescriptorsResponse> {
    Ok(v1::ListMetricDescriptorsResponse {
        descriptors: metrics::descriptors(),
    })
}
