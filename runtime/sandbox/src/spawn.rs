//! Starting a pod's process, VMM or agent, so that it outlives the daemon.
//!
//! The child inherits the descriptors that it is to have and no other: everything
//! the daemon opens is close-on-exec, and the mark is taken off in the child alone,
//! between fork and exec, so that no program started at the same moment gets any of
//! them. It leads a session of its own, so that no terminal's
//! or service manager's signal to the daemon's group reaches it, and it is in the
//! pod's cgroup before it runs a single instruction of its own.
#![allow(unsafe_code)] // Command::pre_exec; see the SAFETY comment

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::process::CommandExt as _,
    },
    path::Path,
    process::{Child, Command, Stdio},
};

use rustix::{
    io::FdFlags,
    thread::{LinkNameSpaceType, move_into_link_name_space},
};

use crate::process::Process;

/// What a process is started with.
#[derive(Debug)]
pub struct Spawn<'a> {
    /// The program.
    pub program: &'a Path,
    /// What `ps` shows as its name.
    pub title: String,
    /// Its arguments.
    pub args: Vec<OsString>,
    /// Descriptors that it inherits, under the same numbers.
    pub inherited: Vec<OwnedFd>,
    /// The network namespace that it is to live in, if not the daemon's.
    pub netns: Option<OwnedFd>,
    /// cgroup.procs of the cgroup that it is to live in.
    pub cgroup_procs: Option<File>,
    /// Where its stdout and stderr go, open for appending.
    pub log: File,
    /// The one environment variable it has: what it logs.
    pub log_filter: (&'static str, &'a str),
}

/// Starts the process. The child must be waited for by its pidfd.
///
/// # Errors
/// When the program cannot be started; no process is left then.
pub fn spawn(spawn: Spawn<'_>) -> io::Result<Child> {
    let mut command = Command::new(spawn.program);
    command
        .arg0(OsStr::new(&spawn.title))
        .args(&spawn.args)
        .env_clear()
        .env(spawn.log_filter.0, spawn.log_filter.1)
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(spawn.log.try_clone()?)
        .stderr(spawn.log);
    let (inherited, procs, netns) = (spawn.inherited, spawn.cgroup_procs, spawn.netns);
    let in_child = move || {
        if let Some(procs) = &procs {
            rustix::io::write(procs, b"0")?;
        }
        rustix::process::setsid()?;
        if let Some(netns) = &netns {
            move_into_link_name_space(netns.as_fd(), Some(LinkNameSpaceType::Network))?;
        }
        for fd in &inherited {
            rustix::io::fcntl_setfd(fd, FdFlags::empty())?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec only async-signal-safe functions may run.
    // The closure makes four kinds of raw system calls (write, setsid, setns, fcntl)
    // through rustix, which allocates nothing, takes no lock and keeps no state;
    // turning its error into io::Error stores a number. The descriptors are owned
    // by the closure, which the command owns, so they are open in the child.
    unsafe { command.pre_exec(in_child) };
    command.spawn()
}

/// The same, with the process held by its pidfd; one that can't be is killed.
///
/// # Errors
/// As [`spawn`].
pub fn spawn_process(what: Spawn<'_>) -> io::Result<Process> {
    let mut child = spawn(what)?;
    Process::of_child(child.id()).inspect_err(|_| {
        let _ = child.kill();
        let _ = child.wait();
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsRawFd as _;
    use std::{fs, os::unix::fs::PermissionsExt as _};

    #[test]
    fn the_child_has_the_named_descriptors_and_a_session_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let program = dir.path().join("vmm");
        fs::write(
            &program,
            "#!/bin/sh\necho $2 $RUST_LOG\nls /proc/$$/fd\ncut -d' ' -f6 /proc/$$/stat\necho $$\n",
        )
        .unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let null = || OwnedFd::from(File::open("/dev/null").unwrap());
        let (passed, kept, config) = (null(), null(), null());
        let log_path = dir.path().join("log");
        let procs_path = dir.path().join("cgroup.procs");
        let (passed_number, config_number) = (passed.as_raw_fd(), config.as_raw_fd());
        let mut child = spawn(Spawn {
            program: &program,
            title: "vmm p1".into(),
            args: vec!["--config-fd".into(), config_number.to_string().into()],
            inherited: vec![passed, config],
            netns: None,
            cgroup_procs: Some(File::create(&procs_path).unwrap()),
            log: File::create(&log_path).unwrap(),
            log_filter: ("RUST_LOG", "warn"),
        })
        .unwrap();
        assert!(child.wait().unwrap().success());
        let log = fs::read_to_string(&log_path).unwrap();
        let lines: Vec<&str> = log.lines().collect();
        assert_eq!(lines[0], format!("{config_number} warn"));
        let numbers: Vec<i32> = lines[1..lines.len() - 2]
            .iter()
            .map(|n| n.parse().unwrap())
            .collect();
        assert!(numbers.contains(&passed_number) && numbers.contains(&config_number));
        assert!(!numbers.contains(&kept.as_raw_fd()));
        assert_eq!(
            lines[lines.len() - 2],
            lines[lines.len() - 1],
            "session leader"
        );
        assert_eq!(fs::read_to_string(&procs_path).unwrap(), "0");
    }

    #[test]
    fn a_missing_program_is_an_error_that_leaves_no_process() {
        let dir = tempfile::tempdir().unwrap();
        let null = || File::open("/dev/null").unwrap();
        let result = spawn(Spawn {
            program: &dir.path().join("none"),
            title: "vmm".into(),
            args: Vec::new(),
            inherited: Vec::new(),
            netns: None,
            cgroup_procs: None,
            log: null(),
            log_filter: ("RUST_LOG", ""),
        });
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
