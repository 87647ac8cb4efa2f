//! What kubelet asks every second: lists and status, while pods stand.

use anyhow::{Context as _, Result};
use bulkhead_cri_api::v1 as cri;

use super::target::{Pod, Target};
use crate::report::Report;

/// Pods, each with a running container.
pub(crate) type Standing = Vec<(Pod, String)>;

/// Asks `calls` times over `pods` pods with a running container each.
pub(crate) async fn run(target: &Target, pods: u32, calls: u32, report: &mut Report) -> Result<()> {
    let standing = stand(target, pods).await?;
    ask(target, &standing, calls, report).await?;
    remove(target, standing).await
}

/// Starts so many.
pub(crate) async fn stand(target: &Target, pods: u32) -> Result<Standing> {
    let mut standing = Vec::new();
    for number in 0..pods {
        let pod = target.run_pod(&format!("standing-{number}")).await?;
        let container = target.create(&pod, "main", "exec sleep 100000").await?;
        target.start(&container).await?;
        standing.push((pod, container));
    }
    Ok(standing)
}

/// Asks `calls` times while they stand.
pub(crate) async fn ask(
    target: &Target,
    standing: &Standing,
    calls: u32,
    report: &mut Report,
) -> Result<()> {
    let mut runtime = target.runtime();
    for _ in 0..calls {
        let (pod, container) = standing.last().context("no pods")?;
        let work = async {
            let request = cri::ListPodSandboxRequest::default();
            let items = runtime.list_pod_sandbox(request).await?.into_inner().items;
            anyhow::ensure!(items.len() >= standing.len(), "{} listed", items.len());
            Ok(())
        };
        target.time(report, "ListPodSandbox, ms", work).await?;
        let work = async {
            let request = cri::ListContainersRequest::default();
            let answer = runtime.list_containers(request).await?.into_inner();
            let listed = answer.containers.len();
            anyhow::ensure!(listed >= standing.len(), "{listed} listed");
            Ok(())
        };
        target.time(report, "ListContainers, ms", work).await?;
        let request = cri::PodSandboxStatusRequest {
            pod_sandbox_id: pod.id.clone(),
            verbose: false,
        };
        let work = async { Ok(runtime.pod_sandbox_status(request).await?) };
        target.time(report, "PodSandboxStatus, ms", work).await?;
        let work = target.status(container);
        target.time(report, "ContainerStatus, ms", work).await?;
    }
    Ok(())
}

/// Removes them.
pub(crate) async fn remove(target: &Target, standing: Standing) -> Result<()> {
    for (pod, _) in standing {
        target.stop_pod(&pod).await?;
        target.remove_pod(&pod).await?;
    }
    Ok(())
}
