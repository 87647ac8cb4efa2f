//! Waiting for a container's program to end.

use std::{sync::Arc, time::Duration};

use bulkhead_sandbox::{ErrorKind, ProcessId, Sandbox};
use tracing::Instrument;

use super::{Inner, model::Container};
use crate::{clock, store::ContainerRecord};

/// Pause after a failed wait: doubled each time, up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

impl Inner {
    /// Waits, in a task of its own, until a container has ended and its last byte
    /// of output is in its log, and records that.
    pub(crate) fn watch_container(
        self: &Arc<Self>,
        container: &Arc<Container>,
        sandbox: Arc<dyn Sandbox>,
    ) {
        let (inner, container) = (Arc::clone(self), Arc::clone(container));
        let span = tracing::info_span!(
            "container", pod = %container.key.pod_id, container = %container.id
        );
        tokio::spawn(
            async move {
                let process = ProcessId::init(container.id.as_str());
                let mut pause = PAUSE.0;
                loop {
                    match sandbox.wait(&process).await {
                        Ok(exit) => {
                            tracing::info!(code = exit.code, oom = exit.oom_killed, "ended");
                            break inner.ended(&container, |record| record.exited(exit)).await;
                        }
                        // Everything ends with the sandbox: `settle` sees to it.
                        Err(_) if sandbox.exited().borrow().is_some() => break,
                        Err(error) if error.kind() == ErrorKind::SandboxDead => break,
                        Err(error) if error.kind() == ErrorKind::NotFound => {
                            // Also what a removal looks like: then the record is gone.
                            let now = clock::now_ns();
                            break inner.ended(&container, |record| record.lost(now)).await;
                        }
                        Err(error) => {
                            tracing::warn!(%error, "cannot wait for the container; trying again");
                            tokio::time::sleep(pause).await;
                            pause = (pause * 2).min(PAUSE.1);
                        }
                    }
                }
            }
            .instrument(span),
        );
    }

    async fn ended(
        self: &Arc<Self>,
        container: &Arc<Container>,
        next: impl FnOnce(&ContainerRecord) -> Option<ContainerRecord>,
    ) {
        let _turn = container.turn.lock().await;
        if self.model.has_container(&container.id)
            && let Some(record) = next(&container.record())
        {
            self.container_fact(container, record).await;
        }
    }
}
