//! Kubernetes' own conformance tests of container runtimes, against one node.
//!
//! critest (the `cri-tools` project) is brought along by whoever runs this; the
//! project neither builds nor fetches it. The images that it pulls are made and served
//! here ([`images`]).
//!
//! Every specification must pass but for those in `tests/conformance/known.txt`,
//! each with its reason ([`known`]). Those are run all the same: one of them that
//! passes is a failure too, so the list can't go stale.

mod images;
pub mod known;
pub mod report;

use std::{path::PathBuf, process::Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::node::{Node, Programs};
use known::{Known, Verdict};
use report::Outcome;

/// What is to be run, and how.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// The critest program.
    #[arg(long, env = "BULKHEAD_CRITEST")]
    critest: PathBuf,
    /// The shell of the images that it pulls (tests/conformance/shell.sh).
    #[arg(long, env = "BULKHEAD_CONFORMANCE_SHELL")]
    shell: PathBuf,
    /// Only specifications whose names match one of these regular expressions.
    #[arg(long)]
    focus: Vec<String>,
    /// Exec, attach and port-forward by WebSocket instead of SPDY.
    #[arg(long)]
    websocket: bool,
    /// The runtime handler that pods ask for.
    #[arg(long, default_value = "")]
    handler: String,
    /// A file whose contents are added to the daemon's configuration.
    #[arg(long)]
    config: Option<PathBuf>,
    /// Shows what critest says of specifications that fail.
    #[arg(long)]
    verbose: bool,
}

/// Runs critest against a node of its own and prints what came of it.
///
/// # Errors
/// It could not be run. What it found is the verdict's.
pub async fn run(programs: &Programs, options: &Options) -> Result<Verdict> {
    let mut extra = match &options.config {
        Some(path) => {
            std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?
        }
        None => String::new(),
    };
    if !extra.contains("[host_pods]") {
        // Its pods are in Kubernetes namespaces with random names.
        extra.push_str("\n[host_pods]\nallow_namespaces = [\"*\"]\n");
    }
    let mut node = Node::new_online(programs, "conformance", &extra)?;
    let _registry = images::serve(&node, &programs.testbox, &options.shell).await?;
    node.start().await?;
    let outcomes = critest(&node, options).await?;
    let verdict = known::judge(&outcomes, &Known::ours()?, options.focus.is_empty());
    print(&outcomes, &verdict, options.verbose);
    if options.verbose && !verdict.is_good() {
        println!("daemon log:\n{}", node.daemon_log());
    }
    node.stop().await?;
    Ok(verdict)
}

async fn critest(node: &Node, options: &Options) -> Result<Vec<Outcome>> {
    let report = node.path("report.json");
    let endpoint = format!("unix://{}", node.socket().display());
    let mut command = tokio::process::Command::new(&options.critest);
    command
        .arg(format!("--runtime-endpoint={endpoint}"))
        .arg(format!("--runtime-handler={}", options.handler))
        .arg(format!("--ginkgo.json-report={}", report.display()))
        .args([
            "--ginkgo.seed=1",
            "--ginkgo.no-color",
            "--ginkgo.timeout=2h",
        ])
        .args(
            options
                .focus
                .iter()
                .map(|focus| format!("--ginkgo.focus={focus}")),
        )
        .stdin(Stdio::null());
    if options.websocket {
        command.args([
            "--websocket-exec",
            "--websocket-attach",
            "--websocket-portforward",
        ]);
    }
    let status = command
        .status()
        .await
        .with_context(|| format!("running {}", options.critest.display()))?;
    let text = std::fs::read(&report)
        .with_context(|| format!("critest ended with {status} and left no report"))?;
    let outcomes = report::parse(&text)?;
    ensure!(!outcomes.is_empty(), "critest ran no specification");
    Ok(outcomes)
}

fn print(outcomes: &[Outcome], verdict: &Verdict, verbose: bool) {
    for outcome in outcomes {
        if verbose && !outcome.passed() && outcome.was_run() {
            println!(
                "\n{}: {:?}\n{}",
                outcome.name, outcome.state, outcome.message
            );
        }
    }
    for (what, names) in [
        ("fails and is not in the list", &verdict.failed),
        (
            "is skipped by critest and is not in the list",
            &verdict.skipped,
        ),
        ("passes and is in the list", &verdict.stale),
        ("is in the list and not in critest", &verdict.missing),
    ] {
        for name in names {
            println!("{what}: {name}");
        }
    }
    println!(
        "{} passed, {} failed, {} known not to pass, {} in all",
        verdict.passed,
        verdict.failed.len() + verdict.skipped.len(),
        verdict.known,
        outcomes.iter().filter(|outcome| outcome.was_run()).count(),
    );
}
