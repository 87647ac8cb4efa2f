//! Exec: a URL where a client can run a command and be connected to it.

use std::sync::Arc;

use bulkhead_cri_api::v1;
use bulkhead_streaming::Standard;

use super::{Cri, validate};
use crate::{error::Result, store::ContainerPhase, streams};

pub(super) fn exec(cri: &Cri, request: v1::ExecRequest) -> Result<v1::ExecResponse> {
    validate::command("cmd", &request.cmd)?;
    let streams = Standard {
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
        tty: request.tty,
    };
    validate::streams(streams)?;
    let container = cri.pods.model().container(&request.container_id)?;
    validate::running(&container, &[ContainerPhase::Running])?;
    let exec = streams::Exec {
        pods: cri.pods.clone(),
        container_id: container.id.clone(),
        args: request.cmd,
        streams,
    };
    let url = cri.streaming.exec(streams, Arc::new(exec))?;
    Ok(v1::ExecResponse { url })
}
