//! Hearing that a new pod's agent is ready.

use std::{io, time::Duration};

use bulkhead_agent_api::agent::Ready;
use tokio::sync::watch;

use crate::{agent::ready::ReadyListener, spec::SandboxExit};

/// Why an agent is not ready.
#[derive(Debug)]
pub(crate) enum NotReady {
    /// The socket failed.
    Broken(io::Error),
    /// The pod's process ended, with these words.
    Ended(String),
    /// The time is up.
    Late,
}

/// Waits for the agent's notice, for the pod's end, or for too long.
pub(crate) async fn notice(
    ready: &ReadyListener,
    exited: &watch::Receiver<Option<SandboxExit>>,
    limit: Duration,
) -> Result<Ready, NotReady> {
    let mut exited = exited.clone();
    tokio::select! {
        biased;
        notice = ready.wait() => notice.map_err(NotReady::Broken),
        message = end_message(&mut exited) => Err(NotReady::Ended(message)),
        () = tokio::time::sleep(limit) => Err(NotReady::Late),
    }
}

async fn end_message(exited: &mut watch::Receiver<Option<SandboxExit>>) -> String {
    let end = exited.wait_for(Option::is_some).await;
    let end = end.ok().and_then(|end| end.clone());
    end.map(|end| end.message).unwrap_or_default()
}
