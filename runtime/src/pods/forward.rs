//! Connecting to servers in a pod.

use tokio::net::UnixStream;

use super::Pods;
use crate::error::Result;

impl Pods {
    /// Connects to a TCP port of a ready pod, as its own processes would: on
    /// 127.0.0.1, then on ::1.
    ///
    /// # Errors
    /// [`Kind::FailedPrecondition`](crate::Kind::FailedPrecondition) with the reason
    /// when nothing answers there, or the pod is not ready.
    pub(crate) async fn dial(&self, id: &str, port: u16) -> Result<UnixStream> {
        let pod = self.inner.model.pod(id)?;
        let dialled = async { Ok(pod.ready_sandbox()?.dial(port).await?) };
        let attempted = format!("forward to port {port} of pod {}", pod.id);
        dialled
            .await
            .map_err(|error: crate::Error| error.while_(attempted))
    }
}
