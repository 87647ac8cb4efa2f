//! ImageStatus: an answer without an image means that it is not there.

use bulkhead_cri_api::v1;
use serde_json::json;

use super::{Cri, convert, required, verbose};
use crate::error::{Kind, Result};

pub(super) async fn image_status(
    cri: &Cri,
    request: v1::ImageStatusRequest,
) -> Result<v1::ImageStatusResponse> {
    let wanted = required(request.image, "image")?;
    let image = match cri.pods.images().resolve(&wanted.image) {
        Ok(image) => image,
        Err(error) if error.kind() == Kind::NotFound => return Ok(Default::default()),
        Err(error) => return Err(error),
    };
    let info = if request.verbose {
        let config = &image.config;
        let layers: Vec<_> = image
            .layers
            .iter()
            .map(|layer| {
                json!({
                    "diffID": layer.diff_id,
                    "erofsBytes": layer.erofs_bytes,
                    "file": layer.erofs_path,
                })
            })
            .collect();
        let history: Vec<_> = config
            .history
            .iter()
            .map(|step| {
                json!({
                    "created": step.created,
                    "created_by": step.created_by,
                    "comment": step.comment,
                    "empty_layer": step.empty_layer,
                })
            })
            .collect();
        verbose([(
            "info",
            json!({
                "architecture": config.architecture,
                "os": config.os,
                "created": config.created,
                "config": {
                    "Entrypoint": config.entrypoint,
                    "Cmd": config.cmd,
                    "Env": config.env,
                    "WorkingDir": config.working_dir,
                    "User": config.user,
                    "StopSignal": config.stop_signal,
                    "Labels": config.labels,
                    "Volumes": config.volumes,
                },
                "history": history,
                "layers": layers,
            }),
        )])
    } else {
        Default::default()
    };
    Ok(v1::ImageStatusResponse {
        image: Some(convert::image(&image)),
        info,
    })
}
