//! ListImages.

use std::sync::Arc;

use bulkhead_cri_api::v1;
use bulkhead_image::Image;

use super::{Cri, convert};
use crate::error::{Kind, Result};

pub(super) async fn list_images(
    cri: &Cri,
    request: v1::ListImagesRequest,
) -> Result<v1::ListImagesResponse> {
    let images = images(cri, request.filter)?;
    Ok(v1::ListImagesResponse {
        images: images.iter().map(|image| convert::image(image)).collect(),
    })
}

/// The images that a filter lets through.
pub(super) fn images(cri: &Cri, filter: Option<v1::ImageFilter>) -> Result<Vec<Arc<Image>>> {
    let wanted = filter
        .and_then(|filter| filter.image)
        .unwrap_or_default()
        .image;
    let store = cri.pods.images();
    if wanted.is_empty() {
        return Ok(store.list());
    }
    match store.resolve(&wanted) {
        Ok(image) => Ok(vec![image]),
        Err(error) if error.kind() == Kind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}
