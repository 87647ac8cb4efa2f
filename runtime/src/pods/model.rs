//! What the daemon knows, in memory: every list and status answer comes from here
//! and waits for no guest and no disk.
//!
//! Locks, in the order in which they are taken:
//!
//! 1. a pod's `turn` (async): stop, removal and the settling of a dead sandbox;
//! 2. a container's `turn` (async): creation, start, removal, and recording its end;
//! 3. the model's maps, then a pod's or container's `state` (short, never held
//!    across an await).
//!
//! There is no lock over all pods that anything slow happens under.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
};

use bulkhead_sandbox::Sandbox;
use tokio::sync::watch;

use crate::{
    error::{Error, Result},
    pods::images::ImageHold,
    stats::Meter,
    store::{ContainerKey, ContainerPhase, ContainerRecord, PodKey, PodPhase, PodRecord},
};

/// A pod that the daemon knows.
pub struct Pod {
    /// Its id.
    pub id: String,
    /// What clients identify it by.
    pub key: PodKey,
    /// Held by stop, removal, and the settling of a dead sandbox.
    pub turn: tokio::sync::Mutex<()>,
    /// What it uses.
    pub meter: Meter,
    state: Mutex<PodState>,
}

struct PodState {
    record: Arc<PodRecord>,
    sandbox: Option<Arc<dyn Sandbox>>,
    /// A stop has begun: nothing new may be made in it.
    stopping: bool,
}

/// A container that the daemon knows.
pub struct Container {
    /// Its id.
    pub id: String,
    /// What clients identify it by.
    pub key: ContainerKey,
    /// Held by creation, start, removal, and the recording of its end.
    pub turn: tokio::sync::Mutex<()>,
    /// The phase, for those who wait for it.
    phase: watch::Sender<ContainerPhase>,
    state: Mutex<ContainerState>,
}

struct ContainerState {
    record: Arc<ContainerRecord>,
    /// Keeps the image's layers in place while a guest may use them.
    hold: Option<ImageHold>,
}

impl Pod {
    /// The record as it is now.
    pub fn record(&self) -> Arc<PodRecord> {
        Arc::clone(&locked(&self.state).record)
    }

    /// Its sandbox, while there is one.
    pub fn sandbox(&self) -> Option<Arc<dyn Sandbox>> {
        locked(&self.state).sandbox.clone()
    }

    /// The sandbox of a ready pod, for work in it.
    ///
    /// # Errors
    /// [`Kind::FailedPrecondition`](crate::Kind::FailedPrecondition) when it isn't ready.
    pub fn ready_sandbox(&self) -> Result<Arc<dyn Sandbox>> {
        let state = locked(&self.state);
        match (&state.sandbox, state.record.phase) {
            (Some(_), PodPhase::Ready) if state.stopping => Err(Error::precondition(format!(
                "pod {} is being stopped",
                self.id
            ))),
            (Some(sandbox), PodPhase::Ready) => Ok(Arc::clone(sandbox)),
            _ => Err(Error::precondition(format!(
                "pod {} is not ready: its sandbox has ended",
                self.id
            ))),
        }
    }

    /// From now on nothing new may be made in it.
    pub fn set_stopping(&self) {
        locked(&self.state).stopping = true;
    }

    pub(crate) fn set_record(&self, record: Arc<PodRecord>) {
        locked(&self.state).record = record;
    }

    pub(crate) fn set_sandbox(&self, sandbox: Option<Arc<dyn Sandbox>>) {
        locked(&self.state).sandbox = sandbox;
    }
}

impl Container {
    /// The record as it is now.
    pub fn record(&self) -> Arc<ContainerRecord> {
        Arc::clone(&locked(&self.state).record)
    }

    /// Follows its phase.
    pub fn phases(&self) -> watch::Receiver<ContainerPhase> {
        self.phase.subscribe()
    }

    pub(crate) fn set_record(&self, record: Arc<ContainerRecord>) {
        let phase = record.phase;
        locked(&self.state).record = record;
        self.phase
            .send_if_modified(|old| std::mem::replace(old, phase) != phase);
    }

    pub(crate) fn set_hold(&self, hold: Option<ImageHold>) {
        let old = std::mem::replace(&mut locked(&self.state).hold, hold);
        // Dropped outside the lock: it may delete a removed image.
        drop(old);
    }
}

/// All pods and containers.
#[derive(Default)]
pub struct Model {
    maps: RwLock<Maps>,
}

#[derive(Default)]
struct Maps {
    pods: BTreeMap<String, Arc<Pod>>,
    pod_keys: HashMap<PodKey, String>,
    containers: BTreeMap<String, Arc<Container>>,
    container_keys: HashMap<ContainerKey, String>,
}

