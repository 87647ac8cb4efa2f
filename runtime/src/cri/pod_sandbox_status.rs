//! PodSandboxStatus: one pod and its containers, seen at one moment.

use std::time::Duration;

use bulkhead_cri_api::v1;
use serde_json::json;

use super::{Cri, convert, verbose};
use crate::{clock, error::Result, pods::model::Pod, stats::Sample};

/// Longest a guest's own facts are waited for, for verbose answers only.
const INFO_PATIENCE: Duration = Duration::from_secs(1);

pub(super) async fn pod_sandbox_status(
    cri: &Cri,
    request: v1::PodSandboxStatusRequest,
) -> Result<v1::PodSandboxStatusResponse> {
    let model = cri.pods.model();
    let pod = model.pod(&request.pod_sandbox_id)?;
    let timestamp = clock::now_ns();
    let containers_statuses = model
        .containers_in(&pod.id)
        .iter()
        .map(|container| container.record())
        .filter(|record| record.phase.is_listed())
        .map(|record| convert::container_status(&record))
        .collect();
    let info = if request.verbose {
        info(&pod).await
    } else {
        Default::default()
    };
    Ok(v1::PodSandboxStatusResponse {
        status: Some(convert::pod_status(&pod.record())),
        info,
        containers_statuses,
        timestamp,
    })
}

async fn info(pod: &Pod) -> std::collections::BTreeMap<String, String> {
    let record = pod.record();
    let sandbox = match pod.sandbox() {
        Some(sandbox) => tokio::time::timeout(INFO_PATIENCE, sandbox.info())
            .await
            .unwrap_or_else(|_| json!({ "error": "the guest did not answer in time" })),
        None => json!(null),
    };
    let network = record.lease.as_ref().map(|lease| {
        json!({
            "tap": lease.tap,
            "mac": lease.mac.to_string(),
            "addresses": lease.addresses,
            "routes": lease.routes,
            "mtu": lease.mtu,
        })
    });
    let timings: Vec<_> = record
        .timings
        .iter()
        .map(|it| json!({ "phase": it.phase, "tookNs": it.took_ns }))
        .collect();
    verbose([(
        "info",
        json!({
            "vmId": record.id,
            "size": record.size.map(|size| json!({
                "bootVcpus": size.boot_vcpus,
                "maxVcpus": size.max_vcpus,
                "memoryBytes": size.memory_bytes,
                "scratchBytes": size.scratch_bytes,
            })),
            "resources": record.resources,
            "overhead": record.overhead,
            "measured": pod.meter.latest().map(|sample| measured(&sample)),
            "config": record.config,
            "runtimeHandler": record.handler,
            "place": record.place,
            "sandbox": sandbox,
            "record": record.sandbox,
            "vmmUid": record.vmm_uid,
            "network": network,
            "exit": record.exit,
            "startTimings": timings,
        }),
    )])
}

/// How and when the pod was measured last.
fn measured(sample: &Sample) -> serde_json::Value {
    let stats = &sample.stats;
    json!({
        "atUnixNs": stats.at_unix_ns,
        "roundTripNs": stats.round_trip_ns,
        "guestClockAheadNs": stats
            .guest_unix_ns
            .map(|guest| guest.saturating_sub(stats.at_unix_ns)),
        "guestMemoryAvailableBytes": stats.guest.mem_available_bytes,
        "hostMemoryBytes": stats.host.map(|host| host.memory_usage_bytes),
    })
}
