//! Creates that can be joined.
//!
//! A client that gave up waiting asks again with the same key. The second call
//! must neither fail ("name is reserved") nor make a second pod: it joins the one
//! under way and gets its answer. So a create runs as a task of its own, which
//! does not care whether anybody still waits.

use std::{
    collections::HashMap,
    future::Future,
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

use crate::error::{Error, Kind, Result};

type Outcome = Option<Result<String>>;

/// Creates under way, by key. `T` is what is created from.
pub struct Inflight<K, T> {
    flights: Arc<Mutex<HashMap<K, Flight<T>>>>,
}

struct Flight<T> {
    from: T,
    outcome: watch::Receiver<Outcome>,
}

impl<K, T> Default for Inflight<K, T> {
    fn default() -> Self {
        Self {
            flights: Arc::default(),
        }
    }
}

impl<K, T> Inflight<K, T>
where
    K: Eq + Hash + Clone + Send + 'static,
    T: PartialEq + Clone + Send + 'static,
{
    /// Joins the create with this key, or takes the answer of `finished` for one
    /// that is done, or begins one with `start`. Returns the id.
    ///
    /// `finished` runs under the lock that guards the beginning of creates: between
    /// its look and the beginning nothing else begins, and nothing ends unseen.
    ///
    /// # Errors
    /// The create's own; or [`Kind::AlreadyExists`] when the one under way is made
    /// from something else.
    pub async fn join_or_start<F>(
        &self,
        key: K,
        from: &T,
        finished: impl FnOnce() -> Option<Result<String>>,
        start: impl FnOnce() -> F,
    ) -> Result<String>
    where
        F: Future<Output = Result<String>> + Send + 'static,
    {
        let mut outcome = {
            let mut flights = locked(&self.flights);
            if let Some(flight) = flights.get(&key) {
                if flight.from != *from {
                    return Err(Error::new(
                        Kind::AlreadyExists,
                        "it is being created from another configuration; wait for that to end",
                    ));
                }
                flight.outcome.clone()
            } else if let Some(done) = finished() {
                return done;
            } else {
                let (sender, outcome) = watch::channel(None);
                flights.insert(
                    key.clone(),
                    Flight {
                        from: from.clone(),
                        outcome: outcome.clone(),
                    },
                );
                let landing = Landing {
                    flights: Arc::clone(&self.flights),
                    key,
                    sender,
                };
                let work = start();
                tokio::spawn(async move {
                    let result = work.await;
                    landing.sender.send_replace(Some(result));
                    drop(landing);
                });
                outcome
            }
        };
        let result = match outcome.wait_for(Option::is_some).await {
            Ok(result) => result.clone(),
            Err(_) => None,
        };
        result.unwrap_or_else(|| Err(Error::internal("the create was cut off by a defect")))
    }

    /// How many are under way.
    pub fn len(&self) -> usize {
        locked(&self.flights).len()
    }

    /// Whether none is under way.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Takes a flight off the board however it ends, also by a panic.
struct Landing<K: Eq + Hash, T> {
    flights: Arc<Mutex<HashMap<K, Flight<T>>>>,
    key: K,
    sender: watch::Sender<Outcome>,
}

impl<K: Eq + Hash, T> Drop for Landing<K, T> {
    fn drop(&mut self) {
        locked(&self.flights).remove(&self.key);
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use tokio::sync::Notify;

    #[tokio::test]
    async fn retries_join_and_cancelled_clients_abort_nothing() {
        let inflight = Arc::new(Inflight::<u8, &str>::default());
        let gate = Arc::new(Notify::new());
        let begun = Arc::new(AtomicUsize::new(0));
        let call = || {
            let (inflight, gate, begun) = (inflight.clone(), gate.clone(), begun.clone());
            async move {
                let start = || async move {
                    begun.fetch_add(1, Ordering::SeqCst);
                    gate.notified().await;
                    Ok("id".to_owned())
                };
                inflight.join_or_start(1, &"config", || None, start).await
            }
        };
        let first = tokio::spawn(call());
        tokio::task::yield_now().await;
        first.abort();
        let _ = first.await;
        let joined: Vec<_> = (0..3).map(|_| tokio::spawn(call())).collect();
        tokio::task::yield_now().await;
        let other = inflight.join_or_start(1, &"other", || None, || async { Ok(String::new()) });
        assert_eq!(other.await.unwrap_err().kind(), Kind::AlreadyExists);
        gate.notify_one();
        for call in joined {
            assert_eq!(call.await.unwrap().unwrap(), "id");
        }
        assert_eq!(begun.load(Ordering::SeqCst), 1);
        assert!(inflight.is_empty());
    }

    #[tokio::test]
    async fn a_failed_create_can_be_tried_again_and_a_finished_one_is_not_repeated() {
        let inflight = Inflight::<u8, ()>::default();
        let fails = || async { Err(Error::internal("no")) };
        assert!(
            inflight
                .join_or_start(1, &(), || None, fails)
                .await
                .is_err()
        );
        let works = || async { Ok("id".to_owned()) };
        assert_eq!(
            inflight
                .join_or_start(1, &(), || None, works)
                .await
                .unwrap(),
            "id"
        );
        let done = || Some(Ok("id".to_owned()));
        let never = || async { panic!("begun twice") };
        assert_eq!(
            inflight.join_or_start(1, &(), done, never).await.unwrap(),
            "id"
        );
    }

    #[tokio::test]
    async fn a_defect_in_a_create_does_not_wedge_the_key() {
        let inflight = Inflight::<u8, ()>::default();
        let breaks = || async { panic!("a defect") };
        let error = inflight
            .join_or_start(1, &(), || None, breaks)
            .await
            .unwrap_err();
        assert_eq!(error.kind(), Kind::Internal);
        assert!(inflight.is_empty());
    }
}
