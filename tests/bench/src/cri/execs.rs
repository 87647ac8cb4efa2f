//! Commands in a running container.

use std::time::Instant;

use anyhow::{Result, ensure};

use super::target::Target;
use crate::report::Report;

/// Clients at once.
const CLIENTS: u32 = 4;
/// ExecSync answers with 16 MiB at most.
const MAX_OUTPUT_MIB: u32 = 8;

/// `count` commands in turn, as many by several clients, and one with much output.
pub(crate) async fn run(
    target: &Target,
    count: u32,
    output_mib: u32,
    report: &mut Report,
) -> Result<()> {
    let pod = target.run_pod("execs").await?;
    let container = target.create(&pod, "main", "exec sleep 100000").await?;
    target.start(&container).await?;
    for _ in 0..count {
        let work = target.exec(&container, &["true"]);
        target.time(report, "ExecSync of true, ms", work).await?;
    }

    let began = Instant::now();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|_| {
            let (target, container) = (target.clone(), container.clone());
            tokio::spawn(async move {
                for _ in 0..count.div_ceil(CLIENTS) {
                    target.exec(&container, &["true"]).await?;
                }
                anyhow::Ok(())
            })
        })
        .collect();
    for client in clients {
        client.await??;
    }
    let done = f64::from(count.div_ceil(CLIENTS) * CLIENTS);
    let rate = done / began.elapsed().as_secs_f64();
    report.add(
        &target.name,
        &format!("ExecSync by {CLIENTS} clients, 1/s"),
        rate,
    );

    let mib = output_mib.min(MAX_OUTPUT_MIB);
    let script = format!("head -c {} /dev/zero", u64::from(mib) << 20);
    let began = Instant::now();
    let output = target.exec(&container, &["/bin/sh", "-c", &script]).await?;
    let seconds = began.elapsed().as_secs_f64();
    ensure!(
        output.len() as u64 == u64::from(mib) << 20,
        "{}: {} bytes of {mib} MiB arrived",
        target.name,
        output.len()
    );
    let rate = f64::from(mib) * 1.048_576 / seconds;
    report.add(&target.name, "ExecSync output, MB/s", rate);

    target.stop_pod(&pod).await?;
    target.remove_pod(&pod).await
}
