//! ImageFsInfo: kubelet does not start without an answer.

use bulkhead_cri_api::v1;

use super::Cri;
use crate::{clock, error::Result};

pub(super) async fn image_fs_info(
    cri: &Cri,
    _: v1::ImageFsInfoRequest,
) -> Result<v1::ImageFsInfoResponse> {
    let info = cri.pods.images().fs_info().await?;
    let usage = v1::FilesystemUsage {
        timestamp: clock::now_ns(),
        fs_id: Some(v1::FilesystemIdentifier {
            mountpoint: info.path.display().to_string(),
        }),
        used_bytes: Some(v1::UInt64Value {
            value: info.used_bytes,
        }),
        inodes_used: Some(v1::UInt64Value {
            value: info.inodes_used,
        }),
    };
    // Layers and pods' writable disks share the state directory's file system.
    Ok(v1::ImageFsInfoResponse {
        image_filesystems: vec![usage.clone()],
        container_filesystems: vec![usage],
    })
}
