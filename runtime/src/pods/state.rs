//! The state machines of pods and containers: pure transitions on records.
//!
//! ```text
//!   pod         Creating ──► Ready ──► NotReady ──► Removing ──► (gone)
//!                  └───────────┴── unwound or removed ──┘
//!
//!   container   Creating ──► Created ──► Running ──► Exited ──► Removing ──► (gone)
//!                  │            └──────────────────────▲            ▲
//!                  └── unwound ─────────────────────────────────────┘
//! ```
//!
//! Whatever the clocks say, created ≤ started ≤ finished: kubelet and people
//! subtract these.

use bulkhead_sandbox::{Exit, SandboxExit};

use crate::store::{ContainerPhase, ContainerRecord, PodPhase, PodRecord};

/// Reasons as containerd gives them; kubelet and its users know these words.
pub mod reason {
    /// Exit status 0.
    pub const COMPLETED: &str = "Completed";
    /// Any other exit.
    pub const ERROR: &str = "Error";
    /// Killed by the guest's out-of-memory killer.
    pub const OOM_KILLED: &str = "OOMKilled";
    /// The program could not be run.
    pub const START_ERROR: &str = "StartError";
    /// The sandbox ended under it, unasked.
    pub const SANDBOX_DIED: &str = "SandboxDied";
    /// It is gone, and nobody knows how it ended.
    pub const UNKNOWN: &str = "Unknown";
}

/// Exit code of a container that could not be started.
pub const EXIT_START_ERROR: i32 = 128;
/// Exit code of a container that was killed with its sandbox: 128 + SIGKILL.
pub const EXIT_KILLED: i32 = 137;
/// Exit code where nobody knows it.
pub const EXIT_UNKNOWN: i32 = 255;

/// Longest message kept in a record, bytes: a console's last words fit.
pub const MESSAGE_MAX: usize = 64 * 1024;

impl PodPhase {
    /// Whether a pod may go from `self` to `next`.
    #[must_use]
    pub fn may_become(self, next: Self) -> bool {
        use PodPhase::{Creating, NotReady, Ready, Removing};
        matches!(
            (self, next),
            (Creating, Ready | Removing)
                | (Ready, NotReady | Removing)
                | (NotReady, Removing)
                | (Removing, Removing)
        )
    }

    /// Whether clients see it.
    #[must_use]
    pub fn is_listed(self) -> bool {
        self != Self::Creating
    }
}

impl ContainerPhase {
    /// Whether a container may go from `self` to `next`.
    #[must_use]
    pub fn may_become(self, next: Self) -> bool {
        use ContainerPhase::{Created, Creating, Exited, Removing, Running};
        matches!(
            (self, next),
            (Creating, Created | Removing)
                | (Created, Running | Exited | Removing)
                | (Running, Exited | Removing)
                | (Exited, Removing)
                | (Removing, Removing)
        )
    }

    /// Whether clients see it.
    #[must_use]
    pub fn is_listed(self) -> bool {
        self != Self::Creating
    }

    /// Whether it still has, or may still get, a program.
    #[must_use]
    pub fn is_alive(self) -> bool {
        matches!(self, Self::Created | Self::Running)
    }
}

impl PodRecord {
    /// The sandbox has ended. Nothing changes if that is known already.
    #[must_use]
    pub fn ended(&self, exit: SandboxExit) -> Option<Self> {
        self.phase.may_become(PodPhase::NotReady).then(|| {
            let mut next = self.clone();
            next.phase = PodPhase::NotReady;
            next.exit = Some(SandboxExit {
                message: bounded(exit.message),
                ..exit
            });
            next
        })
    }
}

impl ContainerRecord {
    /// Its program has begun.
    #[must_use]
    pub fn started(&self, at_unix_ns: i64) -> Option<Self> {
        self.phase.may_become(ContainerPhase::Running).then(|| {
            let mut next = self.clone();
            next.phase = ContainerPhase::Running;
            next.started_at = at_unix_ns.max(self.created_at);
            next
        })
    }

    /// Its program has ended.
    #[must_use]
    pub fn exited(&self, exit: Exit) -> Option<Self> {
        let reason = match exit {
            Exit {
                oom_killed: true, ..
            } => reason::OOM_KILLED,
            Exit { code: 0, .. } => reason::COMPLETED,
            _ => reason::ERROR,
        };
        // The out-of-memory killer ends what it likes; the container counts as
        // killed by it whatever the init made of that.
        let code = if exit.oom_killed && exit.code == 0 {
            EXIT_KILLED
        } else {
            exit.code
        };
        self.finished(code, reason, String::new(), exit.finished_unix_ns)
    }

    /// Its program could not be run.
    #[must_use]
    pub fn start_failed(&self, message: String, at_unix_ns: i64) -> Option<Self> {
        self.finished(EXIT_START_ERROR, reason::START_ERROR, message, at_unix_ns)
    }

    /// Its sandbox has ended under it.
    #[must_use]
    pub fn sandbox_ended(&self, exit: &SandboxExit) -> Option<Self> {
        let (code, reason) = if exit.reason == STOPPED {
            (EXIT_KILLED, reason::ERROR)
        } else if exit.reason == KILLED {
            (EXIT_KILLED, reason::SANDBOX_DIED)
        } else {
            (EXIT_UNKNOWN, reason::SANDBOX_DIED)
        };
        let message = format!(
            "the pod's sandbox has ended ({}): {}",
            exit.reason, exit.message
        );
        self.finished(code, reason, message, exit.at_unix_ns)
    }

