//! Logs: to the console, which the VMM keeps for a dead VM's message.
//!
//! Quiet by default, because every console write is an exit to the VMM.
//! `bulkhead.log=debug` on the kernel command line, or `BULKHEAD_LOG` on a host,
//! raises the level.

use std::{fs::File, os::fd::AsFd as _, sync::Mutex};

use tracing::Level;

/// Starts logging to a close-on-exec copy of standard error.
///
/// The copy matters in the container helper, whose own standard error becomes
/// the container's: no line of ours may end up in a container's log.
pub fn start() {
    start_at(level());
}

/// Starts logging in the container helper: nothing unless debugging is asked
/// for. What goes wrong there is in its reply; libcontainer's own warnings (it
/// has no seccomp, say: the agent has) would only mislead.
pub fn start_in_helper() {
    let level = level();
    if level >= Level::DEBUG {
        start_at(level);
    }
}

fn start_at(level: Level) {
    let Ok(fd) = rustix::io::fcntl_dupfd_cloexec(std::io::stderr().as_fd(), 3) else {
        return;
    };
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_ansi(false)
        .without_time()
        .with_writer(Mutex::new(File::from(fd)))
        .finish();
    // Fails only when a subscriber is set already: then that one serves.
    let _ = tracing::subscriber::set_global_default(subscriber);
}

fn level() -> Level {
    let named = std::env::var("BULKHEAD_LOG").ok().or_else(|| {
        let line = std::fs::read_to_string("/proc/cmdline").ok()?;
        line.split_ascii_whitespace()
            .find_map(|word| word.strip_prefix("bulkhead.log=").map(str::to_owned))
    });
    named
        .and_then(|name| name.parse().ok())
        .unwrap_or(Level::ERROR)
}

/// Makes a panic end the process: PID 1's end panics the kernel, which is what
/// tells the host. Without this a panic in a task would only end the task.
pub fn panic_is_fatal() {
    let default = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        default(info);
        std::process::exit(101);
    }));
}
