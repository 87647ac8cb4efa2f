//! Writing facts: the model first, the disk as soon as it can.

use std::{
    sync::{Arc, PoisonError},
    time::Duration,
};

use super::{
    Inner,
    model::{Container, Pod},
};
use crate::store::{Change, ContainerRecord, PodRecord};

/// A record whose newest fact is not on disk yet.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unwritten {
    /// A pod's.
    Pod(String),
    /// A container's.
    Container(String),
}

/// Pause between attempts to write what could not be written.
const RETRY: Duration = Duration::from_secs(2);

impl Inner {
    /// Makes a pod's fact known and writes it down. The caller has the pod's turn.
    pub(crate) async fn pod_fact(self: &Arc<Self>, pod: &Pod, record: PodRecord) {
        let record = Arc::new(record);
        self.show_pod(pod, Arc::clone(&record));
        self.write_fact(Unwritten::Pod(pod.id.clone()), Change::PutPod(record))
            .await;
    }

    /// Makes a container's fact known and writes it down. The caller has its turn.
    pub(crate) async fn container_fact(
        self: &Arc<Self>,
        container: &Container,
        record: ContainerRecord,
    ) {
        let record = Arc::new(record);
        self.show_container(container, Arc::clone(&record));
        let what = Unwritten::Container(container.id.clone());
        self.write_fact(what, Change::PutContainer(record)).await;
    }

    /// Puts a pod's record into the model, and tells those who listen. The caller has
    /// the pod's turn, or is the only one that knows it.
    pub(super) fn show_pod(&self, pod: &Pod, record: Arc<PodRecord>) {
        let before = pod.record().phase;
        pod.set_record(Arc::clone(&record));
        self.events.pod(&self.model, before, &record);
    }

    /// Puts a container's record into the model, and tells those who listen. The
    /// caller has its turn.
    pub(super) fn show_container(&self, container: &Container, record: Arc<ContainerRecord>) {
        let before = container.record().phase;
        container.set_record(Arc::clone(&record));
        self.events.container(&self.model, before, &record);
    }

    async fn write_fact(self: &Arc<Self>, what: Unwritten, change: Change) {
        let Err(error) = self.records.commit(vec![change]).await else {
            return;
        };
        tracing::error!(?what, %error, "a fact could not be written down; trying again");
        let first = {
            let mut unwritten = self
                .unwritten
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            let first = unwritten.is_empty();
            unwritten.insert(what);
            first
        };
        if first {
            tokio::spawn(Arc::clone(self).write_again());
        }
    }

    /// Writes what could not be written, until nothing is left.
    async fn write_again(self: Arc<Self>) {
        loop {
            tokio::time::sleep(RETRY).await;
            let waiting: Vec<_> = {
                let unwritten = self
                    .unwritten
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner);
                unwritten.iter().cloned().collect()
            };
            for what in waiting {
                if self.write_one(&what).await {
                    let mut unwritten = self
                        .unwritten
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner);
                    unwritten.remove(&what);
                    // Under the lock: whoever adds the next one sees it empty and
                    // starts a new writer.
                    if unwritten.is_empty() {
                        tracing::info!("all facts are written down again");
                        return;
                    }
                }
            }
        }
    }

    /// Whether the record as it is now is on disk, or nobody needs it any more.
    async fn write_one(&self, what: &Unwritten) -> bool {
        // With its turn, so that no older record overtakes a newer one.
        match what {
            Unwritten::Pod(id) => {
                let Ok(pod) = self.model.pod(id) else {
                    return true;
                };
                let _turn = pod.turn.lock().await;
                !self.model.has_pod(id)
                    || self
                        .records
                        .commit(vec![Change::PutPod(pod.record())])
                        .await
                        .is_ok()
            }
            Unwritten::Container(id) => {
                let Ok(container) = self.model.container(id) else {
                    return true;
                };
                let _turn = container.turn.lock().await;
                let change = Change::PutContainer(container.record());
                !self.model.has_container(id) || self.records.commit(vec![change]).await.is_ok()
            }
        }
    }
}
