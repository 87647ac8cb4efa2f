//! What a pod could leave behind on a host, listed so that "before" and "after"
//! can be compared: processes, interfaces, network namespaces, cgroups, mounts,
//! packet filter rules, the daemon's open files, and files below its directories.

use std::{collections::BTreeSet, fs, path::Path, process::Command};

use anyhow::{Context as _, Result};

/// A listing of everything that pods could leave behind; one line a thing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct World(BTreeSet<String>);

impl World {
    /// Looks at the host. `daemon` is the daemon's process id, `roots` the
    /// directories it owns.
    pub fn look(daemon: u32, roots: &[&Path]) -> Result<Self> {
        let mut seen = BTreeSet::new();
        processes(&mut seen)?;
        for entry in fs::read_dir("/sys/class/net")? {
            seen.insert(format!("interface {}", entry?.file_name().display()));
        }
        netns(&mut seen)?;
        cgroups(Path::new("/sys/fs/cgroup"), &mut seen)?;
        for line in fs::read_to_string("/proc/self/mountinfo")?.lines() {
            if let Some(target) = line.split(' ').nth(4) {
                seen.insert(format!("mount {target}"));
            }
        }
        for family in ["bridge", "inet", "ip", "ip6"] {
            let rules = Command::new("nft")
                .args(["-s", "list", "ruleset", family])
                .output()
                .context("listing packet filter rules with nft")?;
            for line in String::from_utf8_lossy(&rules.stdout).lines() {
                seen.insert(format!("nft {family} {}", line.trim()));
            }
        }
        open_files(daemon, &mut seen)?;
        for root in roots {
            files(root, &mut seen)?;
        }
        Ok(Self(seen))
    }

    /// [`World::differences`] where the daemon is another process than before, so that
    /// what it has open is counted anew.
    pub fn but_for_the_daemon(&self, after: &Self) -> Vec<String> {
        let mut differences = self.differences(after);
        differences
            .retain(|line| !line.contains(": daemon has ") && !line.contains("bulkhead --config"));
        differences
    }

    /// The same with a file that is to stay.
    #[must_use]
    pub fn with_file(mut self, path: &Path) -> Self {
        self.0.insert(format!("file {}", path.display()));
        self
    }

    /// What is in `after` and not here, and the other way round; empty if equal.
    pub fn differences(&self, after: &Self) -> Vec<String> {
        let gone = self
            .0
            .difference(&after.0)
            .map(|line| format!("gone: {line}"));
        let new = after
            .0
            .difference(&self.0)
            .map(|line| format!("left: {line}"));
        gone.chain(new).collect()
    }
}

/// User processes other than this test itself; kernel threads have no command line.
fn processes(seen: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let command = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let command = String::from_utf8_lossy(&command).replace('\0', " ");
        if !command.is_empty() && pid != std::process::id() {
            seen.insert(format!("process {pid} {command}"));
        }
    }
    Ok(())
}

/// Network namespaces by the processes that live in them.
fn netns(seen: &mut BTreeSet<String>) -> Result<()> {
    let mut namespaces = BTreeSet::new();
    for entry in fs::read_dir("/proc")? {
        if let Ok(link) = fs::read_link(entry?.path().join("ns/net")) {
            namespaces.insert(link);
        }
    }
    seen.insert(format!("{} network namespaces", namespaces.len()));
    for entry in fs::read_dir("/run/netns").into_iter().flatten() {
        seen.insert(format!("named netns {}", entry?.file_name().display()));
    }
    Ok(())
}

fn cgroups(dir: &Path, seen: &mut BTreeSet<String>) -> Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            seen.insert(format!("cgroup {}", entry.path().display()));
            cgroups(&entry.path(), seen)?;
        }
    }
    Ok(())
}

/// The daemon's descriptors by what they point to. Numbered kinds (sockets,
/// pipes) are counted, since their numbers change.
fn open_files(daemon: u32, seen: &mut BTreeSet<String>) -> Result<()> {
    let mut kinds = std::collections::BTreeMap::<String, u32>::new();
    let dir = format!("/proc/{daemon}/fd");
    for entry in fs::read_dir(&dir).with_context(|| format!("listing {dir}"))? {
        let Ok(target) = fs::read_link(entry?.path()) else {
            continue;
        };
        let target = target.display().to_string();
        let kind = target.split(':').next().unwrap_or(&target).to_owned();
        *kinds.entry(kind).or_default() += 1;
    }
    for (kind, count) in kinds {
        seen.insert(format!("daemon has {count} open {kind}"));
    }
    Ok(())
}

fn files(dir: &Path, seen: &mut BTreeSet<String>) -> Result<()> {
    let Ok(entries) = fs::read_dir(dir) else {
        return Ok(());
    };
    for entry in entries {
        let entry = entry?;
        seen.insert(format!("file {}", entry.path().display()));
        if entry.file_type()?.is_dir() {
            files(&entry.path(), seen)?;
        }
    }
    Ok(())
}
