//! How much a container has written to its writable layer.
//!
//! There is no counter for it, so the tree is walked: on a thread of its own, at
//! most once in nine seconds, and not past two million entries.

use std::{
    collections::{HashMap, HashSet},
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use tokio::sync::Mutex;

/// How long figures are good for: kubelet asks every ten seconds.
const FRESH: Duration = Duration::from_secs(9);
/// Entries after which a walk stops: the figures are then too low.
const MAX_ENTRIES: u64 = 2_000_000;
/// Bytes of a block as stat(2) counts them.
const BLOCK: u64 = 512;

/// What a walk found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpperUsage {
    /// Bytes on disk.
    pub bytes: u64,
    /// Files, directories and everything else.
    pub inodes: u64,
}

/// Figures of earlier walks.
#[derive(Debug, Default)]
pub struct UpperCache(Mutex<HashMap<PathBuf, (Instant, UpperUsage)>>);

impl UpperCache {
    /// The usage of a directory; zero when it is gone.
    pub async fn usage(&self, dir: PathBuf) -> UpperUsage {
        // One walk at a time: they compete for the same disk.
        let mut known = self.0.lock().await;
        if let Some((at, usage)) = known.get(&dir)
            && at.elapsed() < FRESH
        {
            return *usage;
        }
        let walked = dir.clone();
        let usage = tokio::task::spawn_blocking(move || walk(&walked))
            .await
            .unwrap_or_default();
        known.retain(|_, (at, _)| at.elapsed() < FRESH * 4);
        known.insert(dir, (Instant::now(), usage));
        usage
    }
}

fn walk(dir: &Path) -> UpperUsage {
    let mut usage = UpperUsage::default();
    let mut linked = HashSet::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        let Ok(entries) = fs::read_dir(&dir) else {
            continue;
        };
        for entry in entries.flatten() {
            let Ok(meta) = entry.metadata() else {
                continue;
            };
            if meta.nlink() > 1 && !meta.is_dir() && !linked.insert(meta.ino()) {
                continue;
            }
            usage.bytes += meta.blocks() * BLOCK;
            usage.inodes += 1;
            if usage.inodes >= MAX_ENTRIES {
                return usage;
            }
            if meta.is_dir() {
                todo.push(entry.path());
            }
        }
    }
    usage
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_walk_counts_blocks_and_hard_links_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir(at("sub")).unwrap();
        fs::write(at("sub/file"), vec![1; 10_000]).unwrap();
        fs::hard_link(at("sub/file"), at("again")).unwrap();
        std::os::unix::fs::symlink("/", at("link")).unwrap();
        let usage = walk(dir.path());
        assert_eq!(usage.inodes, 3);
        let file = fs::metadata(at("again")).unwrap().blocks() * BLOCK;
        assert!(usage.bytes >= file && usage.bytes < 2 * file + 65_536);
        assert_eq!(walk(&at("nowhere")), UpperUsage::default());
    }
}
