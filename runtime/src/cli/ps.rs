//! `bulkhead ps`: pods and their containers.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Result;
use bulkhead_cri_api::v1::{
    Container, ContainerState, ListContainersRequest, ListPodSandboxRequest, PodSandbox,
    PodSandboxState,
};
use serde::Serialize;

use super::args::PsArgs;
use super::client::{Daemon, in_words};
use super::names::{Candidate, resolve, short_id};
use super::quantity::human_age;
use super::{Outcome, output, timings};

pub(super) async fn ps(socket: &Path, args: PsArgs) -> Outcome {
    let mut daemon = Daemon::connect(socket).await?;
    if let Some(wanted) = &args.timings {
        let pod = find_pod(&mut daemon, wanted).await?;
        let phases = timings::of_pod(&mut daemon, &pod.id).await?;
        output::print(args.output, &phases, &["PHASE", "TOOK"], || {
            timings::rows(&phases)
        })?;
        return Ok(0);
    }
    let pods = pods(&mut daemon).await?;
    let containers = containers(&mut daemon).await?;
    let listed = join(&pods, &containers, args.all);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    let columns = [
        "CONTAINER",
        "NAME",
        "IMAGE",
        "STATE",
        "AGE",
        "POD",
        "POD ID",
        "NAMESPACE",
    ];
    output::print(args.output, &listed, &columns, || {
        rows(&listed, now.as_secs())
    })?;
    Ok(0)
}

/// A pod as it is listed.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct ListedPod {
    id: String,
    name: String,
    namespace: String,
    uid: String,
    attempt: u32,
    state: &'static str,
    /// Nanoseconds since 1970.
    created_at: i64,
    containers: Vec<ListedContainer>,
}

/// A container as it is listed.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct ListedContainer {
    id: String,
    name: String,
    attempt: u32,
    image: String,
    state: &'static str,
    /// Nanoseconds since 1970.
    created_at: i64,
}

fn join(pods: &[PodSandbox], containers: &[Container], all: bool) -> Vec<ListedPod> {
    let mut listed: Vec<ListedPod> = pods
        .iter()
        .map(|pod| {
            let metadata = pod.metadata.clone().unwrap_or_default();
            let own = containers
                .iter()
                .filter(|container| container.pod_sandbox_id == pod.id);
            let shown = own
                .filter(|container| all || container.state() == ContainerState::ContainerRunning);
            ListedPod {
                id: pod.id.clone(),
                name: metadata.name,
                namespace: metadata.namespace,
                uid: metadata.uid,
                attempt: metadata.attempt,
                state: match pod.state() {
                    PodSandboxState::SandboxReady => "ready",
                    PodSandboxState::SandboxNotready => "not ready",
                },
                created_at: pod.created_at,
                containers: shown.map(describe).collect(),
            }
        })
        .filter(|pod| all || pod.state == "ready")
        .collect();
    // The newest first, as others do.
    listed.sort_by_key(|pod| std::cmp::Reverse(pod.created_at));
    listed
}

fn describe(container: &Container) -> ListedContainer {
    let metadata = container.metadata.clone().unwrap_or_default();
    let image = container.image.clone().unwrap_or_default();
    let image = if image.user_specified_image.is_empty() {
        image.image
    } else {
        image.user_specified_image
    };
    ListedContainer {
        id: container.id.clone(),
        name: metadata.name,
        attempt: metadata.attempt,
        image,
        state: match container.state() {
            ContainerState::ContainerCreated => "created",
            ContainerState::ContainerRunning => "running",
            ContainerState::ContainerExited => "exited",
            ContainerState::ContainerUnknown => "unknown",
        },
        created_at: container.created_at,
    }
}

fn rows(pods: &[ListedPod], now: u64) -> Vec<Vec<String>> {
    let age = |created: i64| {
        let created = u64::try_from(created / 1_000_000_000).unwrap_or(0);
        human_age(now.saturating_sub(created))
    };
    let mut rows = Vec::new();
    for pod in pods {
        let of_pod = || {
            [
                pod.name.clone(),
                short_id(&pod.id).to_owned(),
                pod.namespace.clone(),
            ]
        };
        for container in &pod.containers {
            let mut row = vec![
                short_id(&container.id).to_owned(),
                container.name.clone(),
                short_image(&container.image),
                container.state.to_owned(),
                age(container.created_at),
            ];
            row.extend(of_pod());
            rows.push(row);
        }
        if pod.containers.is_empty() {
            let nothing = || "-".to_owned();
            let state = format!("pod {}", pod.state);
            let mut row = vec![nothing(), nothing(), nothing(), state, age(pod.created_at)];
            row.extend(of_pod());
            rows.push(row);
        }
    }
    rows
}

