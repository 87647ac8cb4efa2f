//! What happens to containers and pods, for those who want to hear of it at once.
//!
//! An event is published where the model changes, under the container's or pod's
//! turn: so each change gives one event, in the order of the changes. Subscribers have
//! a bounded queue. One that does not read loses its place, and is told so, rather
//! than an event: it lists, and subscribes again.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use tokio::sync::mpsc;

use crate::{
    clock,
    error::{Error, Kind, Result},
    pods::model::Model,
    store::{ContainerPhase, ContainerRecord, PodPhase, PodRecord},
};

/// Events that a subscriber may lag behind.
const QUEUE: usize = 1024;
/// Most subscribers.
const SUBSCRIBERS_MAX: usize = 64;

/// What happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Happened {
    /// It has been made.
    Created,
    /// It runs.
    Started,
    /// It runs no more.
    Stopped,
    /// It is gone.
    Deleted,
}

/// Something that happened to a container, or to a pod: then `id` is the pod's.
#[derive(Clone, Debug)]
pub struct Event {
    /// To whom.
    pub id: String,
    /// What.
    pub happened: Happened,
    /// When, Unix ns.
    pub at_unix_ns: i64,
    /// The pod, right after it.
    pub pod: Arc<PodRecord>,
    /// Its containers, likewise.
    pub containers: Vec<Arc<ContainerRecord>>,
}

/// Tells subscribers what happens.
#[derive(Debug, Default)]
pub struct Events {
    subscribers: Mutex<Vec<Subscriber>>,
}

#[derive(Debug)]
struct Subscriber {
    queue: mpsc::Sender<Arc<Event>>,
    lagged: Arc<AtomicBool>,
}

/// Events from the moment of its making on.
#[derive(Debug)]
pub struct Subscription {
    queue: mpsc::Receiver<Arc<Event>>,
    lagged: Arc<AtomicBool>,
    ended: bool,
}

impl Events {
    /// Hears of everything from now on.
    ///
    /// # Errors
    /// [`Kind::ResourceExhausted`]: there are too many who do.
    pub fn subscribe(&self) -> Result<Subscription> {
        let mut subscribers = self.lock();
        subscribers.retain(|it| !it.queue.is_closed());
        if subscribers.len() >= SUBSCRIBERS_MAX {
            return Err(Error::new(
                Kind::ResourceExhausted,
                format!("{SUBSCRIBERS_MAX} clients listen for events already; end one of them"),
            ));
        }
        let (sender, receiver) = mpsc::channel(QUEUE);
        let lagged = Arc::new(AtomicBool::new(false));
        subscribers.push(Subscriber {
            queue: sender,
            lagged: Arc::clone(&lagged),
        });
        Ok(Subscription {
            queue: receiver,
            lagged,
            ended: false,
        })
    }

