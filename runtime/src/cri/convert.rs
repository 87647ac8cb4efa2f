//! Records and images in the interface's words.

use bulkhead_cri_api::v1;
use bulkhead_image::Image;

use crate::{
    pods::oci,
    store::{ContainerPhase, ContainerRecord, PodPhase, PodRecord},
};

pub(super) fn pod_state(record: &PodRecord) -> v1::PodSandboxState {
    match record.phase {
        PodPhase::Ready => v1::PodSandboxState::SandboxReady,
        _ => v1::PodSandboxState::SandboxNotready,
    }
}

pub(super) fn container_state(record: &ContainerRecord) -> v1::ContainerState {
    match record.phase {
        ContainerPhase::Creating => v1::ContainerState::ContainerUnknown,
        ContainerPhase::Created => v1::ContainerState::ContainerCreated,
        ContainerPhase::Running => v1::ContainerState::ContainerRunning,
        ContainerPhase::Exited | ContainerPhase::Removing => v1::ContainerState::ContainerExited,
    }
}

pub(super) fn pod(record: &PodRecord) -> v1::PodSandbox {
    v1::PodSandbox {
        id: record.id.clone(),
        metadata: record.config.metadata.clone(),
        state: pod_state(record).into(),
        created_at: record.created_at,
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        runtime_handler: record.handler.clone(),
    }
}

pub(super) fn pod_status(record: &PodRecord) -> v1::PodSandboxStatus {
    let linux = record.config.linux.as_ref();
    let options = linux
        .and_then(|linux| linux.security_context.as_ref())
        .and_then(|context| context.namespace_options.clone())
        .unwrap_or_default();
    v1::PodSandboxStatus {
        id: record.id.clone(),
        metadata: record.config.metadata.clone(),
        state: pod_state(record).into(),
        created_at: record.created_at,
        network: Some(network(record)),
        linux: Some(v1::LinuxPodSandboxStatus {
            namespaces: Some(v1::Namespace {
                options: Some(options),
            }),
        }),
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        runtime_handler: record.handler.clone(),
    }
}

/// Addresses of a pod that has ended are nobody's to talk to.
fn network(record: &PodRecord) -> v1::PodSandboxNetworkStatus {
    let lease = record
        .lease
        .as_ref()
        .filter(|_| record.phase == PodPhase::Ready);
    let mut ips = lease
        .into_iter()
        .flat_map(|lease| lease.ips())
        .map(|ip| ip.to_string());
    v1::PodSandboxNetworkStatus {
        ip: ips.next().unwrap_or_default(),
        additional_ips: ips.map(|ip| v1::PodIp { ip }).collect(),
    }
}

pub(super) fn container(record: &ContainerRecord) -> v1::Container {
    v1::Container {
        id: record.id.clone(),
        pod_sandbox_id: record.pod_id.clone(),
        metadata: record.config.metadata.clone(),
        image: record.config.image.clone(),
        image_ref: record.image_ref.clone(),
        state: container_state(record).into(),
        created_at: record.created_at,
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        image_id: record.image_id.clone(),
    }
}

pub(super) fn container_status(record: &ContainerRecord) -> v1::ContainerStatus {
    let log = &record.log;
    let log_path = if log.path.as_os_str().is_empty() {
        String::new()
    } else {
        log.directory.join(&log.path).display().to_string()
    };
    v1::ContainerStatus {
        id: record.id.clone(),
        metadata: record.config.metadata.clone(),
        state: container_state(record).into(),
        created_at: record.created_at,
        started_at: record.started_at,
        finished_at: record.finished_at,
        exit_code: record.exit_code,
        image: record.config.image.clone(),
        image_ref: record.image_ref.clone(),
        reason: record.reason.clone(),
        message: record.message.clone(),
        labels: record.config.labels.clone(),
        annotations: record.config.annotations.clone(),
        mounts: record.config.mounts.clone(),
        log_path,
        resources: Some(v1::ContainerResources {
            linux: record.limits().cloned(),
            windows: None,
        }),
        image_id: record.image_id.clone(),
        user: record.user.as_ref().map(|user| v1::ContainerUser {
            linux: Some(v1::LinuxContainerUser {
                uid: user.uid.into(),
                gid: user.gid.into(),
                supplemental_groups: user
                    .supplemental_groups
                    .iter()
                    .map(|group| i64::from(*group))
                    .collect(),
            }),
        }),
        stop_signal: oci::cri_signal(record.stop_signal),
    }
}

pub(super) fn image(image: &Image) -> v1::Image {
    let user = image.config.user.split(':').next().unwrap_or_default();
    let uid = user.parse::<u32>().ok().map(|uid| v1::Int64Value {
        value: i64::from(uid),
    });
    v1::Image {
        id: image.id.to_string(),
        repo_tags: image.repo_tags.clone(),
        repo_digests: image.repo_digests.clone(),
        // kubelet takes 0 for "unknown" and drops the image from its list.
        size: image.size_bytes.max(1),
        username: if uid.is_none() {
            user.to_owned()
        } else {
            String::new()
        },
        uid,
        spec: Some(v1::ImageSpec {
            image: image.repo_tags.first().cloned().unwrap_or_default(),
            ..Default::default()
        }),
        pinned: image.pinned,
    }
}
