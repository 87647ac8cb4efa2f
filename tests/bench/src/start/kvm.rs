//! The host kernel's own counts of a VM's exits (debugfs, `kvm/<pid>-<fd>/`),
//! which are the same for every VMM.

use std::fs;

use anyhow::{Context as _, Result};

const DEBUGFS: &str = "/sys/kernel/debug";

/// Makes the counts visible.
pub(crate) fn mount_debugfs() -> Result<()> {
    if fs::metadata(format!("{DEBUGFS}/kvm")).is_ok() {
        return Ok(());
    }
    let status = std::process::Command::new("mount")
        .args(["-t", "debugfs", "debugfs", DEBUGFS])
        .status()
        .context("mounting debugfs")?;
    anyhow::ensure!(status.success(), "mounting debugfs at {DEBUGFS}: {status}");
    Ok(())
}

/// Exits of a VM so far: all, and those that went to user space for port and
/// memory-mapped I/O.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Exits {
    pub(crate) all: u64,
    pub(crate) to_user: u64,
}

/// The exits of the VM that process `pid` runs.
pub(crate) fn exits(pid: u32) -> Result<Exits> {
    let prefix = format!("{pid}-");
    for entry in fs::read_dir(format!("{DEBUGFS}/kvm")).context("listing kvm in debugfs")? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(&prefix) {
            continue;
        }
        let count = |name: &str| -> Result<u64> {
            let path = entry.path().join(name);
            let text = fs::read_to_string(&path).with_context(|| format!("{}", path.display()))?;
            Ok(text.trim().parse()?)
        };
        return Ok(Exits {
            all: count("exits")?,
            to_user: count("mmio_exits")? + count("io_exits")?,
        });
    }
    anyhow::bail!("process {pid} runs no VM")
}
