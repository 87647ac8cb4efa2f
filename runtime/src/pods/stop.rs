//! Stopping a pod: a kill that works whatever the guest does.

use std::sync::Arc;

use bulkhead_sandbox::{ProcessId, Sandbox, SandboxExit};

use super::{Inner, Pods, detached, model::Pod, state};
use crate::{
    clock,
    error::{Error, Kind, Result},
    store::{ContainerPhase, PodPhase, PodRecord},
};

/// SIGKILL.
pub(super) const SIGKILL: u32 = 9;

impl Pods {
    /// Ends everything in a pod and gives back what it holds. Idempotent: a pod
    /// that is gone has been stopped.
    ///
    /// # Errors
    /// The host refuses to let something go; can be repeated.
    pub async fn stop(&self, id: &str) -> Result<()> {
        let pod = match self.inner.model.pod(id) {
            Ok(pod) => pod,
            Err(error) if error.kind() == Kind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let inner = Arc::clone(&self.inner);
        detached(async move {
            let _turn = pod.turn.lock().await;
            if inner.model.has_pod(&pod.id) {
                inner.stop_pod(&pod).await?;
            }
            Ok(())
        })
        .await
    }
}

impl Inner {
    /// The caller has the pod's turn. Repeatable.
    pub(crate) async fn stop_pod(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<()> {
        // From here on nothing new begins in it.
        pod.set_stopping();
        if let Some(sandbox) = pod.sandbox() {
            let exit = self.end_sandbox(pod, sandbox.as_ref()).await;
            self.settle(pod, exit).await;
        } else if pod.record().phase == PodPhase::Ready {
            self.settle(
                pod,
                super::settle::unknown_exit("it was not running any more"),
            )
            .await;
        }
        let attempted = || format!("stop pod {}", pod.id);
        let record = pod.record();
        if record.sandbox.is_none() && record.lease.is_none() {
            return Ok(());
        }
        // A second, unconditional kill, and everything that it left on the host.
        self.launcher
            .destroy(&pod.id)
            .await
            .map_err(Error::from)
            .map_err(|e| e.while_(attempted()))?;
        if let Some(lease) = &record.lease {
            self.network
                .release(lease)
                .await
                .map_err(|error| error.while_(attempted()))?;
        }
        let freed = PodRecord {
            lease: None,
            sandbox: None,
            ..PodRecord::clone(&record)
        };
        self.pod_fact(pod, freed).await;
        tracing::info!(pod = %pod.id, "pod is stopped");
        Ok(())
    }

    /// Kills the containers, so that their true exit codes and last output are
    /// seen, then ends the sandbox. Returns how it ended.
    async fn end_sandbox(&self, pod: &Pod, sandbox: &dyn Sandbox) -> SandboxExit {
        if let Some(exit) = sandbox.exited().borrow().clone() {
            return exit;
        }
        let running: Vec<_> = self
            .model
            .containers_in(&pod.id)
            .into_iter()
            .filter(|it| it.record().phase == ContainerPhase::Running)
            .collect();
        let killing = running.iter().map(|container| async {
            let mut phases = container.phases();
            let process = ProcessId::init(container.id.as_str());
            // A guest that answers no more is killed as a whole below.
            if sandbox.signal(&process, SIGKILL, true).await.is_ok() {
                let _ = phases
                    .wait_for(|phase| *phase != ContainerPhase::Running)
                    .await;
            }
        });
        let all = futures::future::join_all(killing);
        if tokio::time::timeout(self.settings.kill_grace, all)
            .await
            .is_err()
        {
            tracing::warn!(pod = %pod.id, "containers did not end when killed; ending the sandbox");
        }
        if let Err(error) = sandbox.stop(self.settings.stop_grace).await {
            tracing::warn!(pod = %pod.id, %error, "sandbox did not stop; destroying it");
        }
        let message = match sandbox.exited().borrow().as_ref() {
            Some(exit) => exit.message.clone(),
            None => String::new(),
        };
        SandboxExit {
            reason: state::STOPPED.to_owned(),
            message,
            at_unix_ns: clock::now_ns(),
        }
    }
}
