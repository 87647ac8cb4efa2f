//! The daemon's side of a VMM process.
//!
//! * [`config`]: what the process is told, and the descriptors it inherits.
//! * [`control`]: asking it things and changing its disks.
//! * [`handover`]: giving it further descriptors while it runs.
//! * [`exit`]: why it ended.

pub mod config;
pub mod control;
pub mod exit;
pub mod handover;
