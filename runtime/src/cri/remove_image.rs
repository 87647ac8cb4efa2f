//! RemoveImage: with all its names.

use bulkhead_cri_api::v1;

use super::{Cri, required};
use crate::{
    error::{Kind, Result},
    pods::detached,
};

pub(super) async fn remove_image(
    cri: &Cri,
    request: v1::RemoveImageRequest,
) -> Result<v1::RemoveImageResponse> {
    let wanted = required(request.image, "image")?;
    let images = cri.pods.images().clone();
    let removed = detached(async move { images.remove(&wanted.image).await }).await;
    match removed {
        Ok(removed) => tracing::info!(image = %removed.id, freed = removed.freed_bytes, "removed"),
        Err(error) if error.kind() == Kind::NotFound => {}
        Err(error) => return Err(error),
    }
    Ok(v1::RemoveImageResponse {})
}
