//! Programs, the guest kernel, and space.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::statvfs;

use super::Check;
use crate::config::Config;

const GIB: u64 = 1 << 30;
/// Less than this and even a small image may not fit.
const SPACE_FAIL: u64 = GIB;
/// Less than this and kubelet will soon evict.
const SPACE_WARN: u64 = 10 * GIB;

/// The kernel, the VMM and the agent.
pub(super) fn programs(config: &Config) -> Vec<Check> {
    let paths = &config.paths;
    [
        ("guest kernel", "kernel", &paths.kernel, false),
        ("vmm", "vmm", &paths.vmm, true),
        ("agent", "agent", &paths.agent, true),
    ]
    .into_iter()
    .map(
        |(name, key, path, is_program)| match inspect(path, is_program) {
            Ok(size) => Check::ok(name, format!("{} ({} KiB)", path.display(), size / 1024)),
            Err(fault) => {
                let mend = match fault {
                    Fault::Missing => format!("install it there, or set paths.{key}"),
                    Fault::NotElf if is_program => {
                        format!("install the program, or set paths.{key}")
                    }
                    Fault::NotElf => {
                        "install the uncompressed kernel (vmlinux, not vmlinuz or bzImage)"
                            .to_owned()
                    }
                    Fault::Dynamic => "build it for x86_64-unknown-linux-musl: the guest has no \
                                   libraries for it"
                        .to_owned(),
                    Fault::NotExecutable => format!("chmod 755 {}", path.display()),
                    Fault::Writable => format!("chmod go-w {0}; chown root {0}", path.display()),
                    Fault::Unreadable(_) => {
                        "run as root, or mend the file's permissions".to_owned()
                    }
                };
                Check::fail(name, format!("{} {fault}", path.display()), mend)
            }
        },
    )
    .chain(static_agent(&paths.agent))
    .collect()
}

/// The agent runs in a guest without libraries.
fn static_agent(path: &Path) -> Option<Check> {
    let image = fs::read(path).ok()?;
    has_interpreter(&image).then(|| {
        Check::fail(
            "agent",
            format!("{} {}", path.display(), Fault::Dynamic),
            "build it for x86_64-unknown-linux-musl",
        )
    })
}

#[derive(Debug, thiserror::Error)]
enum Fault {
    #[error("does not exist")]
    Missing,
    #[error("is not an x86-64 ELF file")]
    NotElf,
    #[error("is not static")]
    Dynamic,
    #[error("is not executable")]
    NotExecutable,
    #[error("can be changed by others than root")]
    Writable,
    #[error("cannot be read: {0}")]
    Unreadable(io::Error),
}

/// The file's size if it is what it should be.
fn inspect(path: &Path, is_program: bool) -> Result<u64, Fault> {
    let judge = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Fault::Missing,
        _ => Fault::Unreadable(error),
    };
    let mut file = File::open(path).map_err(judge)?;
    let metadata = file.metadata().map_err(judge)?;
    let mut header = Vec::new();
    (&mut file)
        .take(ELF_HEADER_LEN)
        .read_to_end(&mut header)
        .map_err(judge)?;
    if !metadata.is_file() || !is_elf(&header) {
        return Err(Fault::NotElf);
    }
    let mode = metadata.permissions().mode();
    if mode & 0o022 != 0 || metadata.uid() != 0 {
        return Err(Fault::Writable);
    }
    if is_program && mode & 0o111 == 0 {
        return Err(Fault::NotExecutable);
    }
    Ok(metadata.len())
}

const ELF_HEADER_LEN: u64 = 64;

/// 64-bit, little endian, x86-64 (elf(5)).
fn is_elf(header: &[u8]) -> bool {
    header.len() >= 20
        && header.starts_with(b"\x7fELF\x02\x01")
        && u16::from_le_bytes([header[18], header[19]]) == 62
}

/// Whether an ELF image asks for a dynamic linker: a program header `PT_INTERP`.
fn has_interpreter(image: &[u8]) -> bool {
    const INTERPRETER: u32 = 3;
    let half = |at: usize| {
        image
            .get(at..at + 2)
            .map(|b| usize::from(b[0]) | usize::from(b[1]) << 8)
    };
    let Some(table) = image.get(32..40) else {
        return false;
    };
    let table = table
        .iter()
        .rev()
        .fold(0_u64, |value, byte| value << 8 | u64::from(*byte));
    let (Ok(table), Some(size), Some(count)) = (usize::try_from(table), half(54), half(56)) else {
        return false;
    };
    (0..count).any(|index| {
        let at = table.saturating_add(index.saturating_mul(size));
        image
            .get(at..at.saturating_add(4))
            .is_some_and(|kind| kind == INTERPRETER.to_le_bytes())
    })
}

