//! Opening a container's log.
//!
//! The path comes from the CRI client and names a place beneath the pod's log
//! directory, in which other tenants' files may lie one `..` away; the kernel is
//! told to refuse every way out (openat2(2): beneath the directory, no links).

use std::{
    fs::{self, DirBuilder, File},
    io::{self, Read as _},
    os::{fd::OwnedFd, unix::fs::DirBuilderExt as _, unix::fs::MetadataExt as _},
    path::{Component, Path, PathBuf},
};

use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::spec::LogTarget;

/// Most components of a log's path beneath its directory.
const MAX_DEPTH: usize = 8;
/// Directory entries looked at when a rotated log is searched for.
const MAX_SEARCHED: usize = 4096;

const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

/// Opens the log for appending and reading, making it and the directories that
/// lead to it (0755) where they are missing.
///
/// # Errors
/// When the path leads out of the directory or over a link, when what is there
/// is no regular file, or whatever the kernel says.
pub fn open(target: &LogTarget) -> io::Result<File> {
    let parts = components(&target.path)?;
    let (name, parents) = parts.split_last().ok_or_else(|| bad_path(&target.path))?;
    DirBuilder::new()
        .recursive(true)
        .mode(0o755)
        .create(&target.directory)?;
    let mut dir: OwnedFd = rustix::fs::open(
        &target.directory,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    for parent in parents {
        match rustix::fs::mkdirat(&dir, *parent, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(e.into()),
        }
        dir = rustix::fs::openat2(
            &dir,
            *parent,
            OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
            BENEATH,
        )?;
    }
    // NONBLOCK: a fifo planted here must fail, not hang.
    let flags = OFlags::RDWR
        | OFlags::APPEND
        | OFlags::CREATE
        | OFlags::CLOEXEC
        | OFlags::NOCTTY
        | OFlags::NONBLOCK;
    let file = File::from(rustix::fs::openat2(
        &dir,
        *name,
        flags,
        Mode::from_raw_mode(0o640),
        BENEATH,
    )?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "there is something else than a regular file",
        ));
    }
    Ok(file)
}

/// Finds the file that was this log until it was rotated, by its inode, among
/// its neighbours whose names begin with its own.
#[must_use]
pub fn find_rotated(target: &LogTarget, dev: u64, ino: u64) -> Option<File> {
    let path = target.directory.join(&target.path);
    let (dir, name) = (path.parent()?, path.file_name()?.to_str()?);
    for entry in fs::read_dir(dir).ok()?.take(MAX_SEARCHED).flatten() {
        let is_ours = entry
            .file_name()
            .to_str()
            .is_some_and(|found| found.starts_with(name) && found != name);
        let same = |meta: &fs::Metadata| meta.is_file() && meta.dev() == dev && meta.ino() == ino;
        if !is_ours || !entry.metadata().is_ok_and(|meta| same(&meta)) {
            continue;
        }
        let relative = target.path.with_file_name(entry.file_name());
        let rotated = LogTarget {
            directory: target.directory.clone(),
            path: relative,
        };
        // Opened by the same rules, and looked at again: it may have gone.
        return open_existing(&rotated)
            .ok()
            .filter(|file| file.metadata().is_ok_and(|meta| same(&meta)));
    }
    None
}

fn open_existing(target: &LogTarget) -> io::Result<File> {
    let parts: PathBuf = components(&target.path)?.iter().collect();
    let dir = rustix::fs::open(
        &target.directory,
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let flags = OFlags::RDWR | OFlags::APPEND | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let fd = rustix::fs::openat2(&dir, &parts, flags, Mode::empty(), BENEATH)?;
    Ok(File::from(fd))
}

/// Reads a small file of our own.
///
/// # Errors
/// Whatever the kernel says; longer files are cut at `max` bytes.
pub fn read_bounded(path: &Path, max: usize) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?
        .take(max as u64)
        .read_to_end(&mut content)?;
    Ok(content)
}

fn components(path: &Path) -> io::Result<Vec<&Path>> {
    let parts: Option<Vec<&Path>> = path
        .components()
        .filter(|part| *part != Component::CurDir)
        .map(|part| match part {
            Component::Normal(name) => Some(Path::new(name)),
            _ => None,
        })
        .collect();
    parts
        .filter(|parts| !parts.is_empty() && parts.len() <= MAX_DEPTH)
        .ok_or_else(|| bad_path(path))
}

fn bad_path(path: &Path) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!(
            "log path {} is not a relative path of at most {MAX_DEPTH} names without \"..\"",
            path.display()
        ),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::Write as _, os::unix::fs::symlink};

    fn target(dir: &Path, path: &str) -> LogTarget {
        LogTarget {
            directory: dir.to_owned(),
            path: path.into(),
        }
    }

    #[test]
    fn directories_are_made_and_writes_append() {
        let dir = tempfile::tempdir().unwrap();
        let target = target(&dir.path().join("pod/logs"), "web/0.log");
        open(&target).unwrap().write_all(b"a").unwrap();
        open(&target).unwrap().write_all(b"b").unwrap();
        let path = target.directory.join(&target.path);
        assert_eq!(fs::read(&path).unwrap(), b"ab");
        let mode = fs::metadata(path.parent().unwrap()).unwrap().mode();
        assert_eq!(mode & 0o777, 0o755);
    }

    #[test]
    fn nothing_leads_out_of_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let logs = dir.path().join("logs");
        fs::create_dir(&logs).unwrap();
        fs::write(dir.path().join("secret"), "s").unwrap();
        symlink(dir.path(), logs.join("up")).unwrap();
        symlink("../secret", logs.join("link.log")).unwrap();
        fs::create_dir(logs.join("dir.log")).unwrap();
        for bad in [
            "../secret",
            "/etc/x",
            "",
            ".",
            "up/secret",
            "link.log",
            "a/../../secret",
            "dir.log",
            "1/2/3/4/5/6/7/8/9",
        ] {
            assert!(open(&target(&logs, bad)).is_err(), "{bad:?}");
        }
        assert_eq!(fs::read(dir.path().join("secret")).unwrap(), b"s");
    }

    #[test]
    fn a_fifo_in_the_logs_place_fails_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let fifo = dir.path().join("0.log");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &fifo,
            rustix::fs::FileType::Fifo,
            Mode::from_raw_mode(0o600),
            0,
        )
        .unwrap();
        assert!(open(&target(dir.path(), "0.log")).is_err());
    }

    #[test]
    fn a_rotated_log_is_found_by_its_inode() {
        let dir = tempfile::tempdir().unwrap();
        let target = target(dir.path(), "web/0.log");
        let mut file = open(&target).unwrap();
        file.write_all(b"old").unwrap();
        let meta = file.metadata().unwrap();
        assert!(find_rotated(&target, meta.dev(), meta.ino()).is_none());
        let path = dir.path().join("web/0.log");
        fs::rename(&path, dir.path().join("web/0.log.20260822-100000")).unwrap();
        let mut found = find_rotated(&target, meta.dev(), meta.ino()).unwrap();
        let mut text = String::new();
        found.read_to_string(&mut text).unwrap();
        assert_eq!(text, "old");
    }
}
