//! Stopping a container: ask, wait, kill.

use std::{sync::Arc, time::Duration};

use bulkhead_sandbox::{ErrorKind, ProcessId, Sandbox};

use super::{Inner, Pods, detached, model::Container, stop::SIGKILL};
use crate::{
    error::{Error, Kind, Result},
    store::ContainerPhase,
};

impl Pods {
    /// Sends the stop signal, and after `grace` kills all that is left. Returns when
    /// the container has exited and its log is complete. Idempotent: a container
    /// that is gone or not running has been stopped.
    ///
    /// # Errors
    /// [`Kind::DeadlineExceeded`] when the guest doesn't report the end of a killed
    /// container; stopping the pod always works.
    pub async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        let container = match self.inner.model.container(id) {
            Ok(container) => container,
            Err(error) if error.kind() == Kind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let inner = Arc::clone(&self.inner);
        detached(async move { inner.end_container(&container, grace).await }).await
    }
}

impl Inner {
    pub(super) async fn end_container(&self, container: &Container, grace: Duration) -> Result<()> {
        // Behind a start that is under way.
        drop(container.turn.lock().await);
        let mut phases = container.phases();
        if *phases.borrow_and_update() != ContainerPhase::Running {
            return Ok(());
        }
        let attempted = || format!("stop container {}", container.id);
        let sandbox = self
            .model
            .pod(&container.key.pod_id)
            .ok()
            .and_then(|pod| pod.sandbox());
        let Some(sandbox) = sandbox else {
            // The sandbox has just ended; its settling records the exit.
            return wait_ended(&mut phases, self.settings.kill_grace)
                .await
                .map_err(|error| error.while_(attempted()));
        };
        let process = ProcessId::init(container.id.as_str());
        if !grace.is_zero() {
            let signal = container.record().stop_signal;
            send(sandbox.as_ref(), &process, signal, false)
                .await
                .map_err(|error| error.while_(attempted()))?;
            if wait_ended(&mut phases, grace).await.is_ok() {
                return Ok(());
            }
            tracing::info!(container = %container.id, ?grace, "did not end when asked; killing it");
        }
        send(sandbox.as_ref(), &process, SIGKILL, true)
            .await
            .map_err(|error| error.while_(attempted()))?;
        wait_ended(&mut phases, self.settings.kill_grace)
            .await
            .map_err(|error| error.while_(attempted()))
    }
}

type Phases = tokio::sync::watch::Receiver<ContainerPhase>;

async fn wait_ended(phases: &mut Phases, limit: Duration) -> Result<()> {
    let ended = phases.wait_for(|phase| *phase != ContainerPhase::Running);
    match tokio::time::timeout(limit, ended).await {
        // A closed channel: it was removed.
        Ok(_) => Ok(()),
        Err(_) => Err(Error::new(
            Kind::DeadlineExceeded,
            format!(
                "it was not reported ended within {limit:?}; stop the pod to end it for certain"
            ),
        )),
    }
}

/// Signals a process; one that has ended meanwhile has got what was wanted.
async fn send(sandbox: &dyn Sandbox, process: &ProcessId, signal: u32, all: bool) -> Result<()> {
    match sandbox.signal(process, signal, all).await {
        Err(error)
            if matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::SandboxDead | ErrorKind::FailedPrecondition
            ) =>
        {
            Ok(())
        }
        other => Ok(other?),
    }
}
