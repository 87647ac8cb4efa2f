//! ListImages.

use bulkhead_cri_api::v1;

use super::{Cri, convert};
use crate::error::{Kind, Result};

pub(super) async fn list_images(
    cri: &Cri,
    request: v1::ListImagesRequest,
) -> Result<v1::ListImagesResponse> {
    let wanted = request
        .filter
        .and_then(|filter| filter.image)
        .unwrap_or_default()
        .image;
    let store = cri.pods.images();
    let images = if wanted.is_empty() {
        store.list()
    } else {
        match store.resolve(&wanted) {
            Ok(image) => vec![image],
            Err(error) if error.kind() == Kind::NotFound => Vec::new(),
            Err(error) => return Err(error),
        }
    };
    Ok(v1::ListImagesResponse {
        images: images.iter().map(|image| convert::image(image)).collect(),
    })
}
