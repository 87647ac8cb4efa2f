//! Whole lives of pods with one container: run, create, start, stop, remove.
//!
//! One that fails is told of and counted; the others go on.

use std::time::Instant;

use anyhow::Result;

use super::target::{Target, milliseconds};
use crate::report::Report;

const SLEEP: &str = "exec sleep 100000";

/// One life, each call timed.
pub(crate) async fn once(target: &Target, name: &str, report: &mut Report) -> Result<()> {
    let began = Instant::now();
    let work = target.run_pod(name);
    let pod = target.time(report, "RunPodSandbox, ms", work).await?;
    let work = target.create(&pod, "main", SLEEP);
    let container = target.time(report, "CreateContainer, ms", work).await?;
    let work = target.start(&container);
    target.time(report, "StartContainer, ms", work).await?;
    let work = target.stop(&container);
    target.time(report, "StopContainer, ms", work).await?;
    let work = target.remove(&container);
    target.time(report, "RemoveContainer, ms", work).await?;
    let work = target.stop_pod(&pod);
    target.time(report, "StopPodSandbox, ms", work).await?;
    let work = target.remove_pod(&pod);
    target.time(report, "RemovePodSandbox, ms", work).await?;
    let took = milliseconds(began.elapsed());
    report.add(&target.name, "whole cycle, ms", took);
    Ok(())
}

/// One life after the other, of the targets in turn.
pub(crate) async fn in_turn(targets: &[Target], count: u32, report: &mut Report) {
    let mut failed = vec![0; targets.len()];
    for run in 0..count {
        for (target, failed) in targets.iter().zip(&mut failed) {
            if let Err(error) = once(target, &format!("cycle-{run}"), report).await {
                eprintln!("{error:#}");
                *failed += 1;
            }
        }
    }
    for (target, failed) in targets.iter().zip(failed) {
        report.add(&target.name, "whole cycles that failed", f64::from(failed));
    }
}

/// `count` lives at once: how long each takes then, and all of them.
pub(crate) async fn at_once(target: &Target, count: u32, report: &mut Report) -> Result<()> {
    let began = Instant::now();
    let lives: Vec<_> = (0..count)
        .map(|number| {
            let target = target.clone();
            tokio::spawn(async move {
                let began = Instant::now();
                let pod = target.run_pod(&format!("parallel-{number}")).await?;
                let ran = began.elapsed();
                let container = target.create(&pod, "main", SLEEP).await?;
                target.start(&container).await?;
                let started = began.elapsed();
                target.stop(&container).await?;
                target.remove(&container).await?;
                target.stop_pod(&pod).await?;
                target.remove_pod(&pod).await?;
                anyhow::Ok((ran, started))
            })
        })
        .collect();
    let mut failed = 0;
    for life in lives {
        let (ran, started) = match life.await? {
            Ok(took) => took,
            Err(error) => {
                eprintln!("{error:#}");
                failed += 1;
                continue;
            }
        };
        for (metric, took) in [("RunPodSandbox", ran), ("container running", started)] {
            let metric = format!("{count} at once: {metric}, ms");
            report.add(&target.name, &metric, milliseconds(took));
        }
    }
    let metric = format!("{count} at once: all done, ms");
    report.add(&target.name, &metric, milliseconds(began.elapsed()));
    let metric = format!("{count} at once: failed");
    report.add(&target.name, &metric, f64::from(failed));
    Ok(())
}
