//! Confinement, before the guest runs.
//!
//! 1. The pod's cgroup was entered and every descriptor opened before.
//! 2. Limits: descriptors, no core dump (it would hold guest memory).
//! 3. Own mount, network, IPC and UTS namespaces; the run directory becomes the
//!    root, and nothing else of the host's file systems is left.
//! 4. No capabilities, no supplementary groups, the pod's uid and gid, not dumpable,
//!    no new privileges.
//! 5. Each thread gets the seccomp filter of its kind ([`seccomp`]); anything else
//!    kills the process.
//!
//! There is no PID namespace: it would only hold children, and this process has none.
//! Signals to others are ruled out by the uid and by the filters, which let a thread
//! signal this process only through KVM's kick.

pub mod seccomp;
mod system;

use std::{io, path::Path};

use crate::config::Confinement;

/// Descriptors that a VM may have open: 248 devices of a file, a kick and two
/// interrupts each, connections, and slack.
const MAX_DESCRIPTORS: u64 = 8192;

/// Why the process could not be confined.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step}: {source}")]
pub struct JailError {
    step: &'static str,
    source: io::Error,
}

fn step(step: &'static str) -> impl FnOnce(io::Error) -> JailError {
    move |source| JailError { step, source }
}

/// Enters the cgroup whose `cgroup.procs` this is.
///
/// # Errors
/// [`JailError`]
pub fn enter_cgroup(procs: std::fs::File) -> Result<(), JailError> {
    use std::io::Write;
    let mut procs = procs;
    procs
        .write_all(b"0")
        .map_err(step("enter the pod's cgroup"))
}

/// Steps 2 to 4. The process has one thread.
///
/// # Errors
/// [`JailError`]: the process must then end.
pub fn confine(run_dir: &Path, who: Confinement) -> Result<(), JailError> {
    system::limit_descriptors(MAX_DESCRIPTORS).map_err(step("limit descriptors"))?;
    system::no_core_dumps().map_err(step("rule core dumps out"))?;
    system::unshare().map_err(step(
        "enter namespaces of its own; it must be started as root",
    ))?;
    system::change_root(run_dir).map_err(step("make the run directory its root"))?;
    system::drop_capability_bounds().map_err(step("drop capabilities"))?;
    system::become_user(who.uid, who.gid).map_err(step("become the pod's user"))?;
    system::no_new_privileges().map_err(step("renounce new privileges"))
}
