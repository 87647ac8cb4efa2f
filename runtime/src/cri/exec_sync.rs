//! ExecSync: probes and lifecycle hooks.

use std::time::Duration;

use bulkhead_cri_api::v1;

use super::{Cri, validate};
use crate::error::{Error, Result};

pub(super) async fn exec_sync(
    cri: &Cri,
    request: v1::ExecSyncRequest,
) -> Result<v1::ExecSyncResponse> {
    validate::command("cmd", &request.cmd)?;
    let seconds = u64::try_from(request.timeout)
        .map_err(|_| Error::invalid(format!("timeout {} is negative", request.timeout)))?;
    let timeout = (seconds > 0).then(|| Duration::from_secs(seconds));
    let done = cri
        .pods
        .exec_sync(&request.container_id, request.cmd, timeout)
        .await?;
    Ok(v1::ExecSyncResponse {
        stdout: done.stdout.into(),
        stderr: done.stderr.into(),
        exit_code: done.code,
    })
}
