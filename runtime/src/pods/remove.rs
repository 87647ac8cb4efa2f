//! Removing a pod: nothing of it is left anywhere.

use std::sync::Arc;

use super::{Inner, Pods, detached, model::Pod};
use crate::{
    error::{Error, Kind, Result},
    store::{Change, PodPhase, PodRecord},
};

impl Pods {
    /// Removes a pod with all its containers, stopping it first if need be.
    /// Idempotent: a pod that is gone has been removed.
    ///
    /// # Errors
    /// The host refuses to let something go; the pod stays listed, and the removal
    /// can be repeated.
    pub async fn remove(&self, id: &str) -> Result<()> {
        let pod = match self.inner.model.pod(id) {
            Ok(pod) => pod,
            Err(error) if error.kind() == Kind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let inner = Arc::clone(&self.inner);
        detached(async move {
            let _turn = pod.turn.lock().await;
            if inner.model.has_pod(&pod.id) {
                inner.remove_pod(&pod).await?;
            }
            Ok(())
        })
        .await
    }
}

impl Inner {
    /// The caller has the pod's turn. Repeatable.
    pub(crate) async fn remove_pod(self: &Arc<Self>, pod: &Arc<Pod>) -> Result<()> {
        self.stop_pod(pod).await?;

        let removing = Arc::new(PodRecord {
            phase: PodPhase::Removing,
            ..PodRecord::clone(&pod.record())
        });
        self.records
            .commit(vec![Change::PutPod(Arc::clone(&removing))])
            .await?;
        pod.set_record(removing);

        // Creates that were under way have failed with the sandbox; wait for the
        // last of them to be undone. No new one can begin.
        let containers = self.model.containers_in(&pod.id);
        for container in &containers {
            drop(container.turn.lock().await);
        }

        self.launcher
            .destroy(&pod.id)
            .await
            .map_err(Error::from)
            .map_err(|error| error.while_(format!("remove pod {}", pod.id)))?;

        let mut changes: Vec<_> = containers
            .iter()
            .map(|it| Change::DropContainer(it.id.clone()))
            .collect();
        changes.push(Change::DropPod(pod.id.clone()));
        self.records.commit(changes).await?;
        for container in &containers {
            self.model.remove_container(&container.id);
            self.events
                .container_deleted(&self.model, &container.record());
        }
        self.model.remove_pod(&pod.id);
        self.events.pod_deleted(pod.record());
        tracing::info!(pod = %pod.id, "pod is removed");
        Ok(())
    }
}
