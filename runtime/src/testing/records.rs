//! Records and configurations to test with.

use bulkhead_cri_api::v1::{
    ContainerConfig, ContainerMetadata, ImageSpec, PodSandboxConfig, PodSandboxMetadata,
};
use bulkhead_sandbox::{LogTarget, PlaceKind};

use super::images::{IMAGE, IMAGE_ID};
use crate::store::{ContainerPhase, ContainerRecord, PodPhase, PodRecord};

/// The configuration of a pod.
#[must_use]
pub fn pod_config(name: &str, attempt: u32) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("uid-{name}"),
            namespace: "default".to_owned(),
            attempt,
        }),
        hostname: name.to_owned(),
        log_directory: format!("/var/log/pods/default_{name}_uid-{name}"),
        labels: [("app".to_owned(), name.to_owned())].into(),
        annotations: [(
            "kubernetes.io/config.hash".to_owned(),
            "a=b\n\u{e9}".to_owned(),
        )]
        .into(),
        ..Default::default()
    }
}

/// The configuration of a container that runs `command`.
#[must_use]
pub fn container_config(name: &str, attempt: u32, command: &[&str]) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata {
            name: name.to_owned(),
            attempt,
        }),
        image: Some(ImageSpec {
            image: IMAGE.to_owned(),
            ..Default::default()
        }),
        command: command.iter().map(|word| (*word).to_owned()).collect(),
        log_path: format!("{name}/{attempt}.log"),
        labels: [("tier".to_owned(), name.to_owned())].into(),
        ..Default::default()
    }
}

/// A pod on record.
#[must_use]
pub fn pod(id: &str, phase: PodPhase) -> PodRecord {
    PodRecord {
        id: id.to_owned(),
        phase,
        config: pod_config(id, 0),
        handler: String::new(),
        place: PlaceKind::MicroVm,
        created_at: 1,
        vmm_uid: 0,
        lease: None,
        sandbox: None,
        exit: None,
        timings: Vec::new(),
        size: None,
        resources: None,
        overhead: None,
    }
}

/// A container on record.
#[must_use]
pub fn container(id: &str, pod_id: &str, phase: ContainerPhase) -> ContainerRecord {
    ContainerRecord {
        id: id.to_owned(),
        pod_id: pod_id.to_owned(),
        phase,
        config: container_config(id, 0, &["sleep"]),
        image_id: IMAGE_ID.to_owned(),
        image_ref: IMAGE_ID.to_owned(),
        created_at: 1,
        started_at: 0,
        finished_at: 0,
        exit_code: 0,
        reason: String::new(),
        message: String::new(),
        stop_signal: 15,
        log: LogTarget {
            directory: "/var/log/pods/x".into(),
            path: "c/0.log".into(),
        },
        user: None,
        resources: None,
    }
}
