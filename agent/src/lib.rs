//! Guest agent: PID 1 of a pod's microVM.
//!
//! ```text
//!             host                              guest
//!  daemon ── ttrpc, vsock 1024 ───────▶  rpc ──▶ container ──▶ helper process
//!         ── stdio, vsock 1025 ───────▶  process::server          │ libcontainer
//!         ── forward, vsock 1026 ─────▶  forward                  │
//!         ◀─ Ready, CID 2 port 2048 ──   init::ready              ▼
//!                                        init::reaper ◀────── container's init
//! ```
//!
//! * [`init`]: what a PID 1 owes the machine: mounts, the ready message, reaping.
//! * [`rpc`]: the service of `bulkhead-agent-api`, one file a group of calls.
//! * [`container`]: from an OCI specification to a process.
//! * [`process`]: processes, their exits, and their stdio streams.
//! * [`forward`]: connections to servers in the pod.
//! * [`disks`], [`net`], [`stats`]: image layers, addresses, figures.
//! * [`place`]: the one difference between a guest and a host pod.
//!
//! The same binary serves over unix sockets (`--listen-dir DIR`) as an ordinary
//! process: that is how host pods and most tests run it. It then leaves the
//! machine alone: no mounts outside its directory, no clock, no power.
#![deny(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))] // a failed unwrap is a failed test

pub mod container;
pub mod disks;
pub mod error;
pub mod forward;
#[doc(hidden)]
pub mod fuzz;
pub mod init;
pub mod listen;
pub mod logging;
pub mod net;
pub mod place;
pub mod process;
pub mod rpc;
pub mod stats;
#[allow(unsafe_code)] // the one room for system calls without a safe wrapper
mod sys;

/// Version of this agent, as told in `Info` and `Ready`.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");
