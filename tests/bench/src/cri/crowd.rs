//! A node full of pods, as far as its daemon is concerned: VMM and agent of each are
//! a stand-in's, which costs what a small process costs.

use std::path::Path;

use anyhow::Result;
use bulkhead_e2e::{
    image,
    node::{Node, Programs},
};

use super::{
    Options, queries,
    target::{Address, Target},
};
use crate::{report::Report, start::memory};

/// What it is called in the table.
const NAME: &str = "bulkhead, no VMs";

/// Fills a node of its own, asks, and empties it again.
pub(crate) async fn run(bin_dir: &Path, options: &Options, report: &mut Report) -> Result<()> {
    let programs = Programs::in_dir(bin_dir)?.without_vms();
    let mut node = Node::new(&programs, "crowd", "")?;
    node.start().await?;
    node.import(image::demo()?, "demo.tar").await?;
    let address = Address {
        name: NAME.to_owned(),
        handler: String::new(),
        socket: node.socket(),
    };
    let target = Target::connect(address, &options.image).await?;
    eprintln!("{NAME}: queries over {} pods", options.crowd);
    daemon_memory(&node, "daemon, no pods, MiB", report)?;
    let standing = queries::stand(&target, options.crowd).await?;
    daemon_memory(&node, "daemon, all pods, MiB", report)?;
    queries::ask(&target, &standing, options.queries, report).await?;
    queries::remove(&target, standing).await?;
    node.stop().await
}

fn daemon_memory(node: &Node, metric: &str, report: &mut Report) -> Result<()> {
    let bytes = memory::of_process(node.daemon_pid()?)?;
    #[allow(clippy::cast_precision_loss)] // far below 2^52
    report.add(NAME, metric, bytes as f64 / f64::from(1 << 20));
    Ok(())
}
