//! Where an image is imported from: a directory or an archive, as named blobs.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bulkhead_erofs::tar::{EntryKind, TarReader};

use crate::decompress::{Bounded, Decompressor};
use crate::digest::Digest;
use crate::error::{Error, IoContext, Result};
use crate::files::{self, BoundedError};
use crate::limits::Limits;
use crate::manifest::Compression;

/// Links followed for one name of an archive.
const LINKS_MAX: usize = 8;
/// Longest name of a file in an archive that is remembered.
const NAME_MAX: usize = 1024;

/// A directory or archive with named blobs.
pub(super) enum Source {
    /// An OCI image layout.
    Layout(PathBuf),
    /// A tar archive, indexed.
    Archive(Archive),
}

/// An archive's files by name, without `./`.
pub(super) struct Archive {
    path: PathBuf,
    file: Arc<File>,
    files: HashMap<String, (u64, u64)>,
    links: HashMap<String, String>,
}

/// Content of known length.
pub(super) struct Blob {
    pub(super) size: u64,
    pub(super) reader: Box<dyn Read>,
}

impl Source {
    /// Opens what is at `path`. A compressed archive is decompressed to
    /// `tmp_dir` first, for its parts are needed in another order than theirs.
    pub(super) fn open(path: &Path, tmp_dir: &Path, limits: &Limits) -> Result<Self> {
        let meta = std::fs::metadata(path).at("open", path)?;
        if meta.is_dir() {
            return Ok(Self::Layout(path.to_owned()));
        }
        if !meta.is_file() {
            let reason = "not a file or directory".into();
            return Err(Error::Format {
                path: path.to_owned(),
                reason,
            });
        }
        let mut start = [0; 4];
        let file = File::open(path).at("open", path)?;
        let got = file.read_at(&mut start, 0).at("read", path)?;
        let file = match Compression::detect(&start[..got]) {
            Compression::None => file,
            _ => decompress(file, path, tmp_dir, limits)?,
        };
        Archive::index(path, file, limits).map(Self::Archive)
    }

    /// Opens a blob, if it is there.
    pub(super) fn blob(&self, name: &str) -> Result<Option<Blob>> {
        match self {
            Self::Layout(dir) => open_file(&dir.join(name)),
            Self::Archive(archive) => Ok(archive.blob(name)),
        }
    }

    /// Reads a small document.
    pub(super) fn document(&self, name: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let Some(blob) = self.blob(name)? else {
            return Ok(None);
        };
        let bytes = files::read_stream_bounded(blob.reader, limit, name);
        bytes.map(Some).map_err(|error| match error {
            BoundedError::Io(source) => Error::io("read", self.path().join(name), source),
            BoundedError::TooLong(error) => error,
        })
    }

    /// Reads a small document by its digest, and checks it.
    pub(super) fn verified(&self, digest: &Digest, size: u64, limit: u64) -> Result<Vec<u8>> {
        let bytes =
            self.document(&blob_name(digest), limit)?
                .ok_or_else(|| Error::MissingBlob {
                    what: format!("blob {digest}"),
                })?;
        check_whole(digest, size, &bytes)?;
        Ok(bytes)
    }

    /// The file or directory that the user named.
    pub(super) fn path(&self) -> &Path {
        match self {
            Self::Layout(dir) => dir,
            Self::Archive(archive) => &archive.path,
        }
    }
}

