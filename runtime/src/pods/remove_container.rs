//! Removing a container.

use std::{sync::Arc, time::Duration};

use super::{Inner, Pods, create::remove_in_guest, detached, model::Container};
use crate::{
    error::{Kind, Result},
    store::{Change, ContainerPhase},
};

impl Pods {
    /// Removes a container, killing it first if it runs. Idempotent: one that is
    /// gone has been removed. Its log file is the client's.
    ///
    /// # Errors
    /// The guest can't let it go; it stays listed, and the removal can be repeated.
    pub async fn remove_container(&self, id: &str) -> Result<()> {
        let container = match self.inner.model.container(id) {
            Ok(container) => container,
            Err(error) if error.kind() == Kind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let inner = Arc::clone(&self.inner);
        detached(async move {
            inner.end_container(&container, Duration::ZERO).await?;
            let _turn = container.turn.lock().await;
            if inner.model.has_container(&container.id) {
                inner
                    .forget_container(&container)
                    .await
                    .map_err(|error| error.while_(format!("remove container {}", container.id)))?;
            }
            Ok(())
        })
        .await
    }
}

impl Inner {
    /// The caller has the container's turn. Repeatable.
    pub(crate) async fn forget_container(&self, container: &Container) -> Result<()> {
        self.container_intent(container, ContainerPhase::Removing)
            .await?;
        let sandbox = self
            .model
            .pod(&container.key.pod_id)
            .ok()
            .and_then(|pod| pod.sandbox());
        if let Some(sandbox) = sandbox {
            remove_in_guest(sandbox.as_ref(), &container.id).await?;
        }
        self.records
            .commit(vec![Change::DropContainer(container.id.clone())])
            .await?;
        self.model.remove_container(&container.id);
        self.events
            .container_deleted(&self.model, &container.record());
        tracing::info!(container = %container.id, "container is removed");
        Ok(())
    }
}
