//! Lists and figures.

use bulkhead_agent_api::agent::{
    ListProcessesResponse, Process as ProcessMessage, StatsResponse, process::State,
};

use crate::{
    container::Containers,
    disks::layers::blocking,
    error::Result,
    stats::{self, upper::UpperCache},
};

pub(super) fn list(containers: &Containers) -> ListProcessesResponse {
    let processes = containers
        .processes()
        .iter()
        .map(|process| {
            let exit = process.exit();
            let started = process.started_unix_ns();
            let state = match (exit, started) {
                (Some(_), _) => State::EXITED,
                (None, 0) => State::CREATED,
                (None, _) => State::RUNNING,
            };
            ProcessMessage {
                container_id: process.container_id().to_owned(),
                exec_id: process.exec_id().to_owned(),
                pid: process.pid().as_raw_nonzero().get().unsigned_abs(),
                state: state.into(),
                exit: exit.map(Into::into).into(),
                started_unix_ns: started,
                ..Default::default()
            }
        })
        .collect();
    ListProcessesResponse {
        processes,
        ..Default::default()
    }
}

pub(super) async fn stats(
    containers: &Containers,
    uppers: &UpperCache,
    id: &str,
) -> Result<StatsResponse> {
    let wanted = if id.is_empty() {
        containers.list()
    } else {
        vec![containers.get(id)?]
    };
    let mut all = Vec::new();
    for container in wanted {
        let upper = containers.place().upper(container.id()).join("upper");
        let usage = uppers.usage(upper).await;
        all.push((container, usage));
    }
    let place = id.is_empty().then(|| containers.place().clone());
    blocking(move || {
        Ok(StatsResponse {
            containers: all
                .iter()
                .map(|(container, usage)| stats::of_container(container, *usage))
                .collect(),
            guest: place.map(|place| stats::of_place(&place)).into(),
            unix_ns: stats::now(),
            ..Default::default()
        })
    })
    .await
}
