//! The thread loop of a device.
//!
//! ```text
//!            +--------------------- epoll ---------------------+
//!   kicks -->|                                                 |
//!   tap,  -->| wait --> ready(token) ... --> turn() --+        |
//!   sockets  |   ^                                    |        |
//!            |   +---- Wait / WaitFor(time) / Again --+        |
//!   stop  -->| ------------------------------> drain(), end    |
//!            +-------------------------------------------------+
//! ```
//!
//! A [`Handler`] notes in `ready` what has become possible and does the work in `turn`,
//! a bounded amount each time: when it has more to do it says [`Next::Again`], and the loop
//! looks at its descriptors (the stop event among them) before it goes on. So no queue
//! starves another, and a stop is never far.

mod poller;
mod thread;

pub use poller::{Edge, Poller};
pub use thread::{Handler, Next, Worker};

/// System calls of every worker, beside the ones of its device: for the seccomp filter of
/// its thread. The Rust runtime's own (memory, futex, exit; `fcntl` in debug builds) are included.
pub const SYSCALLS: &[&str] = &[
    "epoll_ctl",
    "epoll_pwait",
    "epoll_wait",
    "read",
    "write",
    "close",
    "clock_gettime",
    "futex",
    "brk",
    "mmap",
    "munmap",
    "mremap",
    "mprotect",
    "madvise",
    "rt_sigprocmask",
    "sigaltstack",
    "sched_yield",
    "exit",
    "restart_syscall",
    "fcntl",
    "gettid",
];
