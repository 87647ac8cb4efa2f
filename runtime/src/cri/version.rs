//! Version: who this is, and which interface it speaks.

use bulkhead_cri_api::{RUNTIME_API_VERSION, v1};

use super::Cri;
use crate::error::Result;

/// The client's version of the interface's first revision, if it names none.
const VERSION: &str = "0.1.0";

pub(super) async fn version(_: &Cri, request: v1::VersionRequest) -> Result<v1::VersionResponse> {
    let mut version = request.version;
    if version.is_empty() || version.len() > 64 {
        VERSION.clone_into(&mut version);
    }
    Ok(v1::VersionResponse {
        version,
        runtime_name: "bulkhead".to_owned(),
        runtime_version: env!("CARGO_PKG_VERSION").to_owned(),
        runtime_api_version: RUNTIME_API_VERSION.to_owned(),
    })
}