/// A blob's name in an OCI image layout.
pub(super) fn blob_name(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Sees to it that a small document is the one that was named.
pub(super) fn check_whole(digest: &Digest, size: u64, bytes: &[u8]) -> Result<()> {
    let what = || format!("blob {digest}");
    let actual = bytes.len() as u64;
    if actual != size {
        return Err(Error::WrongSize {
            what: what(),
            expected: size,
            actual,
        });
    }
    check_digest(what, digest, &Digest::of(bytes))
}

pub(super) fn check_digest(
    what: impl FnOnce() -> String,
    expected: &Digest,
    actual: &Digest,
) -> Result<()> {
    if expected == actual {
        return Ok(());
    }
    Err(Error::WrongDigest {
        what: what(),
        expected: *expected,
        actual: *actual,
    })
}

/// Opens a regular file. Names come from digests, so they stay in the layout.
fn open_file(path: &Path) -> Result<Option<Blob>> {
    // Non-blocking, so that a pipe in place of a blob does not wait for ever.
    let nonblock = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let file = match File::options().read(true).custom_flags(nonblock).open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("open", path, error)),
    };
    let meta = file.metadata().at("look at", path)?;
    if !meta.is_file() {
        let reason = "not a regular file".into();
        return Err(Error::Format {
            path: path.to_owned(),
            reason,
        });
    }
    Ok(Some(Blob {
        size: meta.len(),
        reader: Box::new(file),
    }))
}

fn decompress(file: File, path: &Path, tmp_dir: &Path, limits: &Limits) -> Result<File> {
    let layer = || path.display().to_string();
    let (decoder, _) =
        Decompressor::detect(file, limits.zstd_window_log).map_err(|source| Error::Archive {
            path: path.to_owned(),
            source,
        })?;
    let mut decoder = Bounded::new(decoder, limits.archive_bytes);
    let mut plain = tempfile::tempfile_in(tmp_dir).at("create a file in", tmp_dir)?;
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match decoder.read(&mut buffer) {
            Ok(0) => return Ok(plain),
            Ok(n) => io::Write::write_all(&mut plain, &buffer[..n]).at("write to", tmp_dir)?,
            Err(_) if decoder.exceeded() => {
                let limit = limits.archive_bytes;
                return Err(Error::Limit {
                    what: layer(),
                    limit,
                    unit: "bytes decompressed",
                });
            }
            Err(source) => {
                return Err(Error::Archive {
                    path: path.to_owned(),
                    source,
                });
            }
        }
    }
}

impl Archive {
    fn index(path: &Path, file: File, limits: &Limits) -> Result<Self> {
        let format = |reason: String| Error::Format {
            path: path.to_owned(),
            reason,
        };
        let length = file.metadata().at("look at", path)?.len();
        let file = Arc::new(file);
        let mut archive = Self {
            path: path.to_owned(),
            file: file.clone(),
            files: HashMap::new(),
            links: HashMap::new(),
        };
        let section = Section {
            file,
            at: 0,
            end: length,
        };
        let mut tar = TarReader::seeking(BufReader::new(section));
        let mut entries = 0;
        loop {
            let entry = tar.next_entry().map_err(|error| match entries {
                0 => format("neither an OCI image layout nor an archive of one".into()),
                _ => format(error.to_string()),
            })?;
            let Some(entry) = entry else {
                return Ok(archive);
            };
            entries += 1;
            if entries > limits.archive_entries {
                let (what, limit) = (path.display().to_string(), limits.archive_entries);
                return Err(Error::Limit {
                    what,
                    limit,
                    unit: "files",
                });
            }
            let Some(name) = clean("", &entry.path) else {
                continue;
            };
            match entry.kind {
                EntryKind::File if entry.sparse.is_some() => {
                    return Err(format(format!("{name:?} is a sparse file")));
                }
                EntryKind::File => {
                    if tar
                        .offset()
                        .checked_add(entry.size)
                        .is_none_or(|end| end > length)
                    {
                        return Err(Error::MissingBlob {
                            what: format!("the end of {name:?}"),
                        });
                    }
                    archive.links.remove(&name);
                    archive.files.insert(name, (tar.offset(), entry.size));
                }
                // `docker save` links equal layers to each other.
                EntryKind::Symlink | EntryKind::HardLink => {
                    let base = match entry.kind {
                        EntryKind::Symlink => name.rsplit_once('/').map_or("", |(dir, _)| dir),
                        _ => "",
                    };
                    if let Some(target) = clean(base, &entry.link) {
                        archive.files.remove(&name);
                        archive.links.insert(name, target);
                    }
                }
                _ => {}
            }
        }
    }

