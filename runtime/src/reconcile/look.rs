//! Looking at the world: which sandboxes live, and what runs in them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bulkhead_sandbox::Sandbox;
use futures::StreamExt as _;

use super::plan::{Found, World};
use crate::{
    pods::Inner,
    store::{PodPhase, PodRecord},
};

/// Sandboxes that were taken over, by pod.
pub(super) type Living = BTreeMap<String, Arc<dyn Sandbox>>;

/// How many sandboxes are asked at once.
const AT_ONCE: usize = 16;

pub(super) async fn look(inner: &Arc<Inner>, pods: &[PodRecord]) -> (World, Living) {
    let asked = pods
        .iter()
        .filter(|pod| pod.phase == PodPhase::Ready)
        .map(|pod| async {
            let found = ask(inner, pod).await;
            (pod.id.clone(), found)
        });
    let answers: Vec<_> = futures::stream::iter(asked)
        .buffer_unordered(AT_ONCE)
        .collect()
        .await;

    let mut world = World::default();
    let mut living = Living::new();
    for (id, answer) in answers {
        let found = match answer {
            Ok((sandbox, processes)) => {
                living.insert(id.clone(), sandbox);
                Found::Alive(processes)
            }
            Err(reason) => Found::Gone(reason),
        };
        world.pods.insert(id, found);
    }
    match inner.launcher.leftovers().await {
        Ok(ids) => world.leftovers = ids.into_iter().collect::<BTreeSet<_>>(),
        Err(error) => tracing::error!(%error, "cannot look for leftovers; none is removed"),
    }
    (world, living)
}

type Answer = Result<(Arc<dyn Sandbox>, Vec<bulkhead_sandbox::Process>), String>;

async fn ask(inner: &Inner, pod: &PodRecord) -> Answer {
    let Some(record) = &pod.sandbox else {
        return Err("it has no sandbox on record".to_owned());
    };
    let adopted = async {
        let sandbox = inner.launcher.adopt(record).await?;
        let processes = sandbox.processes().await?;
        Ok::<_, bulkhead_sandbox::Error>((sandbox, processes))
    };
    adopted.await.map_err(|error| {
        tracing::warn!(pod = %pod.id, %error, "pod did not outlive the daemon's absence");
        format!("it could not be taken over by the restarted daemon: {error}")
    })
}

/// A pod that lives but can't be kept.
pub(super) fn give_up(world: &mut World, living: &mut Living, pod: &str, reason: &str) {
    living.remove(pod);
    world
        .pods
        .insert(pod.to_owned(), Found::Gone(reason.to_owned()));
}