impl Model {
    /// Adds a pod.
    pub fn insert_pod(&self, record: PodRecord) -> Arc<Pod> {
        let pod = Arc::new(Pod {
            id: record.id.clone(),
            key: record.key(),
            turn: tokio::sync::Mutex::default(),
            meter: Meter::default(),
            state: Mutex::new(PodState {
                record: Arc::new(record),
                sandbox: None,
                stopping: false,
            }),
        });
        let mut maps = self.write();
        maps.pod_keys.insert(pod.key.clone(), pod.id.clone());
        maps.pods.insert(pod.id.clone(), Arc::clone(&pod));
        pod
    }

    /// Adds a container to a pod that is ready: checked in the same moment, so that
    /// a stop which begins later finds it.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::Kind::NotFound) or
    /// [`Kind::FailedPrecondition`](crate::Kind::FailedPrecondition) by the pod's state.
    pub fn insert_container(&self, record: ContainerRecord) -> Result<Arc<Container>> {
        let mut maps = self.write();
        let pod = maps
            .pods
            .get(&record.pod_id)
            .ok_or_else(|| Error::not_found(format!("there is no pod {}", record.pod_id)))?;
        pod.ready_sandbox()?;
        Ok(maps.insert_container(record))
    }

    /// Adds a container as it was found on record.
    pub fn restore_container(&self, record: ContainerRecord) -> Arc<Container> {
        self.write().insert_container(record)
    }

    /// Forgets a pod and its containers.
    pub fn remove_pod(&self, id: &str) {
        let mut gone = Vec::new();
        let mut maps = self.write();
        if let Some(pod) = maps.pods.remove(id)
            && maps.pod_keys.get(&pod.key) == Some(&pod.id)
        {
            maps.pod_keys.remove(&pod.key);
        }
        let ids: Vec<_> = maps.in_pod(id).map(|it| it.id.clone()).collect();
        for id in ids {
            gone.extend(maps.remove_container(&id));
        }
        drop(maps);
        for container in gone {
            container.set_hold(None);
        }
    }

    /// Lets the pod's key be used again while the pod itself is still being undone.
    pub fn free_pod_key(&self, pod: &Pod) {
        let mut maps = self.write();
        if maps.pod_keys.get(&pod.key) == Some(&pod.id) {
            maps.pod_keys.remove(&pod.key);
        }
    }

    /// The same for a container.
    pub fn free_container_key(&self, container: &Container) {
        let mut maps = self.write();
        if maps.container_keys.get(&container.key) == Some(&container.id) {
            maps.container_keys.remove(&container.key);
        }
    }

    /// The pod with exactly this id, in any phase.
    pub fn pod_exactly(&self, id: &str) -> Option<Arc<Pod>> {
        self.read().pods.get(id).cloned()
    }

    /// The container with exactly this id, in any phase.
    pub fn container_exactly(&self, id: &str) -> Option<Arc<Container>> {
        self.read().containers.get(id).cloned()
    }

    /// Whether the pod with exactly this id has not been removed.
    pub fn has_pod(&self, id: &str) -> bool {
        self.read().pods.contains_key(id)
    }

    /// Whether the container with exactly this id has not been removed.
    pub fn has_container(&self, id: &str) -> bool {
        self.read().containers.contains_key(id)
    }

    /// Forgets a container.
    pub fn remove_container(&self, id: &str) {
        let gone = self.write().remove_container(id);
        if let Some(container) = gone {
            container.set_hold(None);
        }
    }

    /// All pods, ordered by id.
    pub fn pods(&self) -> Vec<Arc<Pod>> {
        self.read().pods.values().cloned().collect()
    }

    /// All containers, ordered by id.
    pub fn containers(&self) -> Vec<Arc<Container>> {
        self.read().containers.values().cloned().collect()
    }

    /// All containers of a pod, ordered by id.
    pub fn containers_in(&self, pod_id: &str) -> Vec<Arc<Container>> {
        self.read().in_pod(pod_id).cloned().collect()
    }

    /// The pod with exactly this key, in any phase.
    pub fn pod_by_key(&self, key: &PodKey) -> Option<Arc<Pod>> {
        let maps = self.read();
        maps.pods.get(maps.pod_keys.get(key)?).cloned()
    }

    /// The container with exactly this key, in any phase.
    pub fn container_by_key(&self, key: &ContainerKey) -> Option<Arc<Container>> {
        let maps = self.read();
        maps.containers.get(maps.container_keys.get(key)?).cloned()
    }

    /// The pod that a client means by its id, or by a beginning of it that no
    /// other pod has.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::Kind::NotFound), or
    /// [`Kind::InvalidArgument`](crate::Kind::InvalidArgument) for an empty or
    /// ambiguous id.
    pub fn pod(&self, id: &str) -> Result<Arc<Pod>> {
        let maps = self.read();
        find(&maps.pods, "pod", id, |pod| pod.record().phase.is_listed())
    }

