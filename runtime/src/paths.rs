//! Where the daemon's own files are: the one place that knows.
//!
//! ```text
//! /run/bulkhead/              0711   emptied by a reboot
//!   bulkhead.sock             0660   CRI and operator service
//!   bulkhead.lock             0600   held by the one daemon
//!   pods/                     0711   the sandbox launcher's
//! /var/lib/bulkhead/          0711
//!   state.redb                0600   records of pods and containers
//!   images/                   0700   the image store's
//!   cache/ scratch/           0700   the sandbox launcher's
//!   uploads/                  0700   archives while they are imported; emptied at start
//! ```
//!
//! Nobody but root reads what is in here; `x` for others lets a pod's own uid
//! reach the directories that are handed to it (and nothing by listing).

use std::{
    fs::{DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

/// The daemon's directories.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Paths {
    run: PathBuf,
    state: PathBuf,
}

impl Default for Paths {
    fn default() -> Self {
        Self::new("/run/bulkhead", "/var/lib/bulkhead")
    }
}

impl Paths {
    /// Paths beneath a run directory, which a reboot empties, and a state
    /// directory, which it does not.
    pub fn new(run: impl Into<PathBuf>, state: impl Into<PathBuf>) -> Self {
        Self {
            run: run.into(),
            state: state.into(),
        }
    }

    /// The run directory.
    #[must_use]
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// The state directory.
    #[must_use]
    pub fn state(&self) -> &Path {
        &self.state
    }

    /// The socket, unless configured elsewhere.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.run.join("bulkhead.sock")
    }

    /// Locked by the daemon that owns these directories.
    #[must_use]
    pub fn lock(&self) -> PathBuf {
        self.run.join("bulkhead.lock")
    }

    /// Parent of the pods' run directories.
    #[must_use]
    pub fn pods(&self) -> PathBuf {
        self.run.join("pods")
    }

    /// The state database.
    #[must_use]
    pub fn database(&self) -> PathBuf {
        self.state.join("state.redb")
    }

    /// The image store.
    #[must_use]
    pub fn images(&self) -> PathBuf {
        self.state.join("images")
    }

    /// What can be built again.
    #[must_use]
    pub fn cache(&self) -> PathBuf {
        self.state.join("cache")
    }

    /// Pods' writable disks.
    #[must_use]
    pub fn scratch(&self) -> PathBuf {
        self.state.join("scratch")
    }

    /// Archives that are streamed in.
    #[must_use]
    pub fn uploads(&self) -> PathBuf {
        self.state.join("uploads")
    }

    /// Makes what is missing and sets the modes above, whatever the umask is.
    ///
    /// # Errors
    /// With the directory's name: it can't be made, or belongs to another user.
    pub fn prepare(&self) -> io::Result<()> {
        let uid = rustix::process::geteuid().as_raw();
        for (dir, mode) in [
            (self.run.clone(), 0o711),
            (self.pods(), 0o711),
            (self.state.clone(), 0o711),
            (self.images(), 0o700),
            (self.cache(), 0o700),
            (self.scratch(), 0o700),
            (self.uploads(), 0o700),
        ] {
            let named = |error: io::Error| {
                io::Error::new(
                    error.kind(),
                    format!("prepare directory {}: {error}", dir.display()),
                )
            };
            DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(&dir)
                .map_err(named)?;
            let found = std::fs::symlink_metadata(&dir).map_err(named)?;
            if !found.is_dir() || found.uid() != uid {
                return Err(named(io::Error::new(
                    io::ErrorKind::PermissionDenied,
                    format!("it must be a directory owned by uid {uid}, the daemon's"),
                )));
            }
            std::fs::set_permissions(&dir, Permissions::from_mode(mode)).map_err(named)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directories_get_their_modes_and_a_second_run_changes_nothing() {
        let temp = tempfile::tempdir().unwrap();
        let paths = Paths::new(temp.path().join("run/b"), temp.path().join("lib/b"));
        for _ in 0..2 {
            paths.prepare().unwrap();
            let mode = |path: &Path| std::fs::metadata(path).unwrap().mode() & 0o7777;
            assert_eq!(mode(paths.run()), 0o711);
            assert_eq!(mode(&paths.pods()), 0o711);
            assert_eq!(mode(paths.state()), 0o711);
            assert_eq!(mode(&paths.images()), 0o700);
            assert_eq!(mode(&paths.scratch()), 0o700);
        }
    }

    #[test]
    fn a_link_in_place_of_a_directory_is_refused() {
        let temp = tempfile::tempdir().unwrap();
        let paths = Paths::new(temp.path().join("run"), temp.path().join("lib"));
        std::fs::create_dir(paths.run()).unwrap();
        std::os::unix::fs::symlink("/tmp", paths.pods()).unwrap();
        let error = paths.prepare().unwrap_err().to_string();
        assert!(
            error.contains("run/pods") && error.contains("owned by"),
            "{error}"
        );
    }
}
