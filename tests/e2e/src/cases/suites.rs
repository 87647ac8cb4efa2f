//! Tests of single crates that need a machine like this one.
//!
//! They are ordinary cargo tests, marked `ignored` so that nobody takes them for
//! passed where they cannot run. `tests/host/build.sh` builds them into `suites/`,
//! named after their crates.

use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};
use tokio::process::Command;

use bulkhead_e2e::node::Programs;

/// The agent, whole: containers, streams, confinement, without a VM around it.
pub(crate) async fn agent(programs: &Programs) -> Result<()> {
    let dir = programs.agent.parent().context("programs have a place")?;
    let mut command = Command::new(dir.join("suites/bulkhead-agent"));
    // The agent that is shipped, not the one of the test's own profile.
    command.env("BULKHEAD_AGENT", &programs.agent);
    // Its containers' files: what /tmp is may not carry an overlay's upper.
    command.env("TMPDIR", "/run");
    suite(command).await
}

/// vCPUs on a real KVM.
pub(crate) async fn vmm(programs: &Programs) -> Result<()> {
    let dir = programs.vmm.parent().context("programs have a place")?;
    suite(Command::new(dir.join("suites/bulkhead-vmm"))).await
}

/// Runs the ignored tests of an executable: all must pass, and there must be some.
async fn suite(mut command: Command) -> Result<()> {
    let output = command
        .args(["--ignored", "--nocapture"])
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("running {:?}", command.as_std().get_program()))?;
    let stdout = String::from_utf8_lossy(&output.stdout);
    let passed = stdout
        .lines()
        .find_map(|line| line.strip_prefix("test result: ok. "))
        .and_then(|rest| rest.split(' ').next()?.parse::<usize>().ok());
    ensure!(
        output.status.success() && passed.is_some_and(|passed| passed > 0),
        "{:?} ended with {}\n{stdout}\n{}",
        command.as_std().get_program(),
        output.status,
        String::from_utf8_lossy(&output.stderr),
    );
    Ok(())
}