/// Image names as they are, digests shortened.
fn short_image(image: &str) -> String {
    if image.starts_with("sha256:") {
        short_id(image).to_owned()
    } else {
        image.to_owned()
    }
}

/// All pods.
///
/// # Errors
/// The daemon's refusal.
pub(super) async fn pods(daemon: &mut Daemon) -> Result<Vec<PodSandbox>> {
    let answer = daemon
        .runtime
        .list_pod_sandbox(ListPodSandboxRequest::default())
        .await;
    Ok(answer
        .map_err(|status| in_words(&status))?
        .into_inner()
        .items)
}

/// All containers.
///
/// # Errors
/// The daemon's refusal.
pub(super) async fn containers(daemon: &mut Daemon) -> Result<Vec<Container>> {
    let answer = daemon
        .runtime
        .list_containers(ListContainersRequest::default())
        .await;
    Ok(answer
        .map_err(|status| in_words(&status))?
        .into_inner()
        .containers)
}

/// The container that the user means. Among several of a name, the one that runs.
///
/// # Errors
/// None or several are meant, or the daemon's refusal.
pub(super) async fn find_container(daemon: &mut Daemon, wanted: &str) -> Result<Container> {
    let mut all = containers(daemon).await?;
    let running: Vec<usize> = all
        .iter()
        .enumerate()
        .filter(|(_, container)| name_of(container) == wanted)
        .filter(|(_, container)| container.state() == ContainerState::ContainerRunning)
        .map(|(index, _)| index)
        .collect();
    if let [only] = running.as_slice() {
        return Ok(all.swap_remove(*only));
    }
    let candidates: Vec<Candidate<'_>> = all
        .iter()
        .map(|container| Candidate {
            id: &container.id,
            name: name_of(container),
        })
        .collect();
    let index = resolve("container", wanted, &candidates)?;
    Ok(all.swap_remove(index))
}

async fn find_pod(daemon: &mut Daemon, wanted: &str) -> Result<PodSandbox> {
    let mut all = pods(daemon).await?;
    let candidates: Vec<Candidate<'_>> = all
        .iter()
        .map(|pod| Candidate {
            id: &pod.id,
            name: pod.metadata.as_ref().map_or("", |metadata| &metadata.name),
        })
        .collect();
    let index = resolve("pod", wanted, &candidates)?;
    Ok(all.swap_remove(index))
}

fn name_of(container: &Container) -> &str {
    container
        .metadata
        .as_ref()
        .map_or("", |metadata| &metadata.name)
}

#[cfg(test)]
mod tests {
    use bulkhead_cri_api::v1::{ContainerMetadata, ImageSpec, PodSandboxMetadata};

    use super::*;

    fn pod(id: &str, created_at: i64, ready: bool) -> PodSandbox {
        PodSandbox {
            id: id.to_owned(),
            metadata: Some(PodSandboxMetadata {
                name: format!("name-{id}"),
                ..Default::default()
            }),
            state: i32::from(!ready),
            created_at,
            ..Default::default()
        }
    }

    fn container(id: &str, pod: &str, state: ContainerState) -> Container {
        Container {
            id: id.to_owned(),
            pod_sandbox_id: pod.to_owned(),
            metadata: Some(ContainerMetadata {
                name: "c".to_owned(),
                attempt: 0,
            }),
            image: Some(ImageSpec {
                image: format!("sha256:{}", "a".repeat(64)),
                ..Default::default()
            }),
            state: state.into(),
            ..Default::default()
        }
    }

    #[test]
    fn containers_are_listed_with_their_pods() {
        let pods = [pod("p1", 1, true), pod("p2", 2, true), pod("p3", 3, false)];
        let containers = [
            container("c1", "p1", ContainerState::ContainerRunning),
            container("c2", "p1", ContainerState::ContainerExited),
        ];
        let running = join(&pods, &containers, false);
        let ids: Vec<_> = running.iter().map(|pod| pod.id.as_str()).collect();
        assert_eq!(ids, ["p2", "p1"], "ready ones, the newest first");
        assert_eq!(running[1].containers.len(), 1);

        let all = join(&pods, &containers, true);
        assert_eq!(all.len(), 3);
        assert_eq!(all[2].containers.len(), 2);

        let rows = rows(&all, 61);
        assert_eq!(rows.len(), 4, "pods without containers have a row too");
        assert_eq!(rows[0][3], "pod not ready");
        assert_eq!(rows[2][..3], ["c1", "c", "aaaaaaaaaaaa"]);
        assert_eq!(rows[2][4], "1m");
    }
}
