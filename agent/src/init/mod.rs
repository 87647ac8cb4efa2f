//! What an agent does before anything else: as PID 1 for its machine, on a host for
//! its pod.

pub mod host;
pub mod mounts;
pub mod ready;
pub mod reaper;