/// Scratch disks are made by it.
pub(super) fn mkfs() -> Check {
    let search = std::env::var_os("PATH").unwrap_or_default();
    match find(std::env::split_paths(&search), "mkfs.ext4") {
        Some(path) => Check::ok("mkfs.ext4", path.display().to_string()),
        None => Check::fail(
            "mkfs.ext4",
            "not found in PATH",
            "install e2fsprogs (`apt install e2fsprogs`), and have /usr/sbin in the daemon's PATH",
        ),
    }
}

fn find(mut directories: impl Iterator<Item = PathBuf>, program: &str) -> Option<PathBuf> {
    directories.find_map(|directory| {
        let path = directory.join(program);
        let metadata = fs::metadata(&path).ok()?;
        (metadata.is_file() && metadata.permissions().mode() & 0o111 != 0).then_some(path)
    })
}

/// Free space where images and scratch disks go.
pub(super) fn space(state_dir: &Path) -> Check {
    const NAME: &str = "space";
    // The directory is made by the daemon's first start: its nearest parent tells as much.
    let existing = state_dir
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    match statvfs(existing) {
        Ok(found) => judge_space(
            existing,
            found.f_bavail.saturating_mul(found.f_frsize),
            found.f_favail,
        ),
        Err(errno) => Check::fail(
            NAME,
            format!(
                "cannot look at {}: {}",
                existing.display(),
                io::Error::from(errno)
            ),
            "set paths.state_dir to a directory on a local disk",
        ),
    }
}

fn judge_space(path: &Path, free: u64, inodes: u64) -> Check {
    const NAME: &str = "space";
    // In tenths of a GiB, without floating point.
    let tenths = free / (GIB / 10);
    let found = format!(
        "{}.{} GiB free at {}",
        tenths / 10,
        tenths % 10,
        path.display()
    );
    let mend = "make room, or set paths.state_dir to a directory on a larger disk";
    if free < SPACE_FAIL {
        Check::fail(NAME, found, mend)
    } else if free < SPACE_WARN {
        Check::warn(NAME, found, mend)
    } else if inodes > 0 && inodes < 10_000 {
        Check::warn(NAME, format!("{found}, but only {inodes} inodes"), mend)
    } else {
        Check::ok(NAME, found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::Level;

    #[test]
    fn space_is_judged_by_what_images_take() {
        let judge = |free, inodes| judge_space(Path::new("/x"), free, inodes);
        assert_eq!(judge(100 * GIB, 1 << 20).level, Level::Ok);
        // btrfs counts no inodes.
        assert_eq!(judge(100 * GIB, 0).level, Level::Ok);
        assert_eq!(judge(100 * GIB, 7).level, Level::Warn);
        assert_eq!(judge(5 * GIB, 1 << 20).level, Level::Warn);
        let check = judge(GIB / 2, 1 << 20);
        assert_eq!(check.level, Level::Fail);
        assert!(check.found.starts_with("0.5 GiB free"), "{}", check.found);
    }

    #[test]
    fn a_missing_directory_is_judged_by_its_parent() {
        let check = space(Path::new("/nonexistent/deeply/below"));
        assert!(check.found.ends_with("free at /"), "{}", check.found);
    }

    #[test]
    fn programs_are_looked_at_not_only_for() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("program");
        assert!(matches!(inspect(&path, true), Err(Fault::Missing)));
        fs::write(&path, b"#!/bin/sh").unwrap();
        assert!(matches!(inspect(&path, true), Err(Fault::NotElf)));
        let mut elf = b"\x7fELF\x02\x01\x01".to_vec();
        elf.resize(64, 0);
        elf[18] = 62;
        fs::write(&path, &elf).unwrap();
        let mode = |mode| fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        mode(0o666);
        assert!(matches!(inspect(&path, true), Err(Fault::Writable)));
        mode(0o600);
        let outcome = inspect(&path, true);
        // As another user than root, whose files those would be, it stops one check earlier.
        assert!(
            matches!(outcome, Err(Fault::NotExecutable | Fault::Writable)),
            "{outcome:?}"
        );
    }

    #[test]
    fn a_dynamic_program_is_told_from_a_static_one() {
        let mut elf = vec![0_u8; 64 + 2 * 56];
        elf[32] = 64; // program headers
        elf[54] = 56; // size of one
        elf[56] = 2; // how many
        elf[64] = 1; // PT_LOAD
        assert!(!has_interpreter(&elf));
        elf[64 + 56] = 3; // PT_INTERP
        assert!(has_interpreter(&elf));
        // Tables that point outside are just not there.
        elf[32..40].copy_from_slice(&u64::MAX.to_le_bytes());
        assert!(!has_interpreter(&elf));
        assert!(!has_interpreter(&[]));
    }

    #[test]
    fn programs_are_found_in_the_search_path() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mkfs.test");
        fs::write(&path, b"").unwrap();
        let search = || [PathBuf::from("/nonexistent"), directory.path().to_owned()].into_iter();
        assert_eq!(find(search(), "mkfs.test"), None, "not executable");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert_eq!(find(search(), "mkfs.test"), Some(path));
    }
}
