//! What lists let through.

use std::collections::BTreeMap;

use bulkhead_cri_api::v1;

use super::convert;
use crate::store::{ContainerRecord, PodRecord};

pub(super) fn pod(filter: &v1::PodSandboxFilter, record: &PodRecord) -> bool {
    record.id.starts_with(&filter.id)
        && filter
            .state
            .as_ref()
            .is_none_or(|it| it.state == convert::pod_state(record) as i32)
        && selects(&filter.label_selector, &record.config.labels)
}

pub(super) fn container(filter: &v1::ContainerFilter, record: &ContainerRecord) -> bool {
    record.id.starts_with(&filter.id)
        && record.pod_id.starts_with(&filter.pod_sandbox_id)
        && filter
            .state
            .as_ref()
            .is_none_or(|it| it.state == convert::container_state(record) as i32)
        && selects(&filter.label_selector, &record.config.labels)
}

pub(super) fn container_stats(filter: &v1::ContainerStatsFilter, record: &ContainerRecord) -> bool {
    record.id.starts_with(&filter.id)
        && record.pod_id.starts_with(&filter.pod_sandbox_id)
        && selects(&filter.label_selector, &record.config.labels)
}

pub(super) fn pod_stats(filter: &v1::PodSandboxStatsFilter, record: &PodRecord) -> bool {
    record.id.starts_with(&filter.id) && selects(&filter.label_selector, &record.config.labels)
}

fn selects(selector: &BTreeMap<String, String>, labels: &BTreeMap<String, String>) -> bool {
    selector
        .iter()
        .all(|(key, value)| labels.get(key) == Some(value))
}
