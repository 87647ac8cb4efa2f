//! Waiting for a container's program to end.

use std::{path::PathBuf, sync::Arc, time::Duration};

use bulkhead_sandbox::{ErrorKind, LogTarget, ProcessId, Sandbox};
use tracing::Instrument;

use super::{Inner, model::Container};
use crate::{clock, store::ContainerRecord};

/// Pause after a failed wait: doubled each time, up to the second.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// When an end is learnt of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Seen {
    /// As it happens.
    AtOnce,
    /// It happened while no daemon ran.
    Later,
}

/// How often a log is tried to be taken up after a restart, and the pause between.
const RESUMES: (u32, Duration) = (5, Duration::from_secs(1));

impl Inner {
    /// Goes on, after a restart, where the last daemon stopped: with the
    /// container's log, and with waiting for its end. `ended`: it has ended already.
    pub(crate) fn resume_container(
        self: &Arc<Self>,
        container: &Arc<Container>,
        sandbox: Arc<dyn Sandbox>,
        ended: bool,
    ) {
        let (inner, container) = (Arc::clone(self), Arc::clone(container));
        let seen = if ended { Seen::Later } else { Seen::AtOnce };
        tokio::spawn(async move {
            resume_log(&container, sandbox.as_ref()).await;
            inner.watch_container(&container, sandbox, seen);
        });
    }

    /// Waits, in a task of its own, until a container has ended and its last byte
    /// of output is in its log, and records that.
    pub(crate) fn watch_container(
        self: &Arc<Self>,
        container: &Arc<Container>,
        sandbox: Arc<dyn Sandbox>,
        seen: Seen,
    ) {
        let (inner, container) = (Arc::clone(self), Arc::clone(container));
        let span = tracing::info_span!(
            parent: None, "container", pod = %container.key.pod_id, container = %container.id
        );
        tokio::spawn(
            async move {
                let process = ProcessId::init(container.id.as_str());
                let mut pause = PAUSE.0;
                loop {
                    match sandbox.wait(&process).await {
                        Ok(mut exit) => {
                            // The guest's clock may be behind; the host's is asked
                            // unless the end was in the daemon's absence.
                            if seen == Seen::AtOnce {
                                exit.finished_unix_ns = clock::now_ns();
                            }
                            tracing::info!(code = exit.code, oom = exit.oom_killed, "ended");
                            break inner.ended(&container, |record| record.exited(exit)).await;
                        }
                        // Everything ends with the sandbox: `settle` sees to it.
                        Err(_) if sandbox.exited().borrow().is_some() => break,
                        Err(error) if error.kind() == ErrorKind::SandboxDead => break,
                        Err(error) if error.kind() == ErrorKind::NotFound => {
                            // Also what a removal looks like: then the record is gone.
                            let now = clock::now_ns();
                            break inner.ended(&container, |record| record.lost(now)).await;
                        }
                        Err(error) => {
                            tracing::warn!(%error, "cannot wait for the container; trying again");
                            tokio::time::sleep(pause).await;
                            pause = (pause * 2).min(PAUSE.1);
                        }
                    }
                }
            }
            .instrument(span),
        );
    }

    async fn ended(
        self: &Arc<Self>,
        container: &Arc<Container>,
        next: impl FnOnce(&ContainerRecord) -> Option<ContainerRecord>,
    ) {
        let _turn = container.turn.lock().await;
        if self.model.has_container(&container.id)
            && let Some(record) = next(&container.record())
        {
            self.container_fact(container, record).await;
        }
    }
}

/// Takes a container's log up. One that can't be written any more must not hold up
/// the container for ever: its output then goes nowhere, as with a full disk.
async fn resume_log(container: &Container, sandbox: &dyn Sandbox) {
    let log = container.record().log.clone();
    for attempt in 1..=RESUMES.0 {
        match sandbox.resume_container(&container.id, log.clone()).await {
            Ok(()) => return,
            // Whoever waits for its end learns the same.
            Err(error) if matches!(error.kind(), ErrorKind::SandboxDead | ErrorKind::NotFound) => {
                return;
            }
            Err(error) => {
                let container = &container.id;
                tracing::error!(%container, attempt, %error, "cannot take up the log");
            }
        }
        tokio::time::sleep(RESUMES.1).await;
    }
    let nowhere = LogTarget {
        directory: PathBuf::new(),
        path: PathBuf::new(),
    };
    match sandbox.resume_container(&container.id, nowhere).await {
        Ok(()) => tracing::error!(container = %container.id, "its output is lost from now on"),
        Err(error) => tracing::error!(container = %container.id, %error, "cannot be followed"),
    }
}