    /// The guest doesn't know it any more.
    #[must_use]
    pub fn lost(&self, at_unix_ns: i64) -> Option<Self> {
        let message = "the guest does not know this container any more".to_owned();
        self.finished(EXIT_UNKNOWN, reason::UNKNOWN, message, at_unix_ns)
    }

    fn finished(&self, code: i32, reason: &str, message: String, at: i64) -> Option<Self> {
        self.phase.may_become(ContainerPhase::Exited).then(|| {
            let mut next = self.clone();
            next.phase = ContainerPhase::Exited;
            if next.started_at == 0 {
                // Never ran: kubelet shows 1970 for a zero.
                next.started_at = at.max(self.created_at);
            }
            next.finished_at = at.max(next.started_at);
            next.exit_code = code;
            reason.clone_into(&mut next.reason);
            next.message = bounded(message);
            next
        })
    }
}

/// [`SandboxExit::reason`] of a sandbox that was asked to stop.
pub const STOPPED: &str = "stopped";
/// [`SandboxExit::reason`] of a sandbox whose process was killed.
pub const KILLED: &str = "killed";

/// Keeps the end of a long message: a console's last words are at its end.
fn bounded(message: String) -> String {
    if message.len() <= MESSAGE_MAX {
        return message;
    }
    let from = message.len() - MESSAGE_MAX;
    let from = (from..message.len())
        .find(|at| message.is_char_boundary(*at))
        .unwrap_or(from);
    format!("…{}", &message[from..])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::records::{container, pod};

    fn exit(code: i32, oom_killed: bool, finished_unix_ns: i64) -> Exit {
        Exit {
            code,
            oom_killed,
            finished_unix_ns,
            written: Default::default(),
        }
    }

    #[test]
    fn an_exit_has_containerds_words() {
        let running = container("c", "p", ContainerPhase::Running);
        let reason = |it: Exit| {
            let next = running.exited(it).unwrap();
            (next.exit_code, next.reason)
        };
        assert_eq!(reason(exit(0, false, 9)), (0, "Completed".into()));
        assert_eq!(reason(exit(3, false, 9)), (3, "Error".into()));
        assert_eq!(reason(exit(137, true, 9)), (137, "OOMKilled".into()));
        assert_eq!(reason(exit(0, true, 9)), (137, "OOMKilled".into()));
    }

    #[test]
    fn times_never_run_backwards() {
        let mut created = container("c", "p", ContainerPhase::Created);
        created.created_at = 100;
        let running = created.started(50).unwrap();
        assert_eq!(running.started_at, 100);
        let exited = running.exited(exit(0, false, 10)).unwrap();
        assert_eq!(exited.finished_at, 100);
        // Never started: still in order, and not in 1970.
        let failed = created.start_failed("no such program".into(), 150).unwrap();
        assert_eq!(
            (failed.created_at, failed.started_at, failed.finished_at),
            (100, 150, 150)
        );
        assert_eq!(
            (failed.exit_code, failed.reason.as_str()),
            (128, "StartError")
        );
    }

    #[test]
    fn the_first_end_counts() {
        let running = container("c", "p", ContainerPhase::Running);
        let exited = running.exited(exit(7, false, 9)).unwrap();
        assert_eq!(exited.exited(exit(0, false, 10)), None);
        assert_eq!(exited.lost(10), None);
        assert_eq!(exited.started(10), None);
        let died = SandboxExit {
            reason: "guest-panic".into(),
            message: "oops".into(),
            at_unix_ns: 9,
        };
        assert_eq!(exited.sandbox_ended(&died), None);
        let next = running.sandbox_ended(&died).unwrap();
        assert_eq!((next.exit_code, next.reason.as_str()), (255, "SandboxDied"));
        assert!(next.message.contains("guest-panic") && next.message.contains("oops"));
        let stopped = SandboxExit {
            reason: STOPPED.into(),
            ..died
        };
        assert_eq!(running.sandbox_ended(&stopped).unwrap().exit_code, 137);
    }

    #[test]
    fn a_pod_ends_once_and_keeps_the_end_of_what_it_said() {
        let ready = pod("p", PodPhase::Ready);
        let words = format!("{}the last words", "é".repeat(MESSAGE_MAX));
        let exit = SandboxExit {
            reason: "guest-panic".into(),
            message: words,
            at_unix_ns: 1,
        };
        let ended = ready.ended(exit.clone()).unwrap();
        let message = &ended.exit.as_ref().unwrap().message;
        assert!(message.len() <= MESSAGE_MAX + 3 && message.ends_with("the last words"));
        assert_eq!(ended.ended(exit), None);
    }

    #[test]
    fn phases_go_forward_only() {
        use ContainerPhase as C;
        use PodPhase as P;
        let pods = [P::Creating, P::Ready, P::NotReady, P::Removing];
        for (from, a) in pods.iter().enumerate() {
            for (to, b) in pods.iter().enumerate() {
                assert!(
                    !a.may_become(*b) || to > from || *a == P::Removing,
                    "{a:?} to {b:?}"
                );
            }
        }
        let containers = [C::Creating, C::Created, C::Running, C::Exited, C::Removing];
        for (from, a) in containers.iter().enumerate() {
            for (to, b) in containers.iter().enumerate() {
                assert!(
                    !a.may_become(*b) || to > from || *a == C::Removing,
                    "{a:?} to {b:?}"
                );
            }
        }
    }
}
