//! Many pods at once.

use anyhow::{Context as _, Result, ensure};

use super::{clean, node};
use bulkhead_e2e::{
    node::{PATIENCE, Programs},
    pod::Pod,
};

/// Twenty pods at the same time, each with a container that answers, then none:
/// the host is as it was.
pub(crate) async fn twenty_pods_leave_nothing(programs: &Programs) -> Result<()> {
    let (node, world) = node(programs, "twenty", "").await?;
    let names: Vec<String> = (0..20).map(|n| format!("many-{n}")).collect();
    // One after the other is started, but no start waits for another's end.
    let runs = names.iter().map(|name| async {
        let mut pod = Pod::run(&node, name).await.with_context(|| name.clone())?;
        pod.sh("c", "hostname; exec sleep 100000").await?;
        anyhow::Ok(pod)
    });
    let mut pods = Vec::new();
    for pod in join_all(runs).await {
        pods.push(pod?);
    }
    let mut addresses = std::collections::BTreeSet::new();
    for (pod, name) in pods.iter_mut().zip(&names) {
        addresses.insert(pod.address().await?);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        while pod.log("c")?.is_empty() && tokio::time::Instant::now() < deadline {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
        ensure!(pod.output("c", "stdout")? == format!("{name}\n"));
    }
    ensure!(addresses.len() == 20, "addresses are shared: {addresses:?}");
    let removals = pods.iter_mut().map(Pod::remove);
    for removal in join_all(removals).await {
        removal?;
    }
    clean(node, &world).await
}

async fn join_all<F: Future>(futures: impl Iterator<Item = F>) -> Vec<F::Output> {
    let mut pending: Vec<_> = futures.map(Box::pin).collect();
    let mut done: Vec<Option<F::Output>> = pending.iter().map(|_| None).collect();
    std::future::poll_fn(|cx| {
        for (future, slot) in pending.iter_mut().zip(&mut done) {
            if slot.is_none()
                && let std::task::Poll::Ready(output) = future.as_mut().poll(cx)
            {
                *slot = Some(output);
            }
        }
        if done.iter().all(Option::is_some) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
    done.into_iter().flatten().collect()
}
