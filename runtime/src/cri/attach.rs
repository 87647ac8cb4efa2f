//! Attach: a URL where a client can be connected to a container's own process.

use std::sync::Arc;

use bulkhead_cri_api::v1;
use bulkhead_streaming::Standard;

use super::{Cri, validate};
use crate::{error::Result, store::ContainerPhase, streams};

pub(super) fn attach(cri: &Cri, request: v1::AttachRequest) -> Result<v1::AttachResponse> {
    let streams = Standard {
        stdin: request.stdin,
        stdout: request.stdout,
        stderr: request.stderr,
        tty: request.tty,
    };
    validate::streams(streams)?;
    let container = cri.pods.model().container(&request.container_id)?;
    // One that is yet to be started too, so that a client misses nothing.
    let phases = [ContainerPhase::Created, ContainerPhase::Running];
    validate::running(&container, &phases)?;
    let attach = streams::Attach {
        pods: cri.pods.clone(),
        container_id: container.id.clone(),
        streams,
    };
    let url = cri.streaming.attach(streams, Arc::new(attach))?;
    Ok(v1::AttachResponse { url })
}
