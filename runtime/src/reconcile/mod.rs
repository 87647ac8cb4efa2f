//! Making records and world agree when the daemon starts.
//!
//! The daemon may have ended at any point: killed between an intent and its
//! effect, in the middle of a removal, or years of pod life ago. So it compares
//! both directions before it serves anybody:
//!
//! ```text
//!   records ──► what each says should exist ──┐
//!                                             ├─► plan ──► actions
//!   world ────► what does exist ──────────────┘
//! ```
//!
//! - a pod that was ready and lives is adopted: its containers' logs go on where
//!   they stood, and exits that happened meanwhile are learnt;
//! - a pod that was ready and has died is recorded as such, with its containers;
//! - half a create is undone, half a removal is finished: whole or gone;
//! - what no record knows of is removed.
//!
//! [`plan()`] decides all that and does nothing; it is pure and tested over every
//! combination. [`start`] looks, plans, and acts.

mod act;
mod look;
mod plan;

pub use plan::{Action, Found, World, plan};

use crate::{
    error::{Error, Result},
    pods::Pods,
};

/// What a start found and did.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Records that could not be read and were set aside.
    pub quarantined: Vec<String>,
    /// Pods that were taken over alive.
    pub adopted: usize,
    /// What was done, in order.
    pub actions: Vec<Action>,
}

/// Takes up where the last daemon stopped.
///
/// # Errors
/// The records as a whole can't be read. Anything less is logged, and repeated by
/// whoever asks for it next.
pub async fn start(pods: &Pods) -> Result<Report> {
    let inner = &pods.inner;
    let loaded = inner.records.load().await?;
    if let Some(cidr) = &loaded.pod_cidr
        && let Err(error) = inner.network.set_pod_cidr(cidr).await
    {
        tracing::error!(%cidr, %error, "the pod CIDR on record can't be used; using the configured pools");
    }
    let (mut world, mut living) = look::look(inner, &loaded.pods).await;

    // Addresses of living pods are taken before anything is given back.
    let leases: Vec<_> = loaded
        .pods
        .iter()
        .filter(|pod| living.contains_key(&pod.id))
        .filter_map(|pod| pod.lease.clone())
        .collect();
    match inner.network.reconcile(&leases).await {
        Ok(reconciled) => {
            for (pod, error) in reconciled.refused {
                tracing::error!(%pod, %error, "a living pod can't keep its addresses; ending it");
                look::give_up(&mut world, &mut living, &pod, &error.to_string());
            }
            if !reconciled.removed_taps.is_empty() {
                tracing::info!(taps = ?reconciled.removed_taps, "removed taps that no pod has");
            }
        }
        // The network mends itself when it is asked whether it is ready.
        Err(error) => tracing::error!(%error, "the pod network does not stand yet"),
    }

    let actions = plan(&loaded.pods, &loaded.containers, &world);
    let adopted = living.len();
    act::act(pods, loaded.pods, loaded.containers, living, &actions).await;
    if let Err(error) = inner.images.collect().await {
        tracing::warn!(%error, "images that nothing needs were not collected");
    }
    tracing::info!(
        pods = inner.model.pods().len(),
        adopted,
        actions = actions.len(),
        "took up where the last daemon stopped"
    );
    Ok(Report {
        quarantined: loaded.quarantined,
        adopted,
        actions,
    })
}

impl From<tokio::task::JoinError> for Error {
    fn from(error: tokio::task::JoinError) -> Self {
        Self::internal(format!("a task was cut off: {error}"))
    }
}

#[cfg(test)]
mod tests;
