//! Signals that come too early.
//!
//! To the first process of a PID namespace the kernel delivers the signals that it
//! catches or blocks, and drops all others without a word (pid_namespaces(7)). A
//! program that was executed a moment ago does neither yet: asked to end, it would
//! not know, and be killed after its whole grace period. So a signal that would be
//! dropped is held back until the program can take it.

use std::{sync::Arc, time::Duration};

use rustix::process::{Pid, Signal};
use tokio::time::{Instant, sleep};

use super::Process;

/// How long a signal is held: longer than programs take to set their handlers up.
/// One that never does loses nothing: it would not have got the signal either.
const HELD: Duration = Duration::from_secs(10);
/// How often is looked.
const PAUSE: Duration = Duration::from_millis(10);

/// What a process does about signals (proc_pid_status(5)): a bit for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Dispositions {
    /// It is the first of its PID namespace.
    first: bool,
    blocked: u64,
    ignored: u64,
    caught: u64,
}

impl Dispositions {
    fn of(pid: Pid) -> Option<Self> {
        let path = format!("/proc/{}/status", pid.as_raw_nonzero());
        Self::parse(&std::fs::read_to_string(path).ok()?)
    }

    fn parse(status: &str) -> Option<Self> {
        let field = |name: &str| {
            let mut lines = status.lines().filter_map(|line| line.split_once(':'));
            lines.find_map(|(key, value)| (key == name).then_some(value.trim()))
        };
        let mask = |name: &str| u64::from_str_radix(field(name)?, 16).ok();
        Some(Self {
            first: field("NSpid")?.split_whitespace().last()? == "1",
            blocked: mask("SigBlk")?,
            ignored: mask("SigIgn")?,
            caught: mask("SigCgt")?,
        })
    }

    /// Whether the kernel would drop a signal that the program might want yet. What
    /// it ignores, it does not want.
    fn drops(self, signal: Signal) -> bool {
        let number = signal.as_raw();
        let bit = u32::try_from(number - 1)
            .ok()
            .and_then(|shift| 1_u64.checked_shl(shift))
            .unwrap_or(0);
        let always = [Signal::KILL, Signal::STOP, Signal::CONT];
        self.first
            && !always.contains(&signal)
            && (self.blocked | self.ignored | self.caught) & bit == 0
    }
}

/// Whether a signal would be dropped if it were sent now. For a whole process it is
/// the first thread that counts (kernel/signal.c, `sig_ignored`).
pub(super) fn is_too_early(pid: Pid, signal: Signal) -> bool {
    Dispositions::of(pid).is_some_and(|it| it.drops(signal)) && !awaits_signals(pid)
}

/// Whether a process is in sigtimedwait(2), as many a container's init is: the signals
/// that it waits for are delivered, although they are not shown as blocked meanwhile.
/// Where the kernel does not say, nothing is held back.
fn awaits_signals(pid: Pid) -> bool {
    let path = format!("/proc/{}/syscall", pid.as_raw_nonzero());
    std::fs::read_to_string(path).map_or(true, |call| is_sigtimedwait(&call))
}

/// Of proc_pid_syscall(5). The other two are those of 32-bit programs, which x86-64
/// itself does not use.
fn is_sigtimedwait(call: &str) -> bool {
    let number = call
        .split_whitespace()
        .next()
        .and_then(|it| it.parse().ok());
    number.is_some_and(|it: i64| [libc::SYS_rt_sigtimedwait, 177, 421].contains(&it))
}

/// Sends a signal as soon as it would arrive, at the latest after [`HELD`], in the
/// background.
pub(super) fn hold(process: Arc<Process>, signal: Signal) {
    tokio::spawn(async move {
        let deadline = Instant::now() + HELD;
        // Its pid is its own until its exit is recorded.
        while process.exit().is_none() {
            if Instant::now() >= deadline || !is_too_early(process.pid(), signal) {
                // It may have ended this moment.
                let _ = rustix::process::kill_process(process.pid(), signal);
                return;
            }
            sleep(PAUSE).await;
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(nspid: &str, blocked: u64, ignored: u64, caught: u64) -> String {
        format!(
            "Name:\tsh\nPid:\t812\nNSpid:\t{nspid}\nSigPnd:\t0000000000000000\n\
             SigBlk:\t{blocked:016x}\nSigIgn:\t{ignored:016x}\nSigCgt:\t{caught:016x}\n"
        )
    }

    fn drops(status: &str, signal: Signal) -> bool {
        Dispositions::parse(status).unwrap().drops(signal)
    }

    #[test]
    fn what_the_first_process_has_no_handler_for_is_dropped() {
        let term = 1 << 14;
        assert!(drops(&status("812\t1", 0, 0, 0), Signal::TERM));
        assert!(drops(&status("812\t1", 0, 0, term), Signal::HUP));
        for [blocked, ignored, caught] in [[term, 0, 0], [0, term, 0], [0, 0, term]] {
            assert!(!drops(
                &status("812\t1", blocked, ignored, caught),
                Signal::TERM
            ));
        }
    }

    #[test]
    fn others_get_every_signal() {
        assert!(!drops(&status("812\t7", 0, 0, 0), Signal::TERM));
        assert!(!drops(&status("812", 0, 0, 0), Signal::TERM));
        assert!(!drops(&status("812\t1", 0, 0, 0), Signal::KILL));
        assert!(!drops(&status("812\t1", 0, 0, 0), Signal::CONT));
    }

    #[test]
    fn who_awaits_signals_gets_them() {
        let in_it = format!("{} 0x1 0x0 0x7ffc00 0x7f00", libc::SYS_rt_sigtimedwait);
        assert!(is_sigtimedwait(&in_it) && is_sigtimedwait("177 0xff"));
        for other in ["running\n", "-1 0x0 0x0", "0 0x0 0x1", ""] {
            assert!(!is_sigtimedwait(other), "{other:?}");
        }
    }

    /// A process that awaits a signal, as the kernel shows it.
    #[test]
    fn the_kernel_shows_who_awaits_signals() {
        let id = |text: &str| text.parse().ok().and_then(Pid::from_raw);
        let (tell, told) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let own = std::fs::read_link("/proc/thread-self").unwrap();
            tell.send(own.file_name().unwrap().to_str().unwrap().to_owned())
                .unwrap();
            let mut awaited = nix::sys::signal::SigSet::empty();
            awaited.add(nix::sys::signal::Signal::SIGUSR2);
            awaited.thread_block().unwrap();
            awaited.wait().unwrap();
        });
        let thread = id(&told.recv().unwrap()).unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(60);
        while !awaits_signals(thread) {
            assert!(std::time::Instant::now() < deadline, "not shown");
            std::thread::sleep(PAUSE);
        }
    }

    #[test]
    fn what_is_no_status_says_nothing() {
        assert_eq!(Dispositions::parse(""), None);
        assert_eq!(Dispositions::parse("NSpid:\t1\nSigBlk:\tzz\n"), None);
        assert!(Dispositions::of(rustix::process::getpid()).is_some());
    }
}
