//! Scratch disks: each pod's writable layer.
//!
//! A scratch disk is a sparse file with an ext4 file system, attached to the
//! pod's VM read-write and deleted with the pod. Making a file system takes
//! longer than a pod has, so it is made once, as a *template*, and each pod
//! gets a copy: a reflink where the host's file system can, else a copy of the
//! few hundred KiB that mkfs wrote, leaving the holes.
//!
//! The file system is made for a disk that dies with its pod and starts out as
//! zeros: no journal, no reserved blocks, and inode tables that need no zeroing
//! by the guest. Blocks that the guest discards become holes again.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::SeekFrom;

use crate::error::{Error, IoContext, Result};
use crate::files;

/// Default size of a scratch disk, in bytes: 10 GiB, nearly all of it hole.
pub const DEFAULT_SIZE: u64 = 10 << 30;
/// Smallest size: below it ext4 has no room to speak of.
pub const MIN_SIZE: u64 = 16 << 20;
/// Largest size.
pub const MAX_SIZE: u64 = 16 << 40;

/// The file system's label.
pub const LABEL: &str = "scratch";

/// Changes whenever [`mkfs_arguments`] does, so that a cached template of older
/// parameters is not used.
const TEMPLATE_VERSION: u32 = 2;

/// A prepared file system that pods' scratch disks are copied from.
#[derive(Debug)]
pub struct ScratchTemplate {
    path: PathBuf,
    file: File,
    size: u64,
}

/// Templates of several sizes, each made when a disk of its size is first asked for.
#[derive(Debug)]
pub struct ScratchTemplates {
    dir: PathBuf,
    /// Each size's place has a lock of its own: to make one keeps nobody from another.
    made: Mutex<BTreeMap<u64, Arc<Place>>>,
}

/// Where a template is, once it is made.
type Place = Mutex<Option<Arc<ScratchTemplate>>>;

impl ScratchTemplates {
    /// Those that are kept in `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            made: Mutex::default(),
        }
    }

    /// The template for disks of `size` bytes.
    ///
    /// # Errors
    /// As [`ScratchTemplate::prepare`].
    pub fn of(&self, size: u64) -> Result<Arc<ScratchTemplate>> {
        let place = {
            let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
            made.entry(size).or_default().clone()
        };
        let mut place = place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(template) = &*place {
            return Ok(template.clone());
        }
        let template = Arc::new(ScratchTemplate::prepare(&self.dir, size)?);
        *place = Some(template.clone());
        Ok(template)
    }
}

/// A pod's scratch disk: the file, open for reading and writing.
#[derive(Debug)]
pub struct Scratch {
    /// Where it is.
    pub path: PathBuf,
    /// The open file.
    pub file: File,
}

impl ScratchTemplate {
    /// Finds the template for disks of `size` bytes in `dir`, making it with
    /// `mkfs.ext4` where it is missing. `size` is rounded down to 4096 bytes.
    ///
    /// # Errors
    /// If `size` is out of bounds, or mkfs.ext4 (package e2fsprogs, at least
    /// 1.47) is missing or fails.
    pub fn prepare(dir: impl AsRef<Path>, size: u64) -> Result<Self> {
        let dir = dir.as_ref();
        let size = size & !4095;
        if !(MIN_SIZE..=MAX_SIZE).contains(&size) {
            return Err(Error::Limit {
                what: format!("the size of a scratch disk ({size} bytes)"),
                limit: if size < MIN_SIZE { MIN_SIZE } else { MAX_SIZE },
                unit: "bytes",
            });
        }
        std::fs::create_dir_all(dir).at("create", dir)?;
        let path = dir.join(format!("template-v{TEMPLATE_VERSION}-{size}.ext4"));
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == ErrorKind::NotFound => {
                make_template(dir, &path, size)?;
                File::open(&path).at("open", &path)?
            }
            Err(error) => return Err(Error::io("open", path, error)),
        };
        Ok(Self { path, file, size })
    }

    /// The template's file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Size of its disks in bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Makes a scratch disk at `path`, which must not exist. It is readable and
    /// writable by the owner only. If it fails nothing is left at `path`.
    pub fn create(&self, path: impl AsRef<Path>) -> Result<Scratch> {
        let path = path.as_ref();
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path)
            .at("create", path)?;
        match self.fill(&file) {
            Ok(()) => Ok(Scratch {
                path: path.to_owned(),
                file,
            }),
            Err(error) => {
                files::remove_file(path)?;
                Err(Error::io("copy the scratch template to", path, error))
            }
        }
    }

    fn fill(&self, file: &File) -> io::Result<()> {
        if rustix::fs::ioctl_ficlone(file, &self.file).is_ok() {
            return Ok(());
        }
        file.set_len(self.size)?;
        copy_data(&self.file, file, self.size)
    }
}

impl Scratch {
    /// Deletes the scratch disk at `path`; that it is gone already is as good.
    /// A VM that still has it open keeps its blocks until it closes it.
    pub fn remove(path: impl AsRef<Path>) -> Result<()> {
        files::remove_file(path.as_ref())
    }
}

/// Copies what is not hole. Both files are `size` bytes long.
fn copy_data(from: &File, to: &File, size: u64) -> io::Result<()> {
    let mut buffer = vec![0u8; 256 * 1024];
    let mut at = 0;
    while at < size {
        let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
            Ok(start) => start,
            // No data from here to the end.
            Err(rustix::io::Errno::NXIO) => break,
            Err(errno) => return Err(errno.into()),
        };
        let end = rustix::fs::seek(from, SeekFrom::Hole(start))?.min(size);
        at = start;
        while at < end {
            let want = usize::try_from(end - at)
                .unwrap_or(usize::MAX)
                .min(buffer.len());
            let n = from.read_at(&mut buffer[..want], at)?;
            if n == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
            to.write_all_at(&buffer[..n], at)?;
            at += n as u64;
        }
    }
    Ok(())
}

