//! The one place that waits for children.
//!
//! PID 1 is the parent of everything that lost its own, and the container helper
//! makes containers' inits its direct children. So there is one loop over
//! waitpid(-1), and whoever wants to know of an exit asks here, by pid.
//!
//! An exit may be reaped before the helper has told the agent the pid. While an
//! [`Expectation`] lives, exits that nobody asked for are kept for that case.
//! Pids are not reused in that time: `pid_max` is far above what a helper's few
//! milliseconds can use up.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustix::process::{Pid, WaitOptions, WaitStatus};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

use crate::process::unix_now_ns;

/// A raw exit: the wait status and when it was reaped (Unix time, ns).
#[derive(Clone, Copy, Debug)]
pub struct Reaped {
    /// 0..=255, or 128 + signal.
    pub code: i32,
    /// The signal that ended it, or 0.
    pub signal: u32,
    /// Guest clock.
    pub at_unix_ns: i64,
}

impl Reaped {
    fn from_status(status: WaitStatus) -> Option<Self> {
        let (code, signal) = match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => (code, 0),
            (None, Some(signal)) => (128 + signal, u32::try_from(signal).unwrap_or(0)),
            (None, None) => return None,
        };
        Some(Self {
            code,
            signal,
            at_unix_ns: unix_now_ns(),
        })
    }
}

#[derive(Debug, Default)]
struct State {
    watched: HashMap<Pid, oneshot::Sender<Reaped>>,
    unclaimed: HashMap<Pid, Reaped>,
    expecting: usize,
}

/// Hands out exits by pid.
#[derive(Debug, Default)]
pub struct Reaper {
    state: Mutex<State>,
}

/// As long as this lives, no exit is forgotten.
#[derive(Debug)]
pub struct Expectation(Arc<Reaper>);

impl Drop for Expectation {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        state.expecting -= 1;
        if state.expecting == 0 {
            state.unclaimed = HashMap::new();
        }
    }
}

impl Reaper {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// To be held from before a child is made until its pid is watched.
    #[must_use]
    pub fn expect(self: &Arc<Self>) -> Expectation {
        self.lock().expecting += 1;
        Expectation(Arc::clone(self))
    }

    /// The exit of `pid`, a child made under `expectation`.
    pub fn watch(&self, pid: Pid, _expectation: &Expectation) -> oneshot::Receiver<Reaped> {
        let (tell, told) = oneshot::channel();
        let mut state = self.lock();
        match state.unclaimed.remove(&pid) {
            Some(reaped) => {
                // Cannot fail: the receiver is in hand.
                let _ = tell.send(reaped);
            }
            None => {
                state.watched.insert(pid, tell);
            }
        }
        told
    }

    fn reaped(&self, pid: Pid, reaped: Reaped) {
        let mut state = self.lock();
        if let Some(tell) = state.watched.remove(&pid) {
            // Fails when nobody wants to know any more.
            let _ = tell.send(reaped);
        } else if state.expecting > 0 {
            state.unclaimed.insert(pid, reaped);
        }
    }

    /// Starts to listen for SIGCHLD; to be called before the first child.
    ///
    /// # Errors
    /// When the signal cannot be handled.
    pub fn listen() -> std::io::Result<Signal> {
        signal(SignalKind::child())
    }

    /// Reaps for as long as the agent lives.
    pub async fn run(self: Arc<Self>, mut children: Signal) {
        loop {
            while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
                if let Some(reaped) = Reaped::from_status(status) {
                    self.reaped(pid, reaped);
                }
            }
            if children.recv().await.is_none() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(code: i32) -> Reaped {
        Reaped {
            code,
            signal: 0,
            at_unix_ns: 1,
        }
    }

    #[test]
    fn an_exit_that_comes_before_its_watcher_is_kept() {
        let reaper = Arc::new(Reaper::default());
        let pid = Pid::from_raw(7).unwrap();
        let expectation = reaper.expect();
        reaper.reaped(pid, exit(3));
        let mut told = reaper.watch(pid, &expectation);
        assert_eq!(told.try_recv().unwrap().code, 3);
    }

    #[test]
    fn exits_that_nobody_expects_are_dropped() {
        let reaper = Arc::new(Reaper::default());
        let pid = Pid::from_raw(7).unwrap();
        reaper.reaped(pid, exit(3));
        let expectation = reaper.expect();
        let mut told = reaper.watch(pid, &expectation);
        assert!(told.try_recv().is_err());
        reaper.reaped(pid, exit(4));
        assert_eq!(told.try_recv().unwrap().code, 4);

        reaper.reaped(Pid::from_raw(8).unwrap(), exit(5));
        assert_eq!(reaper.lock().unclaimed.len(), 1);
        drop(expectation);
        assert!(reaper.lock().unclaimed.is_empty());
    }
}
