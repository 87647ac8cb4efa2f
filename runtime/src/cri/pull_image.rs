//! PullImage: in this version, of what was imported before.

use bulkhead_cri_api::v1;

use super::{Cri, required};
use crate::error::{Error, Kind, Result};

pub(super) async fn pull_image(
    cri: &Cri,
    request: v1::PullImageRequest,
) -> Result<v1::PullImageResponse> {
    let wanted = required(request.image, "image")?;
    match cri.pods.images().resolve(&wanted.image) {
        // The id, which Image.id and ContainerStatus.image_id are too.
        Ok(image) => Ok(v1::PullImageResponse {
            image_ref: image.id.to_string(),
        }),
        Err(error) if error.kind() == Kind::NotFound => Err(Error::not_found(format!(
            "image {:?} was not imported, and this version can't pull from registries yet; save it \
             to a file elsewhere and run `bulkhead image import FILE` on this node",
            wanted.image
        ))),
        Err(error) => Err(error),
    }
}