/// What the template is made with, and why.
fn mkfs_arguments() -> Vec<String> {
    [
        "-q",
        "-F",
        "-b",
        "4096",
        "-I",
        "256",
        "-L",
        LABEL,
        // The disk dies with the pod: nothing to replay, nothing to reserve,
        // and it never grows. Without a configuration file mke2fs makes an ext2, but for
        // what is named here: extents keep large files fast to make and to remove, and
        // groups without a bitmap of their own yet keep large templates small.
        "-m",
        "0",
        "-O",
        "extent,flex_bg,uninit_bg,64bit,huge_file,dir_nlink,extra_isize,\
         ^has_journal,^resize_inode",
        // The file is sparse and reads as zeros, so inode tables count as
        // zeroed: the guest's kernel has none to write. The hash seed is fixed
        // so that templates are alike.
        "-E",
        "assume_storage_prezeroed=1,nodiscard,root_owner=0:0,\
         hash_seed=00000000-0000-4000-8000-000000000001",
        "-U",
        "00000000-0000-4000-8000-000000000002",
    ]
    .map(str::to_owned)
    .to_vec()
}

fn make_template(dir: &Path, path: &Path, size: u64) -> Result<()> {
    let file = tempfile::NamedTempFile::new_in(dir).at("create a file in", dir)?;
    file.as_file().set_len(size).at("size", file.path())?;
    let output = Command::new("mkfs.ext4")
        .args(mkfs_arguments())
        .arg(file.path())
        // Users' mke2fs.conf must not change what a template is.
        .env("MKE2FS_CONFIG", "/dev/null")
        .env("PATH", "/usr/sbin:/sbin:/usr/bin:/bin")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Error::Program {
            program: "mkfs.ext4",
            reason: match error.kind() {
                ErrorKind::NotFound => "it is not installed; install the package e2fsprogs".into(),
                _ => error.to_string(),
            },
        })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let reason = format!("{}: {}", output.status, said.trim());
        return Err(Error::Program {
            program: "mkfs.ext4",
            reason,
        });
    }
    files::persist(file, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt;

    #[test]
    fn copies_are_sound_small_and_alike() {
        let dir = tempfile::tempdir().unwrap();
        let template = ScratchTemplate::prepare(dir.path(), DEFAULT_SIZE).unwrap();
        let one = template.create(dir.path().join("one")).unwrap();
        let two = template.create(dir.path().join("two")).unwrap();
        for scratch in [&one, &two] {
            let meta = scratch.file.metadata().unwrap();
            assert_eq!(meta.len(), DEFAULT_SIZE);
            assert_eq!(meta.mode() & 0o777, 0o600);
            assert!(
                meta.blocks() * 512 < 8 << 20,
                "{} KiB allocated",
                meta.blocks() / 2
            );
            let check = Command::new("/sbin/e2fsck")
                .arg("-fn")
                .arg(&scratch.path)
                .output()
                .unwrap();
            assert!(
                check.status.success(),
                "{}",
                String::from_utf8_lossy(&check.stdout)
            );
        }
        let dump = Command::new("/sbin/dumpe2fs")
            .arg("-h")
            .arg(&one.path)
            .output()
            .unwrap();
        let dump = String::from_utf8_lossy(&dump.stdout).into_owned();
        assert!(dump.contains("Filesystem volume name:   scratch"), "{dump}");
        let features = dump
            .lines()
            .find(|it| it.starts_with("Filesystem features:"));
        let features: Vec<_> = features.unwrap().split_whitespace().collect();
        for wanted in ["extent", "flex_bg", "uninit_bg", "64bit"] {
            assert!(features.contains(&wanted), "{features:?}");
        }
        assert!(!features.contains(&"has_journal"), "{features:?}");
        Scratch::remove(&one.path).unwrap();
        Scratch::remove(&one.path).unwrap();
        assert!(!one.path.exists());
    }

    #[test]
    fn template_is_made_once() {
        let dir = tempfile::tempdir().unwrap();
        let first = ScratchTemplate::prepare(dir.path(), MIN_SIZE).unwrap();
        let inode = first.file.metadata().unwrap().ino();
        let second = ScratchTemplate::prepare(dir.path(), MIN_SIZE + 1).unwrap();
        assert_eq!(second.file.metadata().unwrap().ino(), inode);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn each_size_has_its_template() {
        let dir = tempfile::tempdir().unwrap();
        let templates = ScratchTemplates::new(dir.path());
        let small = templates.of(MIN_SIZE).unwrap();
        assert!(Arc::ptr_eq(&small, &templates.of(MIN_SIZE).unwrap()));
        let large = templates.of(2 * MIN_SIZE).unwrap();
        assert_eq!((small.size(), large.size()), (MIN_SIZE, 2 * MIN_SIZE));
        assert!(templates.of(1).is_err());
        assert!(templates.of(1).is_err(), "a failure isn't kept");
    }

    #[test]
    fn refuses_absurd_sizes_and_taken_paths() {
        let dir = tempfile::tempdir().unwrap();
        for size in [0, MIN_SIZE - 4096, MAX_SIZE + 4096, u64::MAX] {
            assert!(matches!(
                ScratchTemplate::prepare(dir.path(), size),
                Err(Error::Limit { .. })
            ));
        }
        let template = ScratchTemplate::prepare(dir.path(), MIN_SIZE).unwrap();
        let taken = dir.path().join("taken");
        std::fs::write(&taken, b"mine").unwrap();
        assert!(template.create(&taken).is_err());
        assert_eq!(std::fs::read(&taken).unwrap(), b"mine");
    }
}
