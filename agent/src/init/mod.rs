//! What a PID 1 owes its machine.

pub mod mounts;
pub mod ready;
pub mod reaper;
