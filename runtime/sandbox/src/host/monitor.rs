//! Notices the end of a host pod's agent, and ends what is left of the pod with it.

use std::sync::Arc;

use tokio::sync::watch;
use tracing::{error, info};

use crate::{
    cgroup::Cgroup,
    clock,
    paths::PodPaths,
    pod::process_log,
    process::{Ended, Process},
    spec::SandboxExit,
};

/// Watches an agent until it has ended. Containers without an agent are nobody's to
/// watch, log or stop: everything in the pod's cgroup is killed before the end is
/// told. The task may outlive the sandbox's last user: it is what reaps the child.
pub(super) fn watch(
    pod_id: String,
    process: Arc<Process>,
    paths: &PodPaths,
    cgroup: Cgroup,
) -> watch::Receiver<Option<SandboxExit>> {
    let (tell, exited) = watch::channel(None);
    let log = paths.agent_log();
    tokio::spawn(async move {
        let ended = process_log::tend(&pod_id, &process, log.clone()).await;
        let killed = tokio::task::spawn_blocking(move || {
            let killed = cgroup.empty();
            (killed, process_log::log_tail(&log))
        })
        .await;
        let words = match killed {
            Ok((Ok(()), words)) => words,
            Ok((Err(e), words)) => {
                error!(pod = %pod_id, "cannot end all of a pod whose agent has ended: {e}");
                words
            }
            Err(_) => String::new(),
        };
        let exit = explain(ended, &words, clock::unix_ns());
        info!(pod = %pod_id, reason = %exit.reason, "the host pod has ended");
        tell.send_replace(Some(exit));
    });
    exited
}

/// Why an agent ended, from what the kernel and its log say.
pub(super) fn explain(ended: Ended, words: &str, at_unix_ns: i64) -> SandboxExit {
    let (reason, how) = match ended {
        Ended::Exited(0) => ("stopped", "ended as it was told to".to_owned()),
        Ended::Exited(status) => ("agent-failed", format!("ended with status {status}")),
        Ended::Signalled(signal) => ("killed", format!("was killed by signal {signal}")),
        Ended::Unknown => ("ended", "ended while no daemon was its parent".to_owned()),
    };
    let mut message = format!("the host pod's agent {how}, and its containers with it");
    if !words.is_empty() && reason != "stopped" {
        message = format!("{message}; its log ends:\n{words}");
    }
    SandboxExit {
        reason: reason.to_owned(),
        message,
        at_unix_ns,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_has_a_reason_and_its_last_words() {
        let of = |ended| explain(ended, "why", 7);
        assert_eq!(of(Ended::Exited(0)).reason, "stopped");
        assert!(!of(Ended::Exited(0)).message.contains("why"));
        let killed = of(Ended::Signalled(9));
        assert_eq!((killed.reason.as_str(), killed.at_unix_ns), ("killed", 7));
        assert!(killed.message.contains("signal 9") && killed.message.ends_with("why"));
        assert_eq!(of(Ended::Exited(1)).reason, "agent-failed");
        assert_eq!(of(Ended::Unknown).reason, "ended");
    }
}
