//! Connecting to a container's own process.

use bulkhead_sandbox::ProcessId;

use super::{
    Pods,
    session::{Ended, Session, Target, Wanted},
};
use crate::{
    error::{Error, Result},
    store::ContainerPhase,
};

impl Pods {
    /// Follows a container's output from now on, and writes to its stdin if it has
    /// one. A created container may be attached to, so that nothing is missed once
    /// it is started.
    ///
    /// # Errors
    /// [`Kind::FailedPrecondition`](crate::Kind::FailedPrecondition) when it has
    /// exited.
    pub(crate) async fn attach(&self, id: &str, stdin: bool) -> Result<Session> {
        let container = self.inner.model.container(id)?;
        let record = container.record();
        let attempted = format!("attach to container {}", container.id);
        let attach = async {
            if !record.phase.is_alive() {
                return Err(Error::precondition("the container has exited"));
            }
            let target = Target {
                sandbox: self
                    .inner
                    .model
                    .pod(&container.key.pod_id)?
                    .ready_sandbox()?,
                process: ProcessId::init(container.id.as_str()),
            };
            let wanted = Wanted {
                stdin: stdin && record.config.stdin,
                terminal: record.config.tty,
            };
            let exit = async move {
                let mut phases = container.phases();
                // An error: it was removed, and its last record stands.
                let _ = phases
                    .wait_for(|phase| {
                        matches!(phase, ContainerPhase::Exited | ContainerPhase::Removing)
                    })
                    .await;
                let record = container.record();
                Ok(Ended {
                    code: record.exit_code,
                    reason: record.reason.clone(),
                    message: record.message.clone(),
                })
            };
            Session::open(target, wanted, exit, None).await
        };
        attach.await.map_err(|error| error.while_(attempted))
    }
}
