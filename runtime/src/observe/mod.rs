//! What an operator watches the daemon by.
//!
//! ```text
//!  kubelet ── gRPC ──► [calls] ──► services       counts, latency, a span a call
//!                         │                        (a child of kubelet's)
//!  Prometheus ── HTTP ──► [endpoint] ◄── [metrics] /metrics /healthz /debug/state
//!  collector  ◄── OTLP ── [traces] ◄── spans of the daemon, phases of VMM and guest
//! ```
//!
//! Nothing here is needed to run pods: an endpoint that cannot be opened fails the
//! daemon's start, a collector that is away costs nothing but its traces.

pub mod calls;
pub mod endpoint;
pub mod metrics;
mod process;
pub mod traces;
