//! Running a container's program.

use std::sync::Arc;

use bulkhead_sandbox::{ErrorKind, Sandbox};

use super::{Inner, Pods, detached, model::Container};
use crate::{
    clock,
    error::{Error, Result},
    store::{Change, ContainerPhase},
};

impl Pods {
    /// Runs the program of a created container.
    ///
    /// # Errors
    /// It isn't in the state created, or the program can't be run: then the
    /// container has exited, with the same words in its status.
    pub async fn start(&self, id: &str) -> Result<()> {
        let container = self.inner.model.container(id)?;
        let pod = self.inner.model.pod(&container.key.pod_id)?;
        let inner = Arc::clone(&self.inner);
        detached(async move {
            let attempted = format!("start container {}", container.id);
            let _turn = container.turn.lock().await;
            if !inner.model.has_container(&container.id) {
                return Err(Error::not_found(format!(
                    "container {} was removed",
                    container.id
                )));
            }
            let ready = || {
                check_created(&container)?;
                pod.ready_sandbox()
            };
            let sandbox = ready().map_err(|error| error.while_(attempted))?;
            // The sandbox's own errors name the container.
            inner.start_container(&container, sandbox.as_ref()).await
        })
        .await
    }
}

fn check_created(container: &Container) -> Result<()> {
    let state = match container.record().phase {
        ContainerPhase::Created => return Ok(()),
        ContainerPhase::Running => "it is running already",
        ContainerPhase::Exited => "it has exited; create another one",
        ContainerPhase::Creating | ContainerPhase::Removing => "it is being removed",
    };
    Err(Error::precondition(state))
}

impl Inner {
    async fn start_container(
        self: &Arc<Self>,
        container: &Arc<Container>,
        sandbox: &dyn Sandbox,
    ) -> Result<()> {
        match sandbox.start_container(&container.id).await {
            // By the host's clock: a guest's may be behind.
            Ok(_) => {
                if let Some(running) = container.record().started(clock::now_ns()) {
                    self.container_fact(container, running).await;
                }
                tracing::info!(container = %container.id, "container is started");
                Ok(())
            }
            Err(error) => {
                let kind = error.kind();
                let now = clock::now_ns();
                // The end of the sandbox is recorded by whoever settles it, and a
                // call that timed out may yet succeed: neither is the program's.
                if !matches!(kind, ErrorKind::SandboxDead | ErrorKind::DeadlineExceeded)
                    && let Some(failed) = container.record().start_failed(error.to_string(), now)
                {
                    self.container_fact(container, failed).await;
                }
                Err(exec_error(error))
            }
        }
    }

    /// Writes an intent for a container; the caller has its turn.
    pub(super) async fn container_intent(
        &self,
        container: &Container,
        phase: ContainerPhase,
    ) -> Result<()> {
        let mut next = crate::store::ContainerRecord::clone(&container.record());
        next.phase = phase;
        let next = Arc::new(next);
        self.records
            .commit(vec![Change::PutContainer(Arc::clone(&next))])
            .await?;
        container.set_record(next);
        Ok(())
    }
}

/// NOT_FOUND means pods, containers and images in the CRI; a program that is
/// missing or can't be executed makes the request's configuration wrong.
pub(super) fn exec_error(error: bulkhead_sandbox::Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound | ErrorKind::PermissionDenied => Error::invalid(error.to_string()),
        _ => error.into(),
    }
}