    /// The container that a client means, likewise.
    ///
    /// # Errors
    /// As [`Model::pod`].
    pub fn container(&self, id: &str) -> Result<Arc<Container>> {
        let maps = self.read();
        find(&maps.containers, "container", id, |it| {
            it.record().phase.is_listed()
        })
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Maps> {
        // No change of the maps can panic half-way.
        self.maps.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Maps> {
        self.maps.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Maps {
    fn insert_container(&mut self, record: ContainerRecord) -> Arc<Container> {
        let container = Arc::new(Container {
            id: record.id.clone(),
            key: record.key(),
            turn: tokio::sync::Mutex::default(),
            phase: watch::Sender::new(record.phase),
            state: Mutex::new(ContainerState {
                record: Arc::new(record),
                hold: None,
            }),
        });
        self.container_keys
            .insert(container.key.clone(), container.id.clone());
        self.containers
            .insert(container.id.clone(), Arc::clone(&container));
        container
    }

    fn remove_container(&mut self, id: &str) -> Option<Arc<Container>> {
        let container = self.containers.remove(id)?;
        if self.container_keys.get(&container.key) == Some(&container.id) {
            self.container_keys.remove(&container.key);
        }
        Some(container)
    }

    fn in_pod<'a>(&'a self, pod_id: &'a str) -> impl Iterator<Item = &'a Arc<Container>> {
        self.containers
            .values()
            .filter(move |it| it.key.pod_id == pod_id)
    }
}

/// Exact, or by a beginning that only one has.
fn find<T>(
    map: &BTreeMap<String, Arc<T>>,
    what: &str,
    id: &str,
    listed: impl Fn(&T) -> bool,
) -> Result<Arc<T>> {
    if id.is_empty() {
        return Err(Error::invalid(format!("the {what} id is empty")));
    }
    let not_found = || {
        let shown: String = id.chars().take(80).collect();
        Error::not_found(format!("there is no {what} {shown:?}"))
    };
    if let Some(exact) = map.get(id) {
        return if listed(exact) {
            Ok(Arc::clone(exact))
        } else {
            Err(not_found())
        };
    }
    let mut fitting = map
        .range(id.to_owned()..)
        .take_while(|(known, _)| known.starts_with(id))
        .filter(|(_, it)| listed(it));
    match (fitting.next(), fitting.next()) {
        (Some((_, it)), None) => Ok(Arc::clone(it)),
        (Some((first, _)), Some((second, _))) => Err(Error::invalid(format!(
            "{what} id {id:?} is ambiguous: {first} and {second} begin with it; give more digits"
        ))),
        (None, _) => Err(not_found()),
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Every change under these locks is a single assignment.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Kind, testing::records};

    #[test]
    fn ids_may_be_cut_short_while_they_are_unambiguous() {
        let model = Model::default();
        for id in ["abc1", "abc2", "abd", "ab"] {
            model.insert_pod(records::pod(id, PodPhase::Ready));
        }
        model.insert_pod(records::pod("zz", PodPhase::Creating));
        assert_eq!(model.pod("abc1").unwrap().id, "abc1");
        assert_eq!(model.pod("abd").unwrap().id, "abd");
        // An exact match is no prefix.
        assert_eq!(model.pod("ab").unwrap().id, "ab");
        let ambiguous = model.pod("abc").err().unwrap();
        assert_eq!(ambiguous.kind(), Kind::InvalidArgument);
        assert!(
            ambiguous.to_string().contains("abc1 and abc2"),
            "{ambiguous}"
        );
        for absent in ["x", "abcd", "z", "zz"] {
            assert_eq!(
                model.pod(absent).err().unwrap().kind(),
                Kind::NotFound,
                "{absent}"
            );
        }
        assert_eq!(model.pod("").err().unwrap().kind(), Kind::InvalidArgument);
    }

    #[test]
    fn containers_go_only_into_pods_that_are_ready() {
        let model = Model::default();
        let record = |id| records::container(id, "p", ContainerPhase::Creating);
        assert_eq!(
            model.insert_container(record("c")).err().unwrap().kind(),
            Kind::NotFound
        );
        model.insert_pod(records::pod("p", PodPhase::NotReady));
        assert_eq!(
            model.insert_container(record("c")).err().unwrap().kind(),
            Kind::FailedPrecondition
        );
        assert!(model.containers().is_empty());
    }

    #[test]
    fn a_removed_pod_takes_its_containers_along() {
        let model = Model::default();
        for pod in ["p", "q"] {
            model.insert_pod(records::pod(pod, PodPhase::Ready));
            let id = format!("{pod}c");
            model.restore_container(records::container(&id, pod, ContainerPhase::Created));
        }
        model.remove_pod("p");
        assert_eq!(model.pods().len(), 1);
        assert_eq!(model.containers().len(), 1);
        assert!(
            model
                .pod_by_key(&records::pod("p", PodPhase::Ready).key())
                .is_none()
        );
        assert!(model.container("qc").is_ok());
        model.remove_container("qc");
        assert!(model.containers_in("q").is_empty());
    }
}
