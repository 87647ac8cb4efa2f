//! Process streams, the daemon's ends of them.
//!
//! * [`connection`]: one connection of one output stream, in batches.
//! * [`drain`]: when an ended process's output counts as complete.
//! * [`output`]: a container's output into its log and to its followers, and an
//!   exec's to its one reader.
//! * [`input`]: a process's stdin.

pub mod connection;
pub mod drain;
pub mod input;
pub mod output;
