//! RPCs that this version doesn't have.

use crate::error::{Error, Kind, Result};

/// Says which RPC it is and what works in its place, where something does.
pub(super) async fn unimplemented<T>(rpc: &str) -> Result<T> {
    let instead = match rpc {
        "Exec" => "; use ExecSync, or `bulkhead exec` on the node",
        "Attach" => "; use `bulkhead attach` on the node",
        "PortForward" => "; connect to the pod's own address",
        "StreamPodSandboxes" => "; use ListPodSandbox",
        "StreamContainers" => "; use ListContainers",
        "StreamImages" => "; use ListImages",
        _ => "",
    };
    let message = format!("{rpc} is not there yet in this version of bulkhead{instead}");
    Err(Error::new(Kind::Unimplemented, message))
}
