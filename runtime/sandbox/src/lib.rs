//! Pod sandboxes.
//!
//! A [`Sandbox`] is the place where one pod's containers run; a [`Launcher`]
//! makes sandboxes, finds them again after a daemon restart, and removes every
//! trace of one. There are two places, [`MicroVm`] and [`Host`], and one [`Pod`]
//! in either; the CRI layer knows only these traits.
//!
//! The CRI layer records what it is about to do before it calls in here; calls
//! that make something are safe to follow with [`Launcher::destroy`] at any
//! point, whether they succeeded, failed, or were cut off by a crash.
#![deny(unsafe_code)] // but in spawn.rs and process.rs
#![cfg_attr(
    test,
    allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "a failed unwrap is a failed test"
    )
)]

pub mod agent;
pub mod cgroup;
pub mod clock;
pub mod cmdline;
pub mod config;
pub mod error;
pub mod figures;
#[doc(hidden)]
pub mod fuzz;
pub mod host;
pub mod initramfs;
pub mod log;
pub mod microvm;
pub mod paths;
pub mod places;
pub mod pod;
pub mod process;
pub mod rpc;
pub mod sockets;
pub mod spawn;
pub mod spec;
pub mod stdio;
pub mod vmm;

use std::sync::Arc;

use async_trait::async_trait;
use tokio::sync::watch;

pub use config::{HostConfig, MicroVmConfig, ScratchDisks};
pub use error::{Error, ErrorKind, Result};
pub use figures::{ContainerStats, GuestStats, SandboxStats};
pub use host::{Host, HostLauncher};
pub use microvm::{MicroVm, MicroVmLauncher};
pub use places::Places;
pub use pod::Pod;
pub use spec::{
    ClockChange, ContainerSpec, Created, Dns, ExecSpec, Exit, HostSpec, Interface, LogTarget,
    PlaceKind, Process, ProcessId, ProcessState, SandboxExit, SandboxRecord, SandboxSpec, Started,
    Stream, Timing, User, WindowSize, Written,
};

/// Makes, finds again and removes sandboxes of one kind.
#[async_trait]
pub trait Launcher: Send + Sync {
    /// Starts a sandbox and returns when its agent is ready and configured.
    ///
    /// # Errors
    /// Whatever failed; everything made so far has been removed again.
    async fn launch(&self, spec: SandboxSpec) -> Result<Arc<dyn Sandbox>>;

    /// Takes over a sandbox that an earlier daemon process started.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] when it is gone (its process, or its guest's agent).
    async fn adopt(&self, record: &SandboxRecord) -> Result<Arc<dyn Sandbox>>;

    /// Removes everything a sandbox with this id may have left on the host:
    /// processes, sockets, cgroup, files. Idempotent; unknown ids succeed.
    async fn destroy(&self, pod_id: &str) -> Result<()>;

    /// Ids of all pods that have left anything on the host, for the reconciler.
    async fn leftovers(&self) -> Result<Vec<String>>;
}

/// Where one pod's containers run.
///
/// Container ids are the CRI's. A process is (container, exec id); a container's
/// own init has the empty exec id. No method blocks longer than its own bounded
/// deadline, except [`Sandbox::wait`]; a sandbox that dies fails every call under
/// way with [`ErrorKind::SandboxDead`].
#[async_trait]
pub trait Sandbox: Send + Sync {
    /// What an adopting daemon needs to find this sandbox again.
    fn record(&self) -> SandboxRecord;

    /// Becomes `Some` when the sandbox has ended, for whatever reason, and stays so.
    fn exited(&self) -> watch::Receiver<Option<SandboxExit>>;

    /// Phases of the start with their durations, in order.
    fn timings(&self) -> Vec<Timing>;

    /// Creates a container: attaches its layers, prepares its root file system,
    /// creates its init process, and begins to drain its output into its log.
    ///
    /// # Errors
    /// Whatever failed; the container does not exist then.
    async fn create_container(&self, spec: ContainerSpec) -> Result<Created>;

