//! PullImage: as the CRI's, with what is being done told on the way.

use bulkhead_cri_api::operator::{ImageProgress, PullImageRequest};
use bulkhead_image::Reference;
use bulkhead_registry::AuthConfig;

use super::{Answers, Operator, progress};
use crate::error::{Error, Result};

pub(super) fn pull_image(
    operator: &Operator,
    request: PullImageRequest,
) -> Result<Answers<ImageProgress>> {
    let wanted = request.image;
    let reference = Reference::parse(&wanted)
        .map_err(|error| Error::invalid(format!("pull image {wanted:?}: {error}")))?;
    let auth = (!request.username.is_empty()).then(|| AuthConfig {
        username: request.username,
        password: request.password,
        ..AuthConfig::default()
    });
    let images = operator.pods.images().clone();
    Ok(progress::told(move |report| async move {
        let pulled = images.pull(reference, auth, report).await;
        let image = pulled.map_err(|error| error.while_(format!("pull image {wanted:?}")))?;
        Ok(vec![image])
    }))
}
