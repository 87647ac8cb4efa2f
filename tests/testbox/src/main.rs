//! Small programs in one static binary, for images that conformance tests run.
//!
//! Called by the name it goes by, as busybox is:
//!
//! | name | what it does |
//! |---|---|
//! | `nginx` | a web server on port 80, or on the port that its argument names |
//! | `pgrep` | prints the processes whose name contains its argument |
//! | `ipcs` | prints the System V shared memory segments |
//! | `nonewprivs` | prints its effective user, for a file with the set-user-id bit |
//! | `top` | waits for SIGTERM, as PID 1 too |
//! | `pause` | waits until it is ended |
//! | `tree` | prints a file tree, with all that a file system knows of it |
#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))] // a failed unwrap is a failed test
#![allow(clippy::print_stdout)] // its output is its purpose

mod tree;
mod web;

use std::{fs, io, path::Path, process::ExitCode};

use nix::sys::signal::{SigSet, Signal};

fn main() -> ExitCode {
    let mut words = std::env::args();
    let name = words.next().unwrap_or_default();
    let words: Vec<String> = words.collect();
    let done = match name.as_str() {
        web::MASTER => web::serve(&words),
        _ => match Path::new(&name).file_name().and_then(|it| it.to_str()) {
            Some("nginx") => web::become_master(&words),
            Some("pgrep") => pgrep(&words),
            Some("ipcs") => ipcs(),
            Some("nonewprivs") => {
                println!("Effective uid: {}", rustix::process::geteuid().as_raw());
                Ok(true)
            }
            Some("top") => top(),
            Some("tree") => tree::tree(&words),
            Some("pause") => loop {
                rustix::event::pause();
            },
            _ => Err(io::Error::other(
                "call it nginx, pgrep, ipcs, nonewprivs, top, pause or tree",
            )),
        },
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{name}: {error}");
            ExitCode::from(2)
        }
    }
}

/// The kernel keeps signals without a handler from a PID 1, but not blocked ones
/// (signal(7), pid_namespaces(7)): a shell takes too long to get as far as that.
fn top() -> io::Result<bool> {
    let mut ends = SigSet::empty();
    ends.add(Signal::SIGTERM);
    ends.thread_block()?;
    ends.wait()?;
    Ok(true)
}

/// As procps has it: one process id a line, status 1 if there is none.
fn pgrep(words: &[String]) -> io::Result<bool> {
    let wanted = words
        .last()
        .ok_or_else(|| io::Error::other("whose processes?"))?;
    let own = std::process::id();
    let mut found = false;
    for entry in fs::read_dir("/proc")? {
        let file_name = entry?.file_name();
        let Some(pid) = file_name.to_str().and_then(|it| it.parse::<u32>().ok()) else {
            continue;
        };
        // It may have ended meanwhile.
        let name = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
        if pid != own && name.trim_end().contains(wanted.as_str()) {
            println!("{pid}");
            found = true;
        }
    }
    Ok(found)
}

/// The segments of the IPC namespace it runs in (proc_sysvipc(5)).
fn ipcs() -> io::Result<bool> {
    println!("------ Shared Memory Segments --------");
    print!("{}", fs::read_to_string("/proc/sysvipc/shm")?);
    Ok(true)
}
