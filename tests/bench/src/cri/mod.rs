//! A load on CRI runtimes.
//!
//! Every figure is what a client sees: from sending a request to having its
//! answer. Runtimes are measured in turn, call by call, so that whatever else the
//! machine does falls on all of them alike. Nothing here knows which runtime it
//! talks to.

mod crowd;
mod cycles;
mod execs;
mod logs;
mod queries;
mod target;

use std::{path::PathBuf, time::Duration};

use anyhow::{Result, ensure};
use bulkhead_e2e::image;
use clap::Args;

use crate::{
    neighbours,
    report::{PERCENTILES, Report},
};
pub(crate) use target::Address;
use target::Target;

/// How long a runtime's first pod may take; one that needs longer is left out.
const FIRST_POD: Duration = Duration::from_secs(60);

/// What is driven, and how hard.
#[derive(Args)]
pub(crate) struct Options {
    /// A runtime: [NAME[/HANDLER]=]PATH of its socket. May be given several times.
    #[arg(long = "socket", value_name = "RUNTIME")]
    sockets: Vec<Address>,
    /// Starts Bulkhead, and containerd with runc and with runsc, side by side: from
    /// Debian packages unpacked in this directory (tests/bench/peers.sh makes it).
    /// For a machine that may be changed: the test host.
    #[arg(long, value_name = "DIR", requires = "bin_dir")]
    beside: Option<PathBuf>,
    /// With --beside, where Bulkhead's programs are.
    #[arg(long, env = "BULKHEAD_BIN_DIR")]
    bin_dir: Option<PathBuf>,
    /// The image of every container; must have /bin/sh, and be there already.
    #[arg(long, default_value = image::DEMO)]
    image: String,
    /// Whole life cycles, one after the other.
    #[arg(long, default_value_t = 10)]
    cycles: u32,
    /// Life cycles at once.
    #[arg(long, default_value_t = 8)]
    parallel: u32,
    /// Pods that stand while lists and status are asked for.
    #[arg(long, default_value_t = 5)]
    pods: u32,
    /// Calls of each query.
    #[arg(long, default_value_t = 200)]
    queries: u32,
    /// Commands run in a container one after the other, and again by four clients.
    #[arg(long, default_value_t = 20)]
    execs: u32,
    /// Output of a container to its log, MiB; and of a command, up to 8 MiB of it.
    #[arg(long, default_value_t = 16)]
    output_mib: u32,
    /// With --beside: pods without virtual machines (the daemon with a stand-in for
    /// VMM and agent) that stand while lists and status are asked for; 0: none.
    #[arg(long, default_value_t = 1000)]
    crowd: u32,
}

/// Drives every runtime.
pub(crate) async fn run(options: Options) -> Result<Report> {
    let mut neighbours = None;
    let mut addresses = options.sockets.clone();
    if let (Some(dir), Some(bin_dir)) = (&options.beside, &options.bin_dir) {
        let started = neighbours::Neighbours::start(dir, bin_dir).await?;
        addresses.extend(started.addresses());
        neighbours = Some(started);
    }
    ensure!(
        !addresses.is_empty(),
        "nothing to measure: give --socket, or --beside in the test host"
    );
    let measured = measure(&options, addresses).await;
    if let Some(neighbours) = neighbours {
        neighbours.stop().await?;
    }
    let mut report = measured?;
    if let (Some(_), Some(bin_dir), 1..) = (&options.beside, &options.bin_dir, options.crowd) {
        // The crowd takes its time; what is known is shown.
        eprintln!("{}", report.table(PERCENTILES));
        crowd::run(bin_dir, &options, &mut report).await?;
    }
    Ok(report)
}

async fn measure(options: &Options, addresses: Vec<Address>) -> Result<Report> {
    let conditions = format!(
        "{} cycles in turn, {} at once, {} pods for queries, {} execs, {} MiB of output",
        options.cycles, options.parallel, options.pods, options.execs, options.output_mib
    );
    let mut report = Report::new(conditions.clone());
    let mut targets = Vec::new();
    for address in addresses {
        let target = Target::connect(address, &options.image).await?;
        // One pod that does not count: caches are warm then, and a runtime that can
        // run no pods here is known.
        let mut unused = Report::new(conditions.clone());
        let first = cycles::once(&target, "first", &mut unused);
        match tokio::time::timeout(FIRST_POD, first).await {
            Ok(Ok(())) => targets.push(target),
            Ok(Err(error)) => report.leave_out(&target.name, &format!("{error:#}")),
            Err(_) => report.leave_out(
                &target.name,
                &format!("its first pod was not done after {FIRST_POD:?}"),
            ),
        }
    }
    ensure!(
        !targets.is_empty(),
        "no runtime can run pods:\n{}",
        report.table(&[])
    );
    eprintln!("life cycles, one after the other");
    cycles::in_turn(&targets, options.cycles, &mut report).await;
    for target in &targets {
        eprintln!("{}: {} life cycles at once", target.name, options.parallel);
        cycles::at_once(target, options.parallel, &mut report).await?;
        eprintln!("{}: queries over {} pods", target.name, options.pods);
        queries::run(target, options.pods, options.queries, &mut report).await?;
        eprintln!("{}: {} execs", target.name, options.execs);
        execs::run(target, options.execs, options.output_mib, &mut report).await?;
        eprintln!("{}: {} MiB to a log", target.name, options.output_mib);
        logs::run(target, options.output_mib, &mut report).await?;
    }
    Ok(report)
}
