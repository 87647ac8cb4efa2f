//! The plan, over every combination of record and world.

use bulkhead_sandbox::{Exit, Process, ProcessId, ProcessState};

use super::*;
use crate::{
    store::{ContainerPhase as C, ContainerRecord, PodPhase as P, PodRecord},
    testing::records,
};

const PODS: [P; 4] = [P::Creating, P::Ready, P::NotReady, P::Removing];
const CONTAINERS: [C; 5] = [C::Creating, C::Created, C::Running, C::Exited, C::Removing];

/// What the guest may say of a container: unknown, or a state and when it began.
fn guests() -> [Option<(ProcessState, i64)>; 5] {
    let exit = Exit {
        code: 1,
        oom_killed: false,
        finished_unix_ns: 9,
        written: Default::default(),
    };
    [
        None,
        Some((ProcessState::Created, 0)),
        Some((ProcessState::Running, 5)),
        Some((ProcessState::Exited(exit), 5)),
        // Its init died before it was started.
        Some((ProcessState::Exited(exit), 0)),
    ]
}

fn process(id: &str, exec: &str, state: ProcessState, started: i64) -> Process {
    Process {
        id: ProcessId {
            container_id: id.to_owned(),
            exec_id: exec.to_owned(),
        },
        state,
        started_unix_ns: started,
    }
}

fn world(found: Option<Found>, leftovers: &[&str]) -> World {
    World {
        pods: found
            .into_iter()
            .map(|found| ("p".to_owned(), found))
            .collect(),
        leftovers: leftovers.iter().map(|id| (*id).to_owned()).collect(),
    }
}

fn pod(phase: P) -> Vec<PodRecord> {
    vec![records::pod("p", phase)]
}

fn container(phase: C) -> Vec<ContainerRecord> {
    vec![records::container("c", "p", phase)]
}

fn keep(started: Option<i64>, ended: bool) -> Action {
    Action::KeepContainer {
        container: "c".into(),
        started,
        ended,
    }
}

#[test]
fn a_living_pod_keeps_what_is_whole_and_loses_what_is_half() {
    for phase in CONTAINERS {
        for guest in guests() {
            let processes = guest
                .map(|(state, started)| process("c", "", state, started))
                .into_iter();
            let world = world(Some(Found::Alive(processes.collect())), &["p"]);
            let actions = plan(&pod(P::Ready), &container(phase), &world);
            let (first, rest) = actions.split_first().unwrap();
            assert_eq!(*first, Action::KeepPod("p".into()));
            let ended = matches!(guest, Some((ProcessState::Exited(_), _)));
            let wanted = match (phase, guest) {
                (C::Creating | C::Removing, _) => vec![Action::RemoveContainer("c".into())],
                (C::Exited, _) => vec![],
                (C::Created | C::Running, None) => vec![Action::LoseContainer("c".into())],
                (C::Running, Some(_)) => vec![keep(None, ended)],
                // Started, and the daemon was killed before it could write that down.
                (C::Created, Some((ProcessState::Running | ProcessState::Exited(_), 5))) => {
                    vec![keep(Some(5), ended)]
                }
                (C::Created, Some(_)) => vec![keep(None, ended)],
            };
            assert_eq!(rest, wanted, "{phase:?} with {guest:?}");
        }
    }
}

#[test]
fn a_dead_pod_ends_whatever_it_was() {
    for phase in CONTAINERS {
        for (pod_phase, found) in [
            (P::Ready, Some(Found::Gone("panic".into()))),
            (P::Ready, None),
            (P::NotReady, None),
        ] {
            let reason = match (pod_phase, &found) {
                (P::Ready, Some(_)) => Some("panic".to_owned()),
                (P::Ready, None) => Some("it was not found".to_owned()),
                _ => None,
            };
            let actions = plan(&pod(pod_phase), &container(phase), &world(found, &["p"]));
            let end = Action::EndPod {
                pod: "p".into(),
                reason,
            };
            let wanted = match phase {
                C::Creating | C::Removing => vec![Action::DropContainer("c".into()), end],
                C::Created | C::Running | C::Exited => vec![end],
            };
            assert_eq!(actions, wanted, "{pod_phase:?}, {phase:?}");
        }
    }
}

#[test]
fn half_made_pods_are_undone_and_half_removed_ones_removed() {
    for phase in CONTAINERS {
        let undone = plan(&pod(P::Creating), &container(phase), &world(None, &["p"]));
        assert_eq!(
            undone,
            [
                Action::DropContainer("c".into()),
                Action::UndoPod("p".into())
            ]
        );
        let removed = plan(&pod(P::Removing), &container(phase), &world(None, &["p"]));
        assert_eq!(removed, [Action::RemovePod("p".into())]);
    }
}

#[test]
fn what_no_record_knows_is_removed() {
    for phase in PODS {
        let actions = plan(&pod(phase), &[], &world(None, &["p", "q", "r"]));
        let strays = [
            Action::DestroyLeftover("q".into()),
            Action::DestroyLeftover("r".into()),
        ];
        assert_eq!(actions[..2], strays, "{phase:?}");
        assert!(!actions.contains(&Action::DestroyLeftover("p".into())));
    }
    let orphan = plan(&[], &container(C::Running), &World::default());
    assert_eq!(orphan, [Action::DropContainer("c".into())]);
    assert_eq!(plan(&[], &[], &World::default()), []);
}

#[test]
fn strays_in_a_living_guest_go_and_execs_without_a_caller_too() {
    let run = ProcessState::Running;
    let processes = vec![
        process("c", "", run, 5),
        process("c", "probe", run, 6),
        process("stray", "", run, 5),
        process("stray", "probe", run, 6),
    ];
    let world = world(Some(Found::Alive(processes)), &["p"]);
    let actions = plan(&pod(P::Ready), &container(C::Running), &world);
    let probe = ProcessId {
        container_id: "c".into(),
        exec_id: "probe".into(),
    };
    assert_eq!(
        actions,
        [
            Action::KeepPod("p".into()),
            keep(None, false),
            Action::ForgetExec {
                pod: "p".into(),
                process: probe
            },
            Action::RemoveStray {
                pod: "p".into(),
                container: "stray".into()
            },
        ]
    );
}
