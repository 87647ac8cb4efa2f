//! Notices a VM's end.

use std::sync::Arc;

use tokio::sync::watch;
use tracing::info;

use crate::{
    clock,
    paths::PodPaths,
    pod::process_log,
    process::Process,
    spec::SandboxExit,
    vmm::exit::{explain, read_report},
};

/// Watches a VMM process until it has ended. The task holds nothing but the
/// process and so may outlive the sandbox's last user: it is what reaps the
/// child.
pub(super) fn watch(
    pod_id: String,
    process: Arc<Process>,
    paths: &PodPaths,
) -> watch::Receiver<Option<SandboxExit>> {
    let (tell, exited) = watch::channel(None);
    let (vm, log) = (paths.vm(), paths.vmm_log());
    tokio::spawn(async move {
        let ended = process_log::tend(&pod_id, &process, log).await;
        let exit = tokio::task::spawn_blocking(move || {
            explain(ended, read_report(&vm).as_ref(), clock::unix_ns())
        })
        .await;
        let exit = exit.unwrap_or_else(|_| explain(ended, None, clock::unix_ns()));
        info!(pod = %pod_id, reason = %exit.reason, "the pod's virtual machine has ended");
        tell.send_replace(Some(exit));
    });
    exited
}
