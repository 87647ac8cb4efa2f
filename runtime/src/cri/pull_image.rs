//! PullImage: from a registry.

use bulkhead_cri_api::v1;
use bulkhead_image::Reference;
use bulkhead_registry::AuthConfig;

use super::{Cri, required};
use crate::error::{Error, Result};

pub(super) async fn pull_image(
    cri: &Cri,
    request: v1::PullImageRequest,
) -> Result<v1::PullImageResponse> {
    let wanted = required(request.image, "image")?.image;
    let failed = |error: Error| error.while_(format!("pull image {wanted:?}"));
    let reference =
        Reference::parse(&wanted).map_err(|error| failed(Error::invalid(error.to_string())))?;
    let auth = request.auth.map(|auth| AuthConfig {
        username: auth.username,
        password: auth.password,
        auth: auth.auth,
        server_address: auth.server_address,
        identity_token: auth.identity_token,
        registry_token: auth.registry_token,
    });
    // Its clients have no ear for progress.
    let progress = Box::new(|_| ());
    let image = cri.pods.images().pull(reference, auth, progress).await;
    // The id, which Image.id and ContainerStatus.image_id are too.
    Ok(v1::PullImageResponse {
        image_ref: image.map_err(failed)?.id.to_string(),
    })
}
