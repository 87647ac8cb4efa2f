//! The agent, whole: real containers through its real sockets.
//!
//! Needs a machine it may change: the test host runs it (`suites` of the whole-node
//! tests); `common/place.rs` says where the agent runs. All scenarios share one
//! agent, because booting one takes longer than any of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)] // a failed unwrap is a failed test
#![allow(unreachable_pub)] // a module of a test has no public

mod common;
mod confinement;
mod pod;
mod processes;
mod streams;
mod whole;

/// What every scenario uses.
mod prelude {
    pub use std::time::Duration;

    pub use bulkhead_agent_api::agent::{stdio_hello::Stream, *};
    pub use serde_json::json;
    pub use ttrpc::Code;

    pub use super::{
        common::{Agent, place::within, spec},
        refused,
    };
}

use std::panic::AssertUnwindSafe;

use common::Rpc;
use futures::{FutureExt as _, future::LocalBoxFuture};
use prelude::*;

macro_rules! scenarios {
    ($($name:path),* $(,)?) => {
        vec![$((stringify!($name), |agent: &Agent| $name(agent).boxed_local())),*]
    };
}
type Scenario = (
    &'static str,
    for<'a> fn(&'a Agent) -> LocalBoxFuture<'a, ()>,
);

#[tokio::test]
#[ignore = "needs root on a machine it may change: the test host"]
async fn containers() {
    let agent = common::place::agent().await;
    let ready = &agent.place.ready;
    eprintln!(
        "ready after {:?}; kernel {}, main at {} ms, ready {} us later",
        agent.place.ready_after,
        ready.kernel_release,
        ready.main_ns / 1_000_000,
        (ready.ready_ns - ready.main_ns) / 1000,
    );
    before_anything(&agent).await;
    agent.prepare().await;
    let all: Vec<Scenario> = scenarios![
        pod::configuring_twice,
        processes::output_and_exit,
        pod::the_pods_surroundings,
        pod::the_pods_network,
        pod::the_agents_doors,
        processes::missing_programs,
        processes::users_and_groups,
        processes::execs,
        processes::failed_execs,
        processes::background_of_an_exec,
        streams::stdin_half_close,
        streams::terminals,
        processes::signals,
        streams::big_output_over_lost_connections,
        confinement::seccomp_profiles,
        confinement::capabilities_and_no_new_privileges,
        confinement::devices,
        confinement::out_of_memory,
        pod::shared_pids,
        pod::shared_memory_of_the_pod,
        confinement::readonly_root,
        pod::figures,
        pod::limits_change,
        whole::what_a_create_refuses,
        pod::layers_in_use,
        pod::layers_come_and_go,
        whole::many_at_once,
        whole::removed_while_created,
        processes::processes_are_listed,
        pod::the_machine,
        whole::durations,
        whole::nothing_is_left,
    ];
    let only = std::env::var("BULKHEAD_AGENT_TEST_ONLY").unwrap_or_default();
    let mut failed = Vec::new();
    for (name, scenario) in all {
        if !name.contains(&only) {
            continue;
        }
        let began = std::time::Instant::now();
        let limited = tokio::time::timeout(Duration::from_secs(120), scenario(&agent));
        match AssertUnwindSafe(limited).catch_unwind().await {
            Ok(Ok(())) => eprintln!("ok      {name} ({:?})", began.elapsed()),
            Ok(Err(_)) => {
                eprintln!("TIMEOUT {name}");
                failed.push(name);
            }
            Err(_) => {
                eprintln!("FAILED  {name}");
                failed.push(name);
            }
        }
    }
    assert!(failed.is_empty(), "{failed:?}");
    shut_down(&agent).await;
}

/// Asserts that a call failed with this code, and said this.
#[track_caller]
pub fn refused<T: std::fmt::Debug>(result: Rpc<T>, code: Code, text: &str) {
    let (got, what) = result.unwrap_err();
    assert_eq!(got, code, "{what}");
    assert!(what.contains(text), "{what:?} lacks {text:?}");
}

async fn before_anything(agent: &Agent) {
    let info = agent.info(InfoRequest::new()).await.unwrap();
    assert!(!info.configured);
    assert_eq!(info.kernel_release, agent.place.ready.kernel_release);
    assert!(info.online_cpus >= 1 && info.mem_total_bytes > 0);
    let early = agent
        .create_container(agent.request("early", &spec("true")))
        .await;
    refused(early, Code::FAILED_PRECONDITION, "ConfigureSandbox");
}

async fn shut_down(agent: &Agent) {
    agent
        .launch("last", "trap 'exit 0' TERM; while :; do sleep 0.1; done")
        .await;
    let mut request = ShutdownRequest::new();
    request.grace_ms = 5000;
    agent.shutdown(request).await.unwrap();
    agent.place.powers_off().await;
}
