//! Metrics in the CRI's form: descriptors once, then values by name.
//!
//! kubelet passes them on under /metrics/cadvisor, so names, help and labels are
//! cAdvisor's. The values are counted inside the guest, where the containers'
//! cgroups are. A value is a whole number: times are cut to seconds (KEP-2371).

mod table;

use std::sync::Arc;

use bulkhead_cri_api::v1;
use table::{ALL, ContainerView, Definition, Source, Values};

use crate::{
    stats::Sample,
    store::{ContainerRecord, PodRecord},
};

/// Labels that every metric has, in the order of their values.
const BASE: [&str; 6] = ["container", "id", "image", "name", "namespace", "pod"];

/// What there is.
pub(super) fn descriptors() -> Vec<v1::MetricDescriptor> {
    ALL.iter()
        .map(|it| v1::MetricDescriptor {
            name: it.name.to_owned(),
            help: it.help.to_owned(),
            label_keys: BASE
                .iter()
                .chain(it.labels)
                .map(|key| (*key).to_owned())
                .collect(),
        })
        .collect()
}

/// The values of a pod and of those of its containers that are in the sample.
pub(super) fn of_pod(
    pod: &PodRecord,
    containers: &[Arc<ContainerRecord>],
    sample: &Sample,
) -> v1::PodSandboxMetrics {
    let at = sample.stats.at_unix_ns;
    let base = labels(pod, None);
    let metrics = ALL
        .iter()
        .filter_map(|it| match it.source {
            Source::Pod(of) => Some(it.values(at, &base, |values| of(&sample.stats, values))),
            Source::Container(_) => None,
        })
        .flatten()
        .collect();
    let container_metrics = containers
        .iter()
        .filter_map(|record| {
            let stats = sample.container(&record.id)?;
            let base = labels(pod, Some(record));
            let view = ContainerView {
                record,
                stats,
                sample: &sample.stats,
            };
            let metrics = ALL
                .iter()
                .filter_map(|it| match it.source {
                    Source::Container(of) => Some(it.values(at, &base, |out| of(&view, out))),
                    Source::Pod(_) => None,
                })
                .flatten()
                .collect();
            Some(v1::ContainerMetrics {
                container_id: record.id.clone(),
                metrics,
            })
        })
        .collect();
    v1::PodSandboxMetrics {
        pod_sandbox_id: pod.id.clone(),
        metrics,
        container_metrics,
    }
}

/// Values of [`BASE`]; without a container, those of the pod itself.
fn labels(pod: &PodRecord, container: Option<&ContainerRecord>) -> [String; 6] {
    let key = pod.key();
    let (name, id, image) = match container {
        Some(it) => (it.key().name, it.id.clone(), it.image_ref.clone()),
        None => (String::new(), pod.id.clone(), String::new()),
    };
    [name, id.clone(), image, id, key.namespace, key.name]
}

impl Definition {
    fn values(
        &self,
        at: i64,
        base: &[String],
        collect: impl FnOnce(&mut Values),
    ) -> Vec<v1::Metric> {
        let mut values = Values::default();
        collect(&mut values);
        values
            .into_iter()
            .map(|(labels, value)| v1::Metric {
                name: self.name.to_owned(),
                timestamp: at,
                metric_type: self.kind.into(),
                label_values: base.iter().cloned().chain(labels).collect(),
                value: Some(v1::UInt64Value { value }),
            })
            .collect()
    }
}

#[cfg(test)]
mod tests;