    fn publish(&self, event: impl FnOnce() -> Event) {
        let mut subscribers = self.lock();
        if subscribers.is_empty() {
            return;
        }
        let event = Arc::new(event());
        subscribers.retain(|it| match it.queue.try_send(Arc::clone(&event)) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Closed(_)) => false,
            Err(mpsc::error::TrySendError::Full(_)) => {
                tracing::warn!("a client does not read its events; its stream is ended");
                it.lagged.store(true, Ordering::SeqCst);
                false
            }
        });
    }

    /// A container has gone from one phase to another.
    pub(super) fn container(
        &self,
        model: &Model,
        from: ContainerPhase,
        record: &Arc<ContainerRecord>,
    ) {
        use ContainerPhase::{Created, Exited, Running};
        let happened = match record.phase {
            to if to == from => return,
            Created => Happened::Created,
            Running => Happened::Started,
            Exited => Happened::Stopped,
            _ => return,
        };
        self.about(model, &record.pod_id, &record.id, happened);
    }

    /// A pod has gone from one phase to another.
    pub(super) fn pod(&self, model: &Model, from: PodPhase, record: &Arc<PodRecord>) {
        match record.phase {
            to if to == from => {}
            // A sandbox runs from its making on.
            PodPhase::Ready => {
                self.about(model, &record.id, &record.id, Happened::Created);
                self.about(model, &record.id, &record.id, Happened::Started);
            }
            PodPhase::NotReady => self.about(model, &record.id, &record.id, Happened::Stopped),
            PodPhase::Creating | PodPhase::Removing => {}
        }
    }

    /// A container that clients could see is gone.
    pub(super) fn container_deleted(&self, model: &Model, record: &ContainerRecord) {
        if record.phase.is_listed() {
            self.about(model, &record.pod_id, &record.id, Happened::Deleted);
        }
    }

    /// A pod that clients could see is gone.
    pub(super) fn pod_deleted(&self, record: Arc<PodRecord>) {
        if record.phase.is_listed() {
            self.publish(|| Event {
                id: record.id.clone(),
                happened: Happened::Deleted,
                at_unix_ns: clock::now_ns(),
                pod: record,
                containers: Vec::new(),
            });
        }
    }

    fn about(&self, model: &Model, pod_id: &str, id: &str, happened: Happened) {
        let Some(pod) = model.pod_exactly(pod_id) else {
            return;
        };
        self.publish(|| Event {
            id: id.to_owned(),
            happened,
            at_unix_ns: clock::now_ns(),
            pod: pod.record(),
            containers: model
                .containers_in(pod_id)
                .iter()
                .map(|container| container.record())
                .filter(|record| record.phase.is_listed())
                .collect(),
        });
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Subscriber>> {
        self.subscribers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Subscription {
    /// The next event; `None` after the end.
    ///
    /// # Errors
    /// [`Kind::ResourceExhausted`], once: events came faster than they were taken, and
    /// those after the last one were not kept.
    pub async fn next(&mut self) -> Option<Result<Arc<Event>>> {
        if self.ended {
            return None;
        }
        if let Some(event) = self.queue.recv().await {
            return Some(Ok(event));
        }
        self.ended = true;
        self.lagged.load(Ordering::SeqCst).then(|| {
            Err(Error::new(
                Kind::ResourceExhausted,
                format!(
                    "more than {QUEUE} events were waiting to be read; list pods and containers, \
                     then listen again"
                ),
            ))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::records;

    fn model() -> Model {
        let model = Model::default();
        model.insert_pod(records::pod("p", PodPhase::Ready));
        model
    }

    fn record(id: &str, phase: ContainerPhase) -> Arc<ContainerRecord> {
        Arc::new(records::container(id, "p", phase))
    }

    #[tokio::test]
    async fn each_change_is_told_once_and_in_order() {
        let (model, events) = (model(), Events::default());
        use ContainerPhase::{Created, Creating, Exited, Removing, Running};
        let mut one = events.subscribe().unwrap();
        let walk = [Creating, Created, Created, Running, Exited, Removing];
        for pair in walk.windows(2) {
            events.container(&model, pair[0], &record("c", pair[1]));
        }
        events.container_deleted(&model, &record("c", Removing));
        // One that no client has seen is not deleted for them either.
        events.container_deleted(&model, &record("d", Creating));
        drop(events);
        let mut seen = Vec::new();
        while let Some(event) = one.next().await {
            let event = event.unwrap();
            assert_eq!((event.id.as_str(), event.pod.id.as_str()), ("c", "p"));
            seen.push(event.happened);
        }
        use Happened::{Created as C, Deleted, Started, Stopped};
        assert_eq!(seen, [C, Started, Stopped, Deleted]);
    }

    #[tokio::test]
    async fn a_slow_client_is_ended_and_told_so() {
        let (model, events) = (model(), Events::default());
        let mut slow = events.subscribe().unwrap();
        let mut fast = events.subscribe().unwrap();
        for _ in 0..=QUEUE {
            events.container(
                &model,
                ContainerPhase::Created,
                &record("c", ContainerPhase::Running),
            );
            fast.next().await.unwrap().unwrap();
        }
        for _ in 0..QUEUE {
            slow.next().await.unwrap().unwrap();
        }
        let error = slow.next().await.unwrap().unwrap_err();
        assert_eq!(error.kind(), Kind::ResourceExhausted);
        assert!(slow.next().await.is_none());
        assert_eq!(events.lock().len(), 1);
    }

    #[test]
    fn clients_that_have_gone_make_room() {
        let events = Events::default();
        let held: Vec<_> = (0..SUBSCRIBERS_MAX)
            .map(|_| events.subscribe().unwrap())
            .collect();
        assert_eq!(
            events.subscribe().unwrap_err().kind(),
            Kind::ResourceExhausted
        );
        drop(held);
        events.subscribe().unwrap();
        assert_eq!(events.lock().len(), 1);
    }
}
