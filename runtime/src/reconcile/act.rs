//! Doing what was planned.

use std::sync::Arc;

use bulkhead_image::Digest;

use super::{look::Living, plan::Action};
use crate::{
    clock,
    pods::{Inner, Pods, unknown_exit},
    store::{Change, ContainerRecord, PodRecord},
};

/// Fills the model with all records, then does each action. Pods are independent
/// of each other, but a start is no race: one after the other is easier to follow
/// in the log, and only what is slow (adopting) was done at once.
pub(super) async fn act(
    pods: &Pods,
    records: Vec<PodRecord>,
    containers: Vec<ContainerRecord>,
    living: Living,
    actions: &[Action],
) {
    let inner = &pods.inner;
    for record in records {
        let sandbox = living.get(&record.id).cloned();
        let pod = inner.model.insert_pod(record);
        pod.set_sandbox(sandbox);
    }
    for record in containers {
        let alive = living.contains_key(&record.pod_id);
        let image = record.image_id.clone();
        let container = inner.model.restore_container(record);
        if alive {
            // Its layers are attached until it is removed.
            let hold = image
                .parse::<Digest>()
                .ok()
                .and_then(|id| inner.images.hold(&id).ok());
            container.set_hold(hold);
        }
    }
    for action in actions {
        tracing::info!(?action, "reconciling");
        if let Err(error) = one(inner, &living, action).await {
            tracing::error!(?action, %error, "reconciling failed");
        }
    }
}

async fn one(inner: &Arc<Inner>, living: &Living, action: &Action) -> crate::Result<()> {
    match action {
        Action::DestroyLeftover(pod) => inner.launcher.destroy(pod).await?,
        Action::UndoPod(id) => {
            if let Some(pod) = inner.model.pod_exactly(id) {
                inner.unwind_pod(&pod).await;
            }
        }
        Action::RemovePod(id) => {
            if let Some(pod) = inner.model.pod_exactly(id) {
                let _turn = pod.turn.lock().await;
                inner.remove_pod(&pod).await?;
            }
        }
        Action::KeepPod(id) => {
            if let (Some(pod), Some(sandbox)) = (inner.model.pod_exactly(id), living.get(id)) {
                inner.watch_sandbox(&pod, Arc::clone(sandbox));
            }
        }
        Action::EndPod { pod: id, reason } => {
            if let Some(pod) = inner.model.pod_exactly(id) {
                let _turn = pod.turn.lock().await;
                let known = pod.record().exit.clone();
                let exit = known
                    .unwrap_or_else(|| unknown_exit(reason.as_deref().unwrap_or("it has ended")));
                inner.settle(&pod, exit).await;
                inner.stop_pod(&pod).await?;
            }
        }
        Action::DropContainer(id) => {
            inner
                .records
                .commit(vec![Change::DropContainer(id.clone())])
                .await?;
            inner.model.remove_container(id);
        }
        Action::RemoveContainer(id) => {
            if let Some(container) = inner.model.container_exactly(id) {
                let _turn = container.turn.lock().await;
                inner.forget_container(&container).await?;
            }
        }
        Action::KeepContainer {
            container: id,
            started,
            ended,
        } => {
            keep(inner, living, id, *started, *ended).await;
        }
        Action::LoseContainer(id) => {
            if let Some(container) = inner.model.container_exactly(id) {
                let _turn = container.turn.lock().await;
                if let Some(lost) = container.record().lost(clock::now_ns()) {
                    inner.container_fact(&container, lost).await;
                }
            }
        }
        Action::RemoveStray { pod, container } => {
            if let Some(sandbox) = living.get(pod) {
                sandbox.remove_container(container).await?;
            }
        }
        Action::ForgetExec { pod, process } => {
            if let Some(sandbox) = living.get(pod) {
                sandbox.forget_exec(process).await?;
            }
        }
    }
    Ok(())
}

async fn keep(inner: &Arc<Inner>, living: &Living, id: &str, started: Option<i64>, ended: bool) {
    let Some(container) = inner.model.container_exactly(id) else {
        return;
    };
    let Some(sandbox) = living.get(&container.key.pod_id) else {
        return;
    };
    {
        let _turn = container.turn.lock().await;
        if let Some(at) = started
            && let Some(running) = container.record().started(at)
        {
            inner.container_fact(&container, running).await;
        }
    }
    inner.resume_container(&container, Arc::clone(sandbox), ended);
}
