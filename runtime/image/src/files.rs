//! The few file operations the store is made of, each durable where it must be.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::path::Path;

use crate::error::{Error, IoContext, Result};
use crate::steps;

/// Makes the names in a directory durable.
pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir)
        .and_then(|dir| dir.sync_all())
        .at("sync", dir)?;
    steps::directory_synced(dir);
    Ok(())
}

/// Unlinks a file; that it is gone already is as good.
pub(crate) fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.at("remove", path),
    }
}

/// Removes everything in a directory.
pub(crate) fn empty_dir(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).at("list", dir)? {
        let entry = entry.at("list", dir)?;
        let path = entry.path();
        if entry.file_type().at("look at", &path)?.is_dir() {
            fs::remove_dir_all(&path).at("remove", &path)?;
        } else {
            remove_file(&path)?;
        }
    }
    Ok(())
}

/// Reads a whole file of at most `limit` bytes.
pub(crate) fn read_bounded(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let file = File::open(path).at("open", path)?;
    read_stream_bounded(file, limit, &path.display().to_string()).map_err(|error| match error {
        BoundedError::Io(source) => Error::io("read", path, source),
        BoundedError::TooLong(error) => error,
    })
}

pub(crate) enum BoundedError {
    Io(io::Error),
    TooLong(Error),
}

/// Reads a stream of at most `limit` bytes to its end.
pub(crate) fn read_stream_bounded(
    reader: impl Read,
    limit: u64,
    what: &str,
) -> Result<Vec<u8>, BoundedError> {
    let mut bytes = Vec::new();
    reader
        .take(limit + 1)
        .read_to_end(&mut bytes)
        .map_err(BoundedError::Io)?;
    if bytes.len() as u64 > limit {
        let what = what.to_owned();
        return Err(BoundedError::TooLong(Error::Limit {
            what,
            limit,
            unit: "bytes",
        }));
    }
    Ok(bytes)
}

/// Writes `bytes` to `path` so that it is there whole, durably, or not at all.
pub(crate) fn write_durably(path: &Path, tmp_dir: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = tempfile::NamedTempFile::new_in(tmp_dir).at("create a file in", tmp_dir)?;
    file.write_all(bytes).at("write", file.path())?;
    persist(file, path)
}

/// Moves a finished temporary file to its place, durably.
pub(crate) fn persist(file: tempfile::NamedTempFile, path: &Path) -> Result<()> {
    file.as_file().sync_all().at("sync", file.path())?;
    steps::file_synced(file.path());
    file.persist(path)
        .map_err(|error| error.error)
        .at("rename to", path)?;
    match path.parent() {
        Some(dir) => sync_dir(dir),
        None => Ok(()),
    }
}
