//! A container that prints as fast as it can.

use std::{
    io::BufRead as _,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bulkhead_cri_api::v1::ContainerState;

use super::target::Target;
use crate::report::Report;

/// Bytes of a line with its newline: a common length of log lines.
const LINE: u64 = 100;
/// How long it may take altogether.
const PATIENCE: Duration = Duration::from_secs(600);

/// Prints `mib` MiB in lines, and counts from the start to the whole log on disk.
pub(crate) async fn run(target: &Target, mib: u32, report: &mut Report) -> Result<()> {
    let lines = (u64::from(mib) << 20) / LINE;
    let line: String = ('a'..='z').cycle().take(99).collect();
    let script = format!("yes {line} | head -n {lines}");
    let pod = target.run_pod("logs").await?;
    let container = target.create(&pod, "main", &script).await?;
    let began = Instant::now();
    target.start(&container).await?;
    let status = loop {
        let status = target.status(&container).await?;
        if status.state() == ContainerState::ContainerExited {
            break status;
        }
        ensure!(began.elapsed() < PATIENCE, "{} prints on", target.name);
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let seconds = began.elapsed().as_secs_f64();
    ensure!(
        status.exit_code == 0,
        "{}: exit {} ({} {})",
        target.name,
        status.exit_code,
        status.reason,
        status.message
    );
    let path = pod.log("main");
    let file = std::fs::File::open(&path).with_context(|| path.display().to_string())?;
    let mut written = 0;
    for entry in std::io::BufReader::new(file).lines() {
        written += u64::from(entry?.ends_with(&line));
    }
    ensure!(
        written == lines,
        "{}: {written} of {lines} lines",
        target.name
    );
    #[allow(clippy::cast_precision_loss)] // far below 2^53
    let (bytes, lines) = ((lines * LINE) as f64, lines as f64);
    report.add(&target.name, "log, MB/s", bytes / 1e6 / seconds);
    report.add(&target.name, "log, lines/s", lines / seconds);
    target.stop_pod(&pod).await?;
    target.remove_pod(&pod).await
}
