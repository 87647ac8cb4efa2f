use std::collections::{BTreeMap, BTreeSet};

use bulkhead_sandbox::{
    ContainerStats, SandboxStats,
    figures::{CpuUse, InterfaceStats, IoUse, MemoryUse, Pressure, ProcessUse, Stall},
};

use super::*;
use crate::{
    stats::Meter,
    store::{ContainerPhase, PodPhase},
    testing::records,
};

/// Absent where there is nothing to measure.
const MAY_BE_ABSENT: [&str; 4] = [
    "container_hugetlb_max_usage_bytes",
    "container_hugetlb_usage_bytes",
    "container_spec_cpu_quota",
    "container_spec_memory_reservation_limit_bytes",
];

fn sample() -> Arc<Sample> {
    let pressure = Some(Pressure {
        some: Stall {
            total_us: 2_500_000,
            ..Default::default()
        },
        full: Stall::default(),
    });
    let stats = SandboxStats {
        at_unix_ns: 5_000_000_000,
        containers: vec![ContainerStats {
            container_id: "c".into(),
            cpu: CpuUse {
                total_ns: 3_999_999_999,
                ..Default::default()
            },
            memory: MemoryUse {
                usage: 77,
                limit: 4096,
                page_faults: 8,
                ..Default::default()
            },
            processes: ProcessUse {
                max_open_files: Some(1024),
                ..Default::default()
            },
            io: vec![IoUse {
                major: 254,
                minor: 16,
                read_bytes: 1,
                written_bytes: 2,
                reads: 3,
                writes: 4,
            }],
            cpu_pressure: pressure,
            memory_pressure: pressure,
            io_pressure: pressure,
            ..Default::default()
        }],
        guest: bulkhead_sandbox::GuestStats {
            interfaces: vec![InterfaceStats {
                name: "eth0".into(),
                ..Default::default()
            }],
            ..Default::default()
        },
        ..Default::default()
    };
    let meter = Meter::default();
    meter.take(stats, &records::pod("p", PodPhase::Ready), &[]);
    meter.latest().unwrap()
}

fn values() -> v1::PodSandboxMetrics {
    let mut container = records::container("c", "p", ContainerPhase::Running);
    container.started_at = 2_000_000_000;
    // In no sample yet: it has no values, and harms none.
    let young = records::container("d", "p", ContainerPhase::Created);
    of_pod(
        &records::pod("p", PodPhase::Ready),
        &[Arc::new(container), Arc::new(young)],
        &sample(),
    )
}

#[test]
fn all_names_are_there_once_and_explained() {
    let descriptors = descriptors();
    let names: BTreeSet<_> = descriptors.iter().map(|it| it.name.as_str()).collect();
    assert_eq!((descriptors.len(), names.len()), (56, 56));
    assert!(descriptors.is_sorted_by_key(|it| it.name.clone()));
    for it in &descriptors {
        assert!(
            it.name.starts_with("container_") && it.help.ends_with('.'),
            "{it:?}"
        );
        assert!(it.label_keys.len() >= BASE.len());
    }
}

#[test]
fn values_fit_their_descriptors() {
    let keys: BTreeMap<_, _> = descriptors()
        .into_iter()
        .map(|it| (it.name, it.label_keys.len()))
        .collect();
    let values = values();
    assert_eq!(values.container_metrics.len(), 1);
    let all: Vec<_> = values
        .metrics
        .iter()
        .chain(&values.container_metrics[0].metrics)
        .collect();
    for it in &all {
        assert_eq!(it.label_values.len(), keys[&it.name], "{it:?}");
        assert_eq!(it.timestamp, 5_000_000_000);
    }
    let found: BTreeSet<_> = all.iter().map(|it| it.name.as_str()).collect();
    for name in keys.keys() {
        assert_eq!(
            found.contains(name.as_str()),
            !MAY_BE_ABSENT.contains(&name.as_str()),
            "{name}"
        );
    }
}

#[test]
fn a_few_of_them() {
    let values = values();
    let metrics = &values.container_metrics[0].metrics;
    let find = |name: &str| metrics.iter().find(|it| it.name == name).unwrap();
    let value = |name: &str| find(name).value.as_ref().unwrap().value;
    assert_eq!(value("container_cpu_usage_seconds_total"), 3);
    assert_eq!(value("container_memory_usage_bytes"), 77);
    assert_eq!(value("container_start_time_seconds"), 2);
    assert_eq!(value("container_last_seen"), 5);
    assert_eq!(value("container_pressure_cpu_waiting_seconds_total"), 2);
    assert_eq!(value("container_spec_cpu_shares"), 1024);
    let labels = &find("container_blkio_device_usage_total").label_values;
    assert_eq!(labels[6..], ["254:16", "254", "16", "Read"]);
    assert_eq!(
        (labels[0].as_str(), labels[1].as_str(), labels[5].as_str()),
        ("c", "c", "p")
    );
    assert_eq!(
        values.metrics[0].label_values[..2],
        [String::new(), "p".to_owned()]
    );
}
