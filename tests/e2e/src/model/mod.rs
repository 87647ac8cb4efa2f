//! Random sequences of calls and faults against a node, compared with a model.
//!
//! The model is what kubelet may rely on: which pods and containers there are and
//! in which state, after any sequence of creates, starts, stops and removals, joined
//! and repeated calls, clients that give up, calls that race with each other,
//! nonsense, killed VMMs, and a daemon killed at any moment. After each step the
//! node's lists must say what the model says; at the end everything is removed and
//! the host is as it was.
//!
//! The seed is printed and makes the same sequence again; how it interleaves with
//! the node's own doings is up to the machine.

mod apply;
mod expected;
mod nonsense;
mod operation;
mod random;

use anyhow::{Context as _, Result, ensure};

use bulkhead_e2e::{
    image,
    node::{Node, Programs},
    world::World,
};

use apply::Driver;
use random::Random;

/// How long a sequence, and over what.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Plan {
    /// Number of operations.
    #[arg(long, default_value_t = 300)]
    pub(crate) operations: u32,
    /// Where the sequence comes from; one by the clock without it.
    #[arg(long)]
    pub(crate) seed: Option<u64>,
    /// Pods at once, at most.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=32))]
    pub(crate) pods: u8,
    /// RuntimeClass handler of the pods; empty: the default.
    #[arg(long, default_value = "")]
    pub(crate) handler: String,
    /// With the stand-in for VMM and agent in place of virtual machines.
    #[arg(long)]
    pub(crate) standin: bool,
}

/// Runs a sequence on a node of its own.
pub(crate) async fn run(programs: &Programs, plan: &Plan, config: &str) -> Result<()> {
    let seed = plan.seed.unwrap_or_else(by_the_clock);
    let programs = match plan.standin {
        true => &programs.without_vms(),
        false => programs,
    };
    println!("    model: {} operations, seed {seed}", plan.operations);
    let mut node = Node::new(programs, "model", config)?;
    node.start().await?;
    node.import(image::demo()?, "demo.tar").await?;
    let before = World::look(node.daemon_pid()?, &[&node.state_dir(), &node.run_dir()])?;

    let mut driver = Driver::new(node, plan.handler.clone());
    let mut random = Random::new(seed);
    let start_ms = if plan.standin { 400 } else { 2_000 };
    let mut counts = std::collections::BTreeMap::<&str, u32>::new();
    for number in 1..=plan.operations {
        let operation = operation::Operation::random(&mut random, plan.pods, start_ms);
        *counts.entry(operation.name()).or_default() += 1;
        driver.apply(&operation).await.with_context(|| {
            format!(
                "operation {number} of seed {seed}: {operation:?}\ndaemon log:\n{}",
                driver.node().daemon_log()
            )
        })?;
        if number % (plan.operations / 10).max(50) == 0 {
            println!("    model: {number} operations");
        }
    }
    println!("    model: {counts:?}");
    let mut node = driver.finish().await?;

    let after = World::look(node.daemon_pid()?, &[&node.state_dir(), &node.run_dir()])?;
    let differences = before.but_for_the_daemon(&after);
    ensure!(
        differences.is_empty(),
        "left behind by seed {seed}: {differences:#?}"
    );
    node.stop().await
}

fn by_the_clock() -> u64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |now| u64::from(now.subsec_nanos()) ^ now.as_secs())
}
