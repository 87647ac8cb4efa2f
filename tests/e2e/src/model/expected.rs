//! What the node should say.

use std::collections::BTreeMap;

use bulkhead_cri_api::v1::{self as cri, ContainerState, PodSandboxState};

/// A container.
#[derive(Clone, Debug)]
pub(super) struct Container {
    pub(super) id: String,
    /// Exits with 5 by itself.
    pub(super) short: bool,
    pub(super) state: ContainerState,
}

/// A pod.
#[derive(Clone, Debug)]
pub(super) struct Pod {
    pub(super) id: String,
    pub(super) ready: bool,
    pub(super) containers: BTreeMap<u8, Container>,
}

impl Pod {
    /// A pod that has just been made.
    pub(super) fn new(id: String) -> Self {
        Self {
            id,
            ready: true,
            containers: BTreeMap::new(),
        }
    }

    /// It ended, and everything in it.
    pub(super) fn end(&mut self) {
        self.ready = false;
        for container in self.containers.values_mut() {
            container.state = ContainerState::ContainerExited;
        }
    }
}

/// All pods by their slots.
#[derive(Debug, Default)]
pub(super) struct Expected {
    pub(super) pods: BTreeMap<u8, Pod>,
}

impl Expected {
    /// The id of the pod in a slot, or one that no pod has.
    pub(super) fn pod_id(&self, p: u8) -> String {
        self.pods
            .get(&p)
            .map_or_else(|| "0".repeat(64), |pod| pod.id.clone())
    }

    /// The container in a slot.
    pub(super) fn container(&mut self, p: u8, c: u8) -> Option<&mut Container> {
        self.pods.get_mut(&p)?.containers.get_mut(&c)
    }

    /// The id of the container in a slot, or one that no container has.
    pub(super) fn container_id(&mut self, p: u8, c: u8) -> String {
        self.container(p, c)
            .map_or_else(|| "0".repeat(64), |it| it.id.clone())
    }

    /// What a listing of pods should hold, as comparable lines.
    pub(super) fn pod_lines(&self) -> Vec<String> {
        let mut lines: Vec<_> = self
            .pods
            .iter()
            .map(|(p, pod)| {
                let state = if pod.ready {
                    PodSandboxState::SandboxReady
                } else {
                    PodSandboxState::SandboxNotready
                };
                format!("{} model-{p} {}", pod.id, state.as_str_name())
            })
            .collect();
        lines.sort();
        lines
    }

    /// What a listing of containers should hold.
    pub(super) fn container_lines(&self) -> Vec<String> {
        let mut lines: Vec<_> = self
            .pods
            .values()
            .flat_map(|pod| {
                pod.containers.iter().map(|(c, it)| {
                    let state = it.state.as_str_name();
                    format!("{} of {} c{c} {state}", it.id, pod.id)
                })
            })
            .collect();
        lines.sort();
        lines
    }
}

/// What a listing of pods holds.
pub(super) fn lines_of_pods(items: &[cri::PodSandbox]) -> Vec<String> {
    let mut lines: Vec<_> = items
        .iter()
        .map(|it| {
            let name = it.metadata.as_ref().map_or("", |it| it.name.as_str());
            format!("{} {name} {}", it.id, it.state().as_str_name())
        })
        .collect();
    lines.sort();
    lines
}

/// What a listing of containers holds.
pub(super) fn lines_of_containers(items: &[cri::Container]) -> Vec<String> {
    let mut lines: Vec<_> = items
        .iter()
        .map(|it| {
            let name = it.metadata.as_ref().map_or("", |it| it.name.as_str());
            let state = it.state().as_str_name();
            format!("{} of {} {name} {state}", it.id, it.pod_sandbox_id)
        })
        .collect();
    lines.sort();
    lines
}
