//! How much is pulled at the same time: by this node, and from one registry.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config;

/// The right to go on; who waits gets it when it is dropped.
pub(super) struct Turn {
    _permits: [Option<OwnedSemaphorePermit>; 2],
}

/// Bounds of a node.
pub(super) struct Bounds {
    pulls: Arc<Semaphore>,
    downloads: Arc<Semaphore>,
    /// Of the registries that something is being pulled from.
    registries: Mutex<HashMap<String, Arc<Semaphore>>>,
    per_registry: usize,
}

/// Bounds of downloads from one registry.
pub(super) struct Downloads {
    node: Arc<Semaphore>,
    registry: Arc<Semaphore>,
}

impl Bounds {
    pub(super) fn new(registries: &config::Registries) -> Self {
        let semaphore = |count| Arc::new(Semaphore::new(permits(count)));
        Self {
            pulls: semaphore(registries.pulls_at_once),
            downloads: semaphore(registries.downloads_at_once),
            registries: Mutex::default(),
            per_registry: permits(registries.downloads_at_once_per_registry),
        }
    }

    /// Waits until one more image may be pulled.
    pub(super) async fn pull(&self) -> Turn {
        Turn {
            _permits: [permit(&self.pulls).await, None],
        }
    }

    /// The bounds of downloads from a registry.
    pub(super) fn downloads(&self, registry: &str) -> Downloads {
        let mut registries = self
            .registries
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Those that nobody pulls from any more: names are the clients' to choose.
        registries.retain(|_, semaphore| Arc::strong_count(semaphore) > 1);
        let registry = registries
            .entry(registry.to_owned())
            .or_insert_with(|| Arc::new(Semaphore::new(self.per_registry)));
        Downloads {
            node: Arc::clone(&self.downloads),
            registry: Arc::clone(registry),
        }
    }
}

impl Downloads {
    /// Waits until one more layer may be fetched.
    pub(super) async fn turn(&self) -> Turn {
        // The registry's first: who waits for a slow one must not keep others waiting.
        let registry = permit(&self.registry).await;
        Turn {
            _permits: [registry, permit(&self.node).await],
        }
    }
}

/// None only of a semaphore that was closed; these never are.
async fn permit(semaphore: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    Arc::clone(semaphore).acquire_owned().await.ok()
}

fn permits(count: u32) -> usize {
    usize::try_from(count)
        .unwrap_or(usize::MAX)
        .clamp(1, Semaphore::MAX_PERMITS)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;

    use super::*;

    fn bounds() -> Bounds {
        Bounds::new(&config::Registries {
            pulls_at_once: 1,
            downloads_at_once: 3,
            downloads_at_once_per_registry: 2,
            ..config::Registries::default()
        })
    }

    #[test]
    fn pulls_wait_for_their_turn() {
        let bounds = bounds();
        let first = bounds.pull().now_or_never().unwrap();
        assert!(bounds.pull().now_or_never().is_none());
        drop(first);
        assert!(bounds.pull().now_or_never().is_some());
    }

    #[test]
    fn downloads_wait_for_their_registrys_and_the_nodes() {
        let bounds = bounds();
        let (a, b) = (bounds.downloads("a"), bounds.downloads("b"));
        let turn = |of: &Downloads| of.turn().now_or_never();
        let first = turn(&a);
        let _second = turn(&bounds.downloads("a"));
        assert!(turn(&a).is_none());
        let third = turn(&b);
        assert!(third.is_some() && turn(&b).is_none());
        drop(first);
        assert!(turn(&b).is_some());
    }

    #[test]
    fn registries_that_nobody_uses_are_forgotten() {
        let bounds = bounds();
        for n in 0..100 {
            bounds.downloads(&format!("r{n}"));
        }
        assert_eq!(bounds.registries.lock().unwrap().len(), 1);
    }
}
