//! GetContainerEvents: what happens from now on, until the client goes.

use std::sync::Arc;

use bulkhead_cri_api::v1;
use futures::{StreamExt as _, stream};

use super::{Cri, chunks::Answers, convert};
use crate::{
    error::Result,
    pods::events::{Event, Happened},
};

pub(super) async fn get_container_events(
    cri: &Cri,
    _: v1::GetEventsRequest,
) -> Result<Answers<v1::ContainerEventResponse>> {
    let subscription = cri.pods.events().subscribe()?;
    let events = stream::unfold(subscription, |mut subscription| async {
        let event = subscription.next().await?;
        Some((event, subscription))
    });
    Ok(Box::pin(events.map(|event| match event {
        Ok(event) => Ok(response(&event)),
        Err(error) => Err(error.into()),
    })))
}

fn response(event: &Arc<Event>) -> v1::ContainerEventResponse {
    let kind = match event.happened {
        Happened::Created => v1::ContainerEventType::ContainerCreatedEvent,
        Happened::Started => v1::ContainerEventType::ContainerStartedEvent,
        Happened::Stopped => v1::ContainerEventType::ContainerStoppedEvent,
        Happened::Deleted => v1::ContainerEventType::ContainerDeletedEvent,
    };
    v1::ContainerEventResponse {
        container_id: event.id.clone(),
        container_event_type: kind.into(),
        created_at: event.at_unix_ns,
        pod_sandbox_status: Some(convert::pod_status(&event.pod)),
        containers_statuses: event
            .containers
            .iter()
            .map(|record| convert::container_status(record))
            .collect(),
    }
}
