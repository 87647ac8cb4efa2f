//! StreamImages: ListImages without a limit.

use bulkhead_cri_api::v1;

use super::{
    Cri,
    chunks::{Answers, chunked},
    convert,
    list_images::images,
};
use crate::error::Result;

pub(super) async fn stream_images(
    cri: &Cri,
    request: v1::StreamImagesRequest,
) -> Result<Answers<v1::StreamImagesResponse>> {
    let images = images(cri, request.filter)?;
    let images = images.into_iter().map(|image| convert::image(&image));
    Ok(chunked(images, |images| v1::StreamImagesResponse {
        images,
    }))
}
