//! ContainerStatus.

use bulkhead_cri_api::v1;
use serde_json::json;

use super::{Cri, convert, verbose};
use crate::error::Result;

pub(super) async fn container_status(
    cri: &Cri,
    request: v1::ContainerStatusRequest,
) -> Result<v1::ContainerStatusResponse> {
    let record = cri.pods.model().container(&request.container_id)?.record();
    let info = if request.verbose {
        verbose([(
            "info",
            json!({
                "sandboxID": record.pod_id,
                "config": record.config,
                "imageID": record.image_id,
                "imageRef": record.image_ref,
                "stopSignal": record.stop_signal,
                "user": record.user,
                "resources": record.limits(),
                "log": record.log,
            }),
        )])
    } else {
        Default::default()
    };
    Ok(v1::ContainerStatusResponse {
        status: Some(convert::container_status(&record)),
        info,
    })
}
