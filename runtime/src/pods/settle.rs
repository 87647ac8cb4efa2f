//! What follows when a sandbox has ended, asked or unasked.

use std::sync::Arc;

use bulkhead_sandbox::{Sandbox, SandboxExit};
use tracing::Instrument;

use super::{Inner, model::Pod};
use crate::stats;

impl Inner {
    /// Watches and measures a sandbox until it ends, and settles its pod then.
    pub(crate) fn watch_sandbox(self: &Arc<Self>, pod: &Arc<Pod>, sandbox: Arc<dyn Sandbox>) {
        let (inner, pod) = (Arc::clone(self), Arc::clone(pod));
        tokio::spawn({
            let (inner, pod, sandbox) =
                (Arc::clone(&inner), Arc::clone(&pod), Arc::clone(&sandbox));
            async move {
                let sampling = inner.settings.sampling;
                stats::follow(pod, sandbox, &inner.model, &inner.metrics, sampling).await;
            }
        });
        let span = tracing::info_span!(parent: None, "sandbox", pod = %pod.id);
        tokio::spawn(
            async move {
                let mut exited = sandbox.exited();
                let exit = match exited.wait_for(Option::is_some).await {
                    Ok(exit) => exit.clone(),
                    Err(_) => None,
                };
                drop(sandbox);
                let exit = exit.unwrap_or_else(|| unknown_exit("its watcher has stopped"));
                let _turn = pod.turn.lock().await;
                inner.settle(&pod, exit).await;
            }
            .instrument(span),
        );
    }

    /// Records that a pod's sandbox has ended and its containers with it. The
    /// caller has the pod's turn. Repeatable: the first end counts.
    pub(crate) async fn settle(self: &Arc<Self>, pod: &Pod, exit: SandboxExit) {
        if !self.model.has_pod(&pod.id) {
            return;
        }
        pod.set_sandbox(None);
        // The pod first: a container create that is under way looks at it last.
        if let Some(ended) = pod.record().ended(exit.clone()) {
            tracing::info!(reason = %exit.reason, "sandbox has ended");
            self.pod_fact(pod, ended).await;
        }
        for container in self.model.containers_in(&pod.id) {
            let _turn = container.turn.lock().await;
            if !self.model.has_container(&container.id) {
                continue;
            }
            // Nothing uses the layers any more.
            container.set_hold(None);
            if let Some(ended) = container.record().sandbox_ended(&exit) {
                self.container_fact(&container, ended).await;
            }
        }
    }
}

/// The exit of a sandbox that ended while nobody saw it.
pub(crate) fn unknown_exit(message: &str) -> SandboxExit {
    SandboxExit {
        reason: "unknown".to_owned(),
        message: message.to_owned(),
        at_unix_ns: crate::clock::now_ns(),
    }
}
