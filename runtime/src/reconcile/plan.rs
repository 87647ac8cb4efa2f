//! What has to be done. Pure.

use std::collections::{BTreeMap, BTreeSet};

use bulkhead_sandbox::{Process, ProcessId, ProcessState};

use crate::store::{ContainerPhase, ContainerRecord, PodPhase, PodRecord};

/// What was found of a pod that should live.
#[derive(Clone, Debug)]
pub enum Found {
    /// Its sandbox answers; these are its processes.
    Alive(Vec<Process>),
    /// It is gone, or answers no more: why.
    Gone(String),
}

/// What exists.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// Every pod that is ready by its record.
    pub pods: BTreeMap<String, Found>,
    /// Every pod that has left anything on the host, living ones too.
    pub leftovers: BTreeSet<String>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Remove what a pod without a record has left.
    DestroyLeftover(String),
    /// Undo a create that never finished.
    UndoPod(String),
    /// Finish a removal.
    RemovePod(String),
    /// The pod lives: watch it.
    KeepPod(String),
    /// Record that the pod has ended, and its containers with it; give back what
    /// it holds.
    EndPod {
        /// The pod.
        pod: String,
        /// Why it has ended, if that isn't known yet.
        reason: Option<String>,
    },
    /// Forget a container that never was, or whose pod is gone.
    DropContainer(String),
    /// Undo a container's create, or finish its removal, in a living pod.
    RemoveContainer(String),
    /// The container lives, or its end is to be learnt: go on with its log, and
    /// wait for its end.
    KeepContainer {
        /// The container.
        container: String,
        /// It began to run unrecorded: when, Unix ns.
        started: Option<i64>,
        /// It has ended already.
        ended: bool,
    },
    /// The guest doesn't know the container any more.
    LoseContainer(String),
    /// Remove a container from a guest that no record knows.
    RemoveStray {
        /// The living pod.
        pod: String,
        /// The container.
        container: String,
    },
    /// Kill an exec whose caller went with the last daemon.
    ForgetExec {
        /// The living pod.
        pod: String,
        /// The process.
        process: ProcessId,
    },
}

/// Compares records with the world, in both directions.
#[must_use]
pub fn plan(pods: &[PodRecord], containers: &[ContainerRecord], world: &World) -> Vec<Action> {
    let recorded: BTreeSet<&str> = pods.iter().map(|pod| pod.id.as_str()).collect();
    let mut actions: Vec<Action> = world
        .leftovers
        .iter()
        .filter(|id| !recorded.contains(id.as_str()))
        .map(|id| Action::DestroyLeftover(id.clone()))
        .collect();

    for pod in pods {
        let own = || containers.iter().filter(|it| it.pod_id == pod.id);
        match (pod.phase, world.pods.get(&pod.id)) {
            (PodPhase::Creating, _) => {
                actions.extend(own().map(|it| Action::DropContainer(it.id.clone())));
                actions.push(Action::UndoPod(pod.id.clone()));
            }
            // Its containers go with it.
            (PodPhase::Removing, _) => actions.push(Action::RemovePod(pod.id.clone())),
            (PodPhase::Ready, Some(Found::Alive(processes))) => {
                actions.push(Action::KeepPod(pod.id.clone()));
                living(pod, &own().collect::<Vec<_>>(), processes, &mut actions);
            }
            (PodPhase::Ready, found) => {
                let reason = match found {
                    Some(Found::Gone(reason)) => reason.clone(),
                    _ => "it was not found".to_owned(),
                };
                dead(own(), &mut actions);
                actions.push(Action::EndPod {
                    pod: pod.id.clone(),
                    reason: Some(reason),
                });
            }
            (PodPhase::NotReady, _) => {
                dead(own(), &mut actions);
                actions.push(Action::EndPod {
                    pod: pod.id.clone(),
                    reason: None,
                });
            }
        }
    }
    // Their pod's record could not be read, or was removed half-way.
    actions.extend(
        containers
            .iter()
            .filter(|it| !recorded.contains(it.pod_id.as_str()))
            .map(|it| Action::DropContainer(it.id.clone())),
    );
    actions
}

/// In a pod that has ended, half a create and half a removal both mean: gone. The
/// others end with the pod.
fn dead<'a>(containers: impl Iterator<Item = &'a ContainerRecord>, actions: &mut Vec<Action>) {
    actions.extend(
        containers
            .filter(|it| {
                matches!(
                    it.phase,
                    ContainerPhase::Creating | ContainerPhase::Removing
                )
            })
            .map(|it| Action::DropContainer(it.id.clone())),
    );
}

fn living(
    pod: &PodRecord,
    containers: &[&ContainerRecord],
    processes: &[Process],
    actions: &mut Vec<Action>,
) {
    for container in containers {
        let id = container.id.clone();
        let in_guest = processes
            .iter()
            .find(|process| process.id == ProcessId::init(id.as_str()));
        let action = match (container.phase, in_guest) {
            (ContainerPhase::Creating | ContainerPhase::Removing, _) => Action::RemoveContainer(id),
            (ContainerPhase::Exited, _) => continue,
            (ContainerPhase::Created | ContainerPhase::Running, None) => Action::LoseContainer(id),
            (ContainerPhase::Running, Some(process)) => Action::KeepContainer {
                container: id,
                started: None,
                ended: matches!(process.state, ProcessState::Exited(_)),
            },
            (ContainerPhase::Created, Some(process)) => {
                let ran = process.state != ProcessState::Created && process.started_unix_ns > 0;
                let started = ran.then_some(process.started_unix_ns);
                Action::KeepContainer {
                    container: id,
                    started,
                    ended: matches!(process.state, ProcessState::Exited(_)),
                }
            }
        };
        actions.push(action);
    }
    for process in processes {
        let known = containers.iter().any(|it| it.id == process.id.container_id);
        let action = match (known, process.id.exec_id.is_empty()) {
            (false, true) => Action::RemoveStray {
                pod: pod.id.clone(),
                container: process.id.container_id.clone(),
            },
            (true, false) => Action::ForgetExec {
                pod: pod.id.clone(),
                process: process.id.clone(),
            },
            // Goes with its container, or is the container.
            (false, false) | (true, true) => continue,
        };
        actions.push(action);
    }
}
