//! Status: kubelet asks every five seconds and believes the conditions.

use std::time::Duration;

use bulkhead_cri_api::v1;
use bulkhead_sandbox::PlaceKind;
use serde_json::json;

use super::{Cri, verbose};
use crate::{error::Result, pods::placement::DEFAULT_HANDLER};

/// Longest the network's own check may take before it counts as not ready.
const NETWORK_PATIENCE: Duration = Duration::from_secs(2);

pub(super) async fn status(cri: &Cri, request: v1::StatusRequest) -> Result<v1::StatusResponse> {
    let known = &cri.pods.settings().handlers;
    let default = (
        "",
        known
            .get(DEFAULT_HANDLER)
            .map_or(PlaceKind::MicroVm, |it| it.place),
    );
    let named = known.iter().map(|(name, it)| (name.as_str(), it.place));
    let handlers = std::iter::once(default).chain(named);
    let runtime = match &cri.node.fault {
        None => Ok(()),
        Some(fault) => Err(("HostUnfit", fault.clone())),
    };
    let mut response = v1::StatusResponse {
        status: Some(v1::RuntimeStatus {
            conditions: vec![condition("RuntimeReady", runtime), network(cri).await],
        }),
        info: Default::default(),
        // Said truthfully: kubelet refuses pods that need what is not there.
        runtime_handlers: handlers
            .map(|(name, place)| v1::RuntimeHandler {
                name: name.to_owned(),
                features: Some(v1::RuntimeHandlerFeatures {
                    // In a microVM there are no mounts of the host's yet.
                    recursive_read_only_mounts: place == PlaceKind::Host,
                    user_namespaces: false,
                }),
            })
            .collect(),
        features: Some(v1::RuntimeFeatures {
            supplemental_groups_policy: true,
            user_namespaces_host_network: false,
            mount_options: false,
        }),
    };
    if request.verbose {
        response.info = info(cri);
    }
    Ok(response)
}

async fn network(cri: &Cri) -> v1::RuntimeCondition {
    let state = match tokio::time::timeout(NETWORK_PATIENCE, cri.pods.network().ready()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(("NetworkNotReady", error.to_string())),
        Err(_) => Err((
            "NetworkCheckTimeout",
            "the network's check did not end in time".to_owned(),
        )),
    };
    condition("NetworkReady", state)
}

fn condition(kind: &str, state: Result<(), (&str, String)>) -> v1::RuntimeCondition {
    let (status, (reason, message)) = match state {
        Ok(()) => (true, ("", String::new())),
        Err(why) => (false, why),
    };
    v1::RuntimeCondition {
        r#type: kind.to_owned(),
        status,
        reason: reason.to_owned(),
        message,
    }
}

fn info(cri: &Cri) -> std::collections::BTreeMap<String, String> {
    let model = cri.pods.model();
    let problems: Vec<_> = cri
        .pods
        .images()
        .problems()
        .into_iter()
        .map(|problem| json!({ "what": problem.what, "reason": problem.reason }))
        .collect();
    let mut info = verbose([
        ("version", json!(env!("CARGO_PKG_VERSION"))),
        ("pods", json!(model.pods().len())),
        ("containers", json!(model.containers().len())),
        ("quarantinedRecords", json!(cri.node.quarantined)),
        ("damagedImages", json!(problems)),
        ("refusedPodCidr", json!(cri.pods.refused_pod_cidr())),
    ]);
    for (name, value) in &cri.node.info {
        info.insert(name.clone(), value.to_string());
    }
    info
}
