//! What may be believed of an agent's answers.
//!
//! An agent that has been taken over may say anything about its own pod; it must
//! not be able to say more than fits, name what is not a name, or put times where
//! they confuse kubelet. Everything an agent sends passes through here.

use std::collections::BTreeSet;

use bulkhead_agent_api::agent;

use crate::{
    error::{Error, ErrorKind, Result},
    paths::check_id,
    rpc,
    spec::{Exit, Process, ProcessId, ProcessState, User, Written},
};

/// Most processes taken from one answer.
pub const MAX_PROCESSES: usize = 4096;
/// Most groups of a process: the kernel's NGROUPS_MAX.
pub const MAX_GROUPS: usize = 65_536;
/// Most bytes of a version, a release, a boot id.
pub const MAX_TEXT: usize = 128;

/// The times between which something in the guest can have happened, Unix ns.
#[derive(Clone, Copy, Debug)]
pub struct Lifetime {
    /// When the sandbox was started.
    pub from_unix_ns: i64,
    /// Now.
    pub now_unix_ns: i64,
}

impl Lifetime {
    /// A guest's time by the host's clock: never before the sandbox, never in
    /// the future.
    #[must_use]
    pub fn clamp(&self, unix_ns: i64) -> i64 {
        unix_ns.max(self.from_unix_ns).min(self.now_unix_ns)
    }
}

pub(super) fn broken(what: &str) -> Error {
    Error::new(
        ErrorKind::Internal,
        format!("the guest agent's answer is not to be believed: {what}"),
    )
}

/// How a process ended.
///
/// # Errors
/// When the answer has no exit, or a code that no process has.
pub fn exit(exit: Option<&agent::Exit>, lifetime: Lifetime) -> Result<Exit> {
    let exit = exit.ok_or_else(|| broken("an ended process without its exit"))?;
    if !(0..=255).contains(&exit.exit_code) {
        return Err(broken("an exit code outside 0 to 255"));
    }
    Ok(Exit {
        code: exit.exit_code,
        oom_killed: exit.oom_killed,
        finished_unix_ns: lifetime.clamp(exit.finished_unix_ns),
        written: Written {
            stdout: exit.stdout_bytes,
            stderr: exit.stderr_bytes,
        },
    })
}

/// Every process the agent knows.
///
/// # Errors
/// For too many of them, ids that are none, or one id twice.
pub fn processes(
    response: &agent::ListProcessesResponse,
    lifetime: Lifetime,
) -> Result<Vec<Process>> {
    if response.processes.len() > MAX_PROCESSES {
        return Err(broken("more than 4096 processes"));
    }
    let mut seen = BTreeSet::new();
    response
        .processes
        .iter()
        .map(|process| {
            check_id("container id", &process.container_id).map_err(|_| broken("an id"))?;
            if !process.exec_id.is_empty() {
                check_id("exec id", &process.exec_id).map_err(|_| broken("an id"))?;
            }
            let id = ProcessId {
                container_id: process.container_id.clone(),
                exec_id: process.exec_id.clone(),
            };
            if !seen.insert(id.clone()) {
                return Err(broken("one process twice"));
            }
            let state = match process.state.enum_value() {
                Ok(agent::process::State::CREATED) => ProcessState::Created,
                Ok(agent::process::State::RUNNING) => ProcessState::Running,
                Ok(agent::process::State::EXITED) => {
                    ProcessState::Exited(exit(process.exit.as_ref(), lifetime)?)
                }
                _ => return Err(broken("a process in no state")),
            };
            let started_unix_ns = match process.started_unix_ns {
                0 => 0,
                at => lifetime.clamp(at),
            };
            Ok(Process {
                id,
                state,
                started_unix_ns,
            })
        })
        .collect()
}

/// Who a container's program runs as.
///
/// # Errors
/// For more groups than a process can have.
pub fn user(response: &agent::CreateContainerResponse) -> Result<User> {
    if response.supplemental_groups.len() > MAX_GROUPS {
        return Err(broken("more than 65536 groups"));
    }
    Ok(User {
        uid: response.uid,
        gid: response.gid,
        supplemental_groups: response.supplemental_groups.clone(),
    })
}

/// The agent's description of itself, with texts that fit.
#[must_use]
pub fn info(mut response: agent::InfoResponse) -> agent::InfoResponse {
    rpc::shorten(&mut response.agent_version, MAX_TEXT);
    rpc::shorten(&mut response.kernel_release, MAX_TEXT);
    rpc::shorten(&mut response.boot_id, MAX_TEXT);
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use protobuf::Message as _;

    const LIFETIME: Lifetime = Lifetime {
        from_unix_ns: 1_000,
        now_unix_ns: 2_000,
    };

    fn process(container: &str, exec: &str, state: agent::process::State) -> agent::Process {
        agent::Process {
            container_id: container.into(),
            exec_id: exec.into(),
            state: state.into(),
            exit: Some(agent::Exit {
                exit_code: 3,
                finished_unix_ns: 5_000,
                stdout_bytes: Some(7),
                ..Default::default()
            })
            .into(),
            started_unix_ns: 1,
            ..Default::default()
        }
    }

    fn list(processes: Vec<agent::Process>) -> Result<Vec<Process>> {
        let response = agent::ListProcessesResponse {
            processes,
            ..Default::default()
        };
        super::processes(&response, LIFETIME)
    }

    #[test]
    fn a_guests_times_stay_within_its_life() {
        let listed = list(vec![process("c", "", agent::process::State::EXITED)]).unwrap();
        assert_eq!(listed[0].started_unix_ns, 1_000);
        assert_eq!(
            listed[0].state,
            ProcessState::Exited(Exit {
                code: 3,
                oom_killed: false,
                finished_unix_ns: 2_000,
                written: Written {
                    stdout: Some(7),
                    stderr: None,
                },
            })
        );
    }

    #[test]
    fn what_cannot_be_is_refused() {
        use agent::process::State::{EXITED, RUNNING, UNSPECIFIED};
        assert!(list(vec![process("../c", "", RUNNING)]).is_err());
        assert!(list(vec![process("c", "a/b", RUNNING)]).is_err());
        assert!(list(vec![process("c", "", UNSPECIFIED)]).is_err());
        assert!(list(vec![process("c", "e", RUNNING); 2]).is_err());
        let mut endless = process("c", "", EXITED);
        endless.exit.mut_or_insert_default().exit_code = 256;
        assert!(list(vec![endless]).is_err());
        let mut many = Vec::new();
        for n in 0..=MAX_PROCESSES {
            many.push(process("c", &format!("e{n}"), RUNNING));
        }
        assert!(list(many).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_answers_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            crate::fuzz::agent_replies(&bytes);
        }
    }

    #[test]
    fn texts_are_cut_to_fit() {
        let response = agent::InfoResponse {
            kernel_release: "é".repeat(1000),
            ..Default::default()
        };
        assert!(info(response).kernel_release.len() <= MAX_TEXT);
        assert!(agent::InfoResponse::parse_from_bytes(&[0xff; 3]).is_err());
    }
}
