//! What an adopting daemon must know of a pod, in the pod's run directory.
//!
//! Written before a side effect that it names and replaced whole, so that a
//! daemon that dies in between finds at worst something that never came to be.

use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::disks::DiskTable;
use crate::{
    error::{Error, ErrorKind, Result},
    log::{file::read_bounded, writer::replace},
};

/// Largest state file read, bytes.
const MAX_STATE: usize = 16 << 20;
/// Version of the format.
const VERSION: u32 = 1;

/// The state.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    version: u32,
    /// The pod's process (its VMM, or its agent on the host), for a sweep that has
    /// no other record.
    pub(crate) pid: u32,
    /// See `pid`.
    pub(crate) pid_start_ticks: u64,
    /// When that was started, Unix ns.
    pub(crate) started_unix_ns: i64,
    /// Attached layers.
    pub(crate) disks: DiskTable,
    /// Containers that exist, or are being made.
    pub(crate) containers: BTreeMap<String, ContainerState>,
}

/// What is kept of a container.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ContainerState {
    /// Has one output stream instead of two.
    pub(crate) terminal: bool,
    /// stdin closes with its first writer.
    pub(crate) stdin_once: bool,
    /// The OCI process object: what an exec starts from.
    pub(crate) process: serde_json::Value,
    /// What of the environment that object can't hold.
    #[serde(default)]
    pub(crate) raw_env: Vec<Vec<u8>>,
    /// User, group and groups, likewise.
    pub(crate) user: User,
}

/// Who a process runs as, before it is resolved by the agent.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct User {
    pub(crate) spec: String,
    pub(crate) gid: Option<u32>,
    pub(crate) supplemental_groups: Vec<u32>,
    pub(crate) strict_groups: bool,
}

impl State {
    /// The state of a pod whose process has just been started.
    pub(crate) fn new(pid: u32, pid_start_ticks: u64, started_unix_ns: i64) -> Self {
        Self {
            version: VERSION,
            pid,
            pid_start_ticks,
            started_unix_ns,
            disks: DiskTable::default(),
            containers: BTreeMap::new(),
        }
    }
}

/// The state with the file it is kept in.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    state: State,
}

impl StateFile {
    /// Writes a new one.
    pub(crate) fn create(path: PathBuf, state: State) -> Result<Self> {
        let file = Self { path, state };
        file.save()?;
        Ok(file)
    }

    /// Reads what an earlier daemon left.
    pub(crate) fn load(path: &Path) -> io::Result<Self> {
        let content = read_bounded(path, MAX_STATE + 1)?;
        let bad = |e: String| {
            io::Error::new(
                io::ErrorKind::InvalidData,
                format!("{} is not a state file: {e}", path.display()),
            )
        };
        let state: State = serde_json::from_slice(&content).map_err(|e| bad(e.to_string()))?;
        if state.version != VERSION {
            return Err(bad(format!("version {}, not {VERSION}", state.version)));
        }
        Ok(Self {
            path: path.to_owned(),
            state,
        })
    }

    /// The state as it is.
    pub(crate) fn get(&self) -> &State {
        &self.state
    }

    /// Changes the state, on disk first; a change that cannot be written is not
    /// made.
    pub(crate) fn change<T>(&mut self, change: impl FnOnce(&mut State) -> Result<T>) -> Result<T> {
        let before = self.state.clone();
        let result = change(&mut self.state).and_then(|done| self.save().map(|()| done));
        if result.is_err() {
            self.state = before;
        }
        result
    }

    fn save(&self) -> Result<()> {
        let write = || {
            let content = serde_json::to_vec(&self.state)?;
            replace(&self.path, &content)
        };
        write().map_err(|e: io::Error| {
            Error::new(
                ErrorKind::Internal,
                format!("cannot write {}", self.path.display()),
            )
            .caused_by(e)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_on_disk_before_it_is_made_or_is_not_made() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/state.json");
        assert!(StateFile::create(path.clone(), State::new(1, 2, 3)).is_err());
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        let mut file = StateFile::create(path.clone(), State::new(1, 2, 3)).unwrap();
        let claim = |state: &mut State| state.disks.claim("c", &["blob".into()]);
        file.change(claim).unwrap();
        assert_eq!(
            StateFile::load(&path).unwrap().get().disks.iter().count(),
            1
        );
        std::fs::remove_dir_all(dir.path().join("sub")).unwrap();
        let release = |state: &mut State| {
            state.disks.removed("layer-0001");
            Ok(())
        };
        assert!(file.change(release).is_err());
        assert_eq!(file.get().disks.iter().count(), 1);
    }
}
