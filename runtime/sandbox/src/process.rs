//! Processes that outlive the daemon, named so that a reused pid is never
//! mistaken for one: by a pidfd, found again by pid and start time.

use std::{
    fs, io,
    os::fd::{AsFd as _, OwnedFd},
};

use rustix::{
    io::Errno,
    process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions},
};
use tokio::io::{Interest, unix::AsyncFd};

/// A process, held by its pidfd.
#[derive(Debug)]
pub struct Process {
    pid: u32,
    start_ticks: u64,
    pidfd: AsyncFd<OwnedFd>,
}

/// How a process ended, as far as this daemon can know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this status.
    Exited(i32),
    /// This signal killed it.
    Signalled(i32),
    /// It was not this daemon's child: only that it ended is known.
    Unknown,
}

impl Process {
    /// Takes hold of a process that this daemon has just spawned and not yet
    /// waited for (so the pid is its own).
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of_child(pid: u32) -> io::Result<Self> {
        let pidfd = open(pid)?;
        let start_ticks = start_ticks(pid)?;
        Ok(Self {
            pid,
            start_ticks,
            pidfd: watch(pidfd)?,
        })
    }

    /// Finds a process again.
    ///
    /// # Errors
    /// [`io::ErrorKind::NotFound`] when it is gone, or is another by now.
    pub fn find(pid: u32, expected_start: u64) -> io::Result<Self> {
        // In this order: the pidfd pins the process whose times are then read.
        let pidfd = open(pid)?;
        if start_ticks(pid)? != expected_start {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("process {pid} is another one by now"),
            ));
        }
        Ok(Self {
            pid,
            start_ticks: expected_start,
            pidfd: watch(pidfd)?,
        })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Its start time, clock ticks since boot.
    #[must_use]
    pub fn start_ticks(&self) -> u64 {
        self.start_ticks
    }

    /// Kills it with SIGKILL. A process that has ended already is no error.
    ///
    /// # Errors
    /// Whatever else the kernel says.
    pub fn kill(&self) -> io::Result<()> {
        match rustix::process::pidfd_send_signal(self.pidfd.get_ref(), Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => Ok(()),
            Err(e) => Err(e.into()),
        }
    }

    /// Waits until it has ended, and leaves the reaping to others.
    pub async fn gone(&self) {
        // A pidfd is readable when, and for ever after, the process has ended.
        let _ = self.pidfd.readable().await;
    }

    /// Waits until it has ended, and reaps it where it is this daemon's child.
    pub async fn ended(&self) -> Ended {
        // A pidfd is readable when, and for ever after, the process has ended.
        if self.pidfd.readable().await.is_err() {
            return Ended::Unknown;
        }
        let id = WaitId::PidFd(self.pidfd.get_ref().as_fd());
        match rustix::process::waitid(id, WaitIdOptions::EXITED | WaitIdOptions::NOHANG) {
            Ok(Some(status)) => match (status.exit_status(), status.terminating_signal()) {
                (Some(status), _) => Ended::Exited(status),
                (None, Some(signal)) => Ended::Signalled(signal),
                (None, None) => Ended::Unknown,
            },
            Ok(None) | Err(_) => Ended::Unknown,
        }
    }
}

#[allow(unsafe_code)] // registering a descriptor; see the SAFETY comment
fn watch(pidfd: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an OwnedFd is open, always the same descriptor, and closed only when
    // the AsyncFd that owns it is dropped; nothing takes it out again.
    let registered = unsafe { AsyncFd::register_with_interest(pidfd, Interest::READABLE) };
    Ok(registered?)
}

fn open(pid: u32) -> io::Result<OwnedFd> {
    let pid = i32::try_from(pid)
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "no process id"))?;
    rustix::process::pidfd_open(pid, PidfdFlags::empty()).map_err(|e| match e {
        Errno::SRCH => io::Error::new(io::ErrorKind::NotFound, "no such process"),
        e => e.into(),
    })
}

/// Start time of a process in clock ticks since boot: proc_pid_stat(5), field 22.
///
/// # Errors
/// When the process is gone.
pub fn start_ticks(pid: u32) -> io::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    parse_start_ticks(&stat).ok_or_else(|| {
        io::Error::new(
            io::ErrorKind::InvalidData,
            format!("/proc/{pid}/stat has no field 22"),
        )
    })
}

/// The name in field 2 may hold spaces and parentheses; the last `)` ends it.
fn parse_start_ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    rest.split_ascii_whitespace().nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn field_22_is_found_behind_any_name() {
        let stat = "7 (a) b (c)) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 0";
        assert_eq!(parse_start_ticks(stat), Some(4242));
        assert_eq!(parse_start_ticks("7 (a"), None);
    }

    #[tokio::test]
    #[expect(clippy::zombie_processes, reason = "ended() reaps by pidfd")]
    async fn a_childs_end_is_told_and_a_stranger_is_not_taken_for_it() {
        let child = Command::new("sh").args(["-c", "exit 11"]).spawn().unwrap();
        let process = Process::of_child(child.id()).unwrap();
        assert!(Process::find(child.id(), process.start_ticks() + 1).is_err());
        assert_eq!(process.ended().await, Ended::Exited(11));
        assert_eq!(process.ended().await, Ended::Unknown, "reaped");
        assert!(Process::find(child.id(), process.start_ticks()).is_err());

        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let process = Process::of_child(child.id()).unwrap();
        process.kill().unwrap();
        assert_eq!(process.ended().await, Ended::Signalled(9));
        process.kill().unwrap();
    }
}
