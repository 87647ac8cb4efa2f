//! The Container Runtime Interface: one file an RPC, named after it.
//!
//! A handler checks its request (`validate`), calls the lifecycle (`pods`) or looks
//! at the model, and puts the answer into the interface's words (`convert`). Lists
//! and statuses come from memory: they wait for no guest and no disk.

mod chunks;
mod convert;
mod filter;
mod image_service;
mod metrics;
mod runtime_service;
mod usage;
mod validate;

mod attach;
mod checkpoint_container;
mod checkpoint_pod;
mod container_stats;
mod container_status;
mod create_container;
mod exec;
mod exec_sync;
mod get_container_events;
mod image_fs_info;
mod image_status;
mod list_container_stats;
mod list_containers;
mod list_images;
mod list_metric_descriptors;
mod list_pod_sandbox;
mod list_pod_sandbox_metrics;
mod list_pod_sandbox_stats;
mod pod_sandbox_stats;
mod pod_sandbox_status;
mod port_forward;
mod pull_image;
mod remove_container;
mod remove_image;
mod remove_pod_sandbox;
mod reopen_container_log;
mod restore_pod;
mod run_pod_sandbox;
mod runtime_config;
mod start_container;
mod status;
mod stop_container;
mod stop_pod_sandbox;
mod stream_container_stats;
mod stream_containers;
mod stream_images;
mod stream_pod_sandbox_metrics;
mod stream_pod_sandbox_stats;
mod stream_pod_sandboxes;
mod update_container_resources;
mod update_pod_sandbox_resources;
mod update_runtime_config;
mod version;

use std::{collections::BTreeMap, future::Future, sync::Arc};

use tonic::{Response, Status};
use tracing::Instrument;

use crate::{
    error::{Error, Kind, Result},
    pods::Pods,
};

/// Serves both services of the CRI. Clones share everything.
#[derive(Clone)]
pub struct Cri {
    pods: Pods,
    node: Arc<Node>,
    streaming: bulkhead_streaming::Server,
}

/// What the runtime says of itself.
#[derive(Clone, Debug, Default)]
pub struct Node {
    /// Whether cgroups are made by systemd: what kubelet then adopts.
    pub systemd_cgroups: bool,
    /// Why this host can't run pods, if it can't.
    pub fault: Option<String>,
    /// Records that could not be read at the start.
    pub quarantined: Vec<String>,
    /// Shown in verbose status, by name: the configuration, for example.
    pub info: BTreeMap<String, serde_json::Value>,
}

impl Cri {
    /// The services over the pods of this node; `streaming` is where clients are
    /// sent for exec, attach and port-forward.
    #[must_use]
    pub fn new(pods: Pods, node: Node, streaming: bulkhead_streaming::Server) -> Self {
        Self {
            pods,
            node: Arc::new(node),
            streaming,
        }
    }
}

type Reply<T> = std::result::Result<Response<T>, Status>;

/// Runs a handler in its span and turns its result into gRPC's.
async fn reply<T>(rpc: &'static str, handler: impl Future<Output = Result<T>>) -> Reply<T> {
    let span = tracing::debug_span!("rpc", rpc);
    async {
        match handler.await {
            Ok(answer) => Ok(Response::new(answer)),
            Err(error) => {
                match error.kind() {
                    // Asked for all the time by clients that tidy up.
                    Kind::NotFound | Kind::Unimplemented => tracing::debug!(rpc, %error, "refused"),
                    Kind::Internal => tracing::error!(rpc, %error, "failed"),
                    _ => tracing::warn!(rpc, %error, "refused"),
                }
                Err(error.into())
            }
        }
    }
    .instrument(span)
    .await
}

/// The part of a request without which it says nothing.
fn required<T>(part: Option<T>, name: &str) -> Result<T> {
    part.ok_or_else(|| Error::invalid(format!("the request has no {name}")))
}

/// Verbose information as crictl shows it: JSON texts by name.
fn verbose(
    parts: impl IntoIterator<Item = (&'static str, serde_json::Value)>,
) -> BTreeMap<String, String> {
    parts
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_string()))
        .collect()
}

#[cfg(test)]
mod tests;
