//! Steps at which a crash would find the store in a new state on disk.
//!
//! In tests a thread can watch them, to take a copy of the store as a crash
//! would leave it; or as a loss of power would, after which there is only what was
//! synced. Otherwise they are nothing.

#[cfg(test)]
pub(crate) use disk::{Disk, directory_synced, file_synced};
#[cfg(test)]
pub(crate) use watch::{reached, watching};

/// A file's content is durable.
#[cfg(not(test))]
#[inline]
pub(crate) fn file_synced(_path: &std::path::Path) {}

/// A directory's names are durable.
#[cfg(not(test))]
#[inline]
pub(crate) fn directory_synced(_path: &std::path::Path) {}

/// A step was reached.
#[cfg(not(test))]
#[inline]
pub(crate) fn reached(_step: &'static str) {}

#[cfg(test)]
mod watch {
    use std::cell::RefCell;

    type Watcher = Box<dyn FnMut(&'static str)>;

    thread_local! {
        static WATCHER: RefCell<Option<Watcher>> = const { RefCell::new(None) };
    }

    pub(crate) fn reached(step: &'static str) {
        // Taken out meanwhile: what the watcher does has steps of its own.
        if let Some(mut watcher) = WATCHER.take() {
            watcher(step);
            WATCHER.set(Some(watcher));
        }
    }

    /// Runs `body` with `watcher` called at each step of this thread.
    pub(crate) fn watching<T>(
        watcher: impl FnMut(&'static str) + 'static,
        body: impl FnOnce() -> T,
    ) -> T {
        WATCHER.set(Some(Box::new(watcher)));
        let result = body();
        WATCHER.set(None);
        result
    }
}

#[cfg(test)]
mod disk {
    use std::cell::RefCell;
    use std::collections::{BTreeMap, HashMap};
    use std::ffi::OsString;
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::path::{Path, PathBuf};

    thread_local! {
        static DISK: RefCell<Option<Disk>> = const { RefCell::new(None) };
    }

    /// What of a directory tree is durable.
    #[derive(Default)]
    pub(crate) struct Disk {
        root: PathBuf,
        /// Contents by inode.
        files: HashMap<u64, Vec<u8>>,
        /// Names of files, and their inodes, by directory.
        directories: BTreeMap<PathBuf, BTreeMap<OsString, u64>>,
    }

    impl Disk {
        /// Follows what this thread makes durable beneath `root`, where all that is
        /// there already is durable.
        pub(crate) fn follow(root: &Path) {
            let mut disk = Self {
                root: root.to_owned(),
                ..Self::default()
            };
            disk.take(root, true);
            DISK.set(Some(disk));
        }

        /// Writes what would be left now to `to`.
        pub(crate) fn after_power_loss(to: &Path) {
            DISK.with_borrow(|disk| {
                let disk = disk.as_ref().unwrap();
                for (directory, names) in &disk.directories {
                    let directory = to.join(directory.strip_prefix(&disk.root).unwrap());
                    fs::create_dir_all(&directory).unwrap();
                    for (name, inode) in names {
                        // A name whose file was never synced has nothing in it.
                        let content = disk.files.get(inode).cloned().unwrap_or_default();
                        fs::write(directory.join(name), content).unwrap();
                    }
                }
            });
        }

        /// Takes the names in a directory, and with `all` everything beneath it.
        fn take(&mut self, directory: &Path, all: bool) {
            let mut names = BTreeMap::new();
            for entry in fs::read_dir(directory).unwrap() {
                let entry = entry.unwrap();
                let meta = entry.metadata().unwrap();
                if meta.is_dir() {
                    if all {
                        self.take(&entry.path(), true);
                    }
                    continue;
                }
                names.insert(entry.file_name(), meta.ino());
                if all {
                    self.files
                        .insert(meta.ino(), fs::read(entry.path()).unwrap());
                }
            }
            self.directories.insert(directory.to_owned(), names);
        }
    }

    pub(crate) fn file_synced(path: &Path) {
        DISK.with_borrow_mut(|disk| {
            if let Some(disk) = disk.as_mut().filter(|disk| path.starts_with(&disk.root)) {
                let inode = fs::metadata(path).unwrap().ino();
                disk.files.insert(inode, fs::read(path).unwrap());
            }
        });
    }

    pub(crate) fn directory_synced(path: &Path) {
        DISK.with_borrow_mut(|disk| {
            if let Some(disk) = disk.as_mut().filter(|disk| path.starts_with(&disk.root)) {
                disk.take(path, false);
            }
        });
    }
}
