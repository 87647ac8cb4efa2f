//! Container logs in the CRI format, with nothing lost and nothing twice.
//!
//! ```text
//! 2026-08-22T10:00:00.123456789Z stdout F a whole line
//! 2026-08-22T10:00:00.223456789Z stderr P the first 16 KiB of a long one
//! 2026-08-22T10:00:00.223456789Z stderr F and its end
//! ```
//!
//! `F` stands for its content and a newline, `P` for its content alone; so the
//! bytes of each stream can be had back from the log, and counted. That makes the
//! log its own journal: the agent keeps every byte until it is acknowledged, the
//! daemon acknowledges what write(2) has taken, and a daemon that comes back
//! counts the log's bytes and asks each stream to go on from there. A line torn
//! by a kill in the middle of a write is cut off again; its bytes were never
//! acknowledged.
//!
//! * [`mod@format`]: bytes to lines and lines to counts; pure.
//! * [`resume`]: where a log stands; pure.
//! * [`mod@file`]: opening the log where kubelet wants it, without being led astray.
//! * [`writer`]: the log of one container.

pub mod file;
pub mod format;
pub mod resume;
pub mod writer;

pub use writer::{ContainerLog, Progress};