    fn blob(&self, name: &str) -> Option<Blob> {
        let mut name = clean("", name.as_bytes())?;
        for _ in 0..LINKS_MAX {
            if let Some(&(at, size)) = self.files.get(&name) {
                let section = Section {
                    file: self.file.clone(),
                    at,
                    end: at + size,
                };
                return Some(Blob {
                    size,
                    reader: Box::new(section),
                });
            }
            name = self.links.get(&name)?.clone();
        }
        None
    }
}

/// A name relative to `base`, without `.` and `..`; `None` if it is empty, too
/// long, not text, or leads out.
fn clean(base: &str, name: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(name)
        .ok()
        .filter(|name| name.len() <= NAME_MAX)?;
    let mut parts: Vec<&str> = Vec::new();
    for part in base.split('/').chain(name.split('/')) {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()?),
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// A part of a file, read without moving the file's position.
struct Section {
    file: Arc<File>,
    at: u64,
    end: u64,
}

impl Read for Section {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let left = usize::try_from(self.end.saturating_sub(self.at)).unwrap_or(usize::MAX);
        let want = left.min(buf.len());
        let n = self.file.read_at(&mut buf[..want], self.at)?;
        self.at += n as u64;
        Ok(n)
    }
}

impl io::Seek for Section {
    fn seek(&mut self, to: io::SeekFrom) -> io::Result<u64> {
        let target = match to {
            io::SeekFrom::Start(at) => Some(at),
            io::SeekFrom::End(step) => self.end.checked_add_signed(step),
            io::SeekFrom::Current(step) => self.at.checked_add_signed(step),
        };
        self.at = target.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_erofs::testing::{Archive as Tar, Item};

    fn open(tar: &[u8]) -> Result<Source> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.tar");
        std::fs::write(&path, tar).unwrap();
        Source::open(&path, dir.path(), &Limits::default())
    }

    fn read(source: &Source, name: &str) -> Option<Vec<u8>> {
        source.document(name, 1000).unwrap()
    }

    #[test]
    fn files_and_links_of_an_archive() {
        let tar = [
            Item::file("./a/layer.tar", b"layer"),
            Item::symlink("b/layer.tar", "../a/layer.tar"),
            Item::hard_link("c", "a/layer.tar"),
            Item::symlink("loop", "loop"),
            Item::symlink("out", "../../etc/passwd"),
            Item::file("twice", b"1"),
            Item::file("twice", b"2"),
        ];
        let source = open(&tar.into_iter().collect::<Tar>().finish()).unwrap();
        for name in ["a/layer.tar", "b/layer.tar", "./c"] {
            assert_eq!(read(&source, name).unwrap(), b"layer", "{name}");
        }
        assert_eq!(read(&source, "twice").unwrap(), b"2");
        for name in ["loop", "out", "none", "", "../x"] {
            assert_eq!(read(&source, name), None, "{name}");
        }
    }

    #[test]
    fn cut_off_archives_are_noticed() {
        let tar = [Item::file("a", vec![1; 5000])]
            .into_iter()
            .collect::<Tar>()
            .finish();
        assert!(matches!(open(&tar[..3000]), Err(Error::MissingBlob { .. })));
        assert!(matches!(open(&tar[..100]), Err(Error::Format { .. })));
        assert!(matches!(
            open(b"no archive at all, but long enough"),
            Err(Error::Format { .. })
        ));
    }

    #[test]
    fn what_is_no_file_is_refused() {
        let error = Source::open(
            Path::new("/dev/null"),
            Path::new("/tmp"),
            &Limits::default(),
        );
        assert!(matches!(error, Err(Error::Format { .. })));
    }
}
