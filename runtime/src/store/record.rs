//! What is recorded of a pod and of a container.

use std::fmt;

use bulkhead_cri_api::v1::{ContainerConfig, LinuxContainerResources, PodSandboxConfig};
use bulkhead_net::Lease;
use bulkhead_sandbox::{LogTarget, PlaceKind, SandboxExit, SandboxRecord, User};
use serde::{Deserialize, Serialize};

use crate::pods::sizing::VmSize;

/// Where a pod is in its life. See `pods::state` for the transitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PodPhase {
    /// Being made: no client knows its id yet.
    Creating,
    /// Its sandbox runs.
    Ready,
    /// Its sandbox has ended.
    NotReady,
    /// Being removed; a failed removal is repeated from here.
    Removing,
}

/// Where a container is in its life. See `pods::state` for the transitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContainerPhase {
    /// Being made: no client knows its id yet.
    Creating,
    /// Made; its program has not run.
    Created,
    /// Its program runs.
    Running,
    /// Its program has ended, or can never run any more.
    Exited,
    /// Being removed; a failed removal is repeated from here.
    Removing,
}

/// What a client identifies a pod by. A retry of a create has the same one.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodKey {
    /// Kubernetes namespace.
    pub namespace: String,
    /// Name of the pod.
    pub name: String,
    /// Its uid.
    pub uid: String,
    /// Number of the attempt to run it.
    pub attempt: u32,
}

impl fmt::Display for PodKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}/{} (uid {}, attempt {})",
            self.namespace, self.name, self.uid, self.attempt
        )
    }
}

/// What a client identifies a container by.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ContainerKey {
    /// Id of the pod.
    pub pod_id: String,
    /// Name in the pod.
    pub name: String,
    /// Number of the attempt to run it.
    pub attempt: u32,
}

impl fmt::Display for ContainerKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} (attempt {}) of pod {}",
            self.name, self.attempt, self.pod_id
        )
    }
}

/// How long one phase of a sandbox's start took.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseTiming {
    /// E.g. "guest boot".
    pub phase: String,
    /// Nanoseconds.
    pub took_ns: u64,
}

/// A pod.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PodRecord {
    /// 64 hexadecimal digits.
    pub id: String,
    /// Where it is in its life.
    pub phase: PodPhase,
    /// As the client gave it.
    pub config: PodSandboxConfig,
    /// Runtime handler, as the client gave it.
    pub handler: String,
    /// Where it runs. Records of earlier versions, which knew one place, don't say.
    #[serde(default)]
    pub place: PlaceKind,
    /// Unix time, ns.
    pub created_at: i64,
    /// The uid and gid of its VMM: its own among living pods.
    #[serde(default)]
    pub vmm_uid: u32,
    /// What it holds of the network.
    #[serde(default)]
    pub lease: Option<Lease>,
    /// How to find its sandbox again.
    #[serde(default)]
    pub sandbox: Option<SandboxRecord>,
    /// How its sandbox ended.
    #[serde(default)]
    pub exit: Option<SandboxExit>,
    /// Where the time of its start went.
    #[serde(default)]
    pub timings: Vec<PhaseTiming>,
    /// The size of its virtual machine.
    #[serde(default)]
    pub size: Option<VmSize>,
    /// What its containers may use together, since that was changed.
    #[serde(default)]
    pub resources: Option<LinuxContainerResources>,
    /// What it may use beside them, likewise.
    #[serde(default)]
    pub overhead: Option<LinuxContainerResources>,
}

impl PodRecord {
    /// What clients identify it by.
    #[must_use]
    pub fn key(&self) -> PodKey {
        let metadata = self.config.metadata.clone().unwrap_or_default();
        PodKey {
            namespace: metadata.namespace,
            name: metadata.name,
            uid: metadata.uid,
            attempt: metadata.attempt,
        }
    }
}

/// A container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// 64 hexadecimal digits.
    pub id: String,
    /// The pod it is in.
    pub pod_id: String,
    /// Where it is in its life.
    pub phase: ContainerPhase,
    /// As the client gave it.
    pub config: ContainerConfig,
    /// Image id, `sha256:…`.
    pub image_id: String,
    /// The image by the digest it was found under, else its id.
    #[serde(default)]
    pub image_ref: String,
    /// Unix time, ns.
    pub created_at: i64,
    /// Unix time, ns; 0: not yet.
    #[serde(default)]
    pub started_at: i64,
    /// Unix time, ns; 0: not yet.
    #[serde(default)]
    pub finished_at: i64,
    /// Exit status, or 128 + signal.
    #[serde(default)]
    pub exit_code: i32,
    /// One word, once it has exited.
    #[serde(default)]
    pub reason: String,
    /// For people, once it has exited.
    #[serde(default)]
    pub message: String,
    /// Linux signal number that asks it to end.
    pub stop_signal: u32,
    /// Where its output goes.
    pub log: LogTarget,
    /// Who its program runs as, as the guest resolved it.
    #[serde(default)]
    pub user: Option<User>,
    /// Its limits since they were changed; `None`: those of `config`.
    #[serde(default)]
    pub resources: Option<LinuxContainerResources>,
}

impl ContainerRecord {
    /// The limits that hold.
    #[must_use]
    pub fn limits(&self) -> Option<&LinuxContainerResources> {
        let given = self.config.linux.as_ref();
        let given = given.and_then(|linux| linux.resources.as_ref());
        self.resources.as_ref().or(given)
    }

    /// What clients identify it by.
    #[must_use]
    pub fn key(&self) -> ContainerKey {
        let metadata = self.config.metadata.clone().unwrap_or_default();
        ContainerKey {
            pod_id: self.pod_id.clone(),
            name: metadata.name,
            attempt: metadata.attempt,
        }
    }
}
