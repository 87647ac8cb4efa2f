//! PortForward: a URL where a client can connect to servers in a pod.

use std::sync::Arc;

use bulkhead_cri_api::v1;

use super::Cri;
use crate::{
    error::{Error, Result},
    streams,
};

pub(super) fn port_forward(
    cri: &Cri,
    request: &v1::PortForwardRequest,
) -> Result<v1::PortForwardResponse> {
    let port = |number: &i32| {
        let port = u16::try_from(*number).ok().filter(|port| *port != 0);
        port.ok_or_else(|| Error::invalid(format!("port {number}: ports are 1 to 65535")))
    };
    let numbers: Vec<u16> = request.port.iter().map(port).collect::<Result<_>>()?;
    let pod = cri.pods.model().pod(&request.pod_sandbox_id)?;
    // Also whether it is ready.
    pod.ready_sandbox()?;
    let ports = streams::PodPorts {
        pods: cri.pods.clone(),
        pod_id: pod.id.clone(),
    };
    let url = cri.streaming.port_forward(Arc::new(ports), numbers)?;
    Ok(v1::PortForwardResponse { url })
}