    /// Runs the user's program.
    ///
    /// # Errors
    /// The execve's own error ([`ErrorKind::NotFound`] for a missing program,
    /// [`ErrorKind::PermissionDenied`], [`ErrorKind::InvalidArgument`]).
    async fn start_container(&self, container_id: &str) -> Result<Started>;

    /// Resumes the output draining of a container after adoption. `log` is where
    /// it was going; the bytes already there are not written again.
    async fn resume_container(&self, container_id: &str, log: LogTarget) -> Result<()>;

    /// Closes and opens the container's log anew (rotation).
    async fn reopen_log(&self, container_id: &str) -> Result<()>;

    /// Removes a created or exited container and releases its layers. Idempotent.
    async fn remove_container(&self, container_id: &str) -> Result<()>;

    /// Starts a further process in a running container. Its streams are opened
    /// with [`Sandbox::open_output`] and [`Sandbox::open_input`].
    async fn exec(&self, spec: ExecSpec) -> Result<()>;

    /// Forgets an exec process that has ended, or kills and forgets it.
    async fn forget_exec(&self, process: &ProcessId) -> Result<()>;

    /// Sends a signal to the process, or with `all` to its whole tree.
    async fn signal(&self, process: &ProcessId, signal: u32, all: bool) -> Result<()>;

    /// Waits until the process has ended and, for a container's init, until the
    /// last byte of its output is in its log.
    async fn wait(&self, process: &ProcessId) -> Result<Exit>;

    /// Changes the size of the process's terminal.
    async fn resize(&self, process: &ProcessId, window: WindowSize) -> Result<()>;

    /// Follows a process's output from now on: an exec's from its first byte
    /// (each byte goes to one reader only), a container's as it goes to the log
    /// (any number of followers). The channel ends when the output is complete,
    /// which is a moment after the process has ended, whoever else may still hold
    /// its streams.
    async fn open_output(
        &self,
        process: &ProcessId,
        stream: Stream,
    ) -> Result<tokio::sync::mpsc::Receiver<Vec<u8>>>;

    /// The process's stdin. Several may write at a time, each piece whole. Where
    /// `stdin_once` was asked for, dropping the last sender closes it; a send waits
    /// while the process does not read.
    async fn open_input(&self, process: &ProcessId) -> Result<tokio::sync::mpsc::Sender<Vec<u8>>>;

    /// Connects to a TCP port of the pod, on its loopback: IPv4, then IPv6. Each
    /// direction ends by itself (shutdown(2)); dropping the connection ends both.
    ///
    /// # Errors
    /// [`ErrorKind::FailedPrecondition`] with the reason when nothing answers there.
    async fn dial(&self, port: u16) -> Result<tokio::net::UnixStream>;

    /// Every process that the guest knows.
    async fn processes(&self) -> Result<Vec<Process>>;

    /// Resource use of all containers, of the guest, and of the host for it. A call
    /// of its own: whoever asks bounds how long it waits.
    async fn stats(&self) -> Result<SandboxStats>;

    /// Changes a created or running container's limits: all of them, or none. What
    /// `resources` doesn't name stays as it is.
    ///
    /// # Errors
    /// [`ErrorKind::InvalidArgument`] for values that make no sense;
    /// [`ErrorKind::FailedPrecondition`] for a memory limit below what the container
    /// holds and can't give back.
    async fn update_container(
        &self,
        container_id: &str,
        resources: &oci_spec::runtime::LinuxResources,
    ) -> Result<()>;

    /// Brings CPUs online until `count` are, or as many as there are; returns how
    /// many that is.
    async fn online_cpus(&self, count: u32) -> Result<u32>;

    /// Moves the guest's clock.
    async fn change_clock(&self, change: ClockChange) -> Result<()>;

    /// Ends the sandbox: asks the guest, waits at most `grace`, then kills. Never
    /// fails for a guest's sake; when it returns, no process is left.
    async fn stop(&self, grace: std::time::Duration) -> Result<()>;

    /// Free-form facts for verbose status: VM id, VMM pid, kernel, agent version,
    /// devices, sizes, exits.
    async fn info(&self) -> serde_json::Value;
}
