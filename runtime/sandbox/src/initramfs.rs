//! The guest's root file system: a cpio archive with the agent as `/init`.
//!
//! The archive is in the "newc" format that the kernel unpacks into its first
//! root (Documentation/driver-api/early-userspace/buffer-format.rst): per file a
//! header of fourteen fields in ASCII, the name, and the content, each padded to
//! four bytes; a file named `TRAILER!!!` ends it. Uncompressed: unpacking is a
//! copy then, and a boot's worth of it is a few milliseconds.
//!
//! The same agent gives the same bytes (inode numbers count up, times are 0), so
//! one file per agent binary, named by its digest, serves all pods.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use sha2::{Digest as _, Sha256};

const MAGIC: &str = "070701";
const S_IFDIR: u32 = 0o040_000;
const S_IFREG: u32 = 0o100_000;
const S_IFCHR: u32 = 0o020_000;

/// Changes when [`build`] does, so that no file of an older layout is used.
const LAYOUT_VERSION: u32 = 1;

/// Largest agent taken, bytes: a mistaken path shall not fill the disk.
const MAX_AGENT: u64 = 64 << 20;

/// A newc archive being written to memory.
#[derive(Debug, Default)]
struct Newc {
    bytes: Vec<u8>,
    inodes: u32,
}

impl Newc {
    /// Appends an entry; `device` is major and minor for device nodes.
    fn entry(&mut self, name: &str, mode: u32, device: (u32, u32), content: &[u8]) {
        self.inodes += 1;
        let size = u32::try_from(content.len()).unwrap_or(u32::MAX);
        let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
        let links = if mode & S_IFDIR == S_IFDIR { 2 } else { 1 };
        let fields = [
            self.inodes,
            mode,
            0,
            0,
            links,
            0,
            size,
            0,
            0,
            device.0,
            device.1,
            name_size,
            0,
        ];
        self.bytes.extend_from_slice(MAGIC.as_bytes());
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(name.as_bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    fn finish(mut self) -> Vec<u8> {
        self.entry("TRAILER!!!", 0, (0, 0), &[]);
        self.bytes
    }
}

/// The archive for an agent: the agent, the console that the kernel opens as
/// init's stdio, and the mount points that the agent starts with.
#[must_use]
pub fn build(agent: &[u8]) -> Vec<u8> {
    let mut archive = Newc {
        bytes: Vec::with_capacity(agent.len() + 4096),
        inodes: 0,
    };
    for dir in ["dev", "proc", "sys", "run"] {
        archive.entry(dir, S_IFDIR | 0o755, (0, 0), &[]);
    }
    archive.entry("dev/console", S_IFCHR | 0o600, (5, 1), &[]);
    archive.entry("init", S_IFREG | 0o755, (0, 0), agent);
    archive.finish()
}

/// The initramfs for the agent at `agent`: found in `cache_dir` by the agent's
/// content, or built there. Older ones are left: running pods need none of them,
/// but two daemons in an upgrade may.
///
/// # Errors
/// When the agent cannot be read, is no ELF file, or the cache cannot be written.
pub fn cached(agent: &Path, cache_dir: &Path) -> io::Result<PathBuf> {
    let file = File::open(agent).map_err(|e| named("cannot open the guest agent", agent, &e))?;
    let size = file.metadata()?.len();
    if size > MAX_AGENT {
        let e = io::Error::new(io::ErrorKind::InvalidData, "it is larger than 64 MiB");
        return Err(named("cannot use the guest agent", agent, &e));
    }
    let content = fs::read(agent).map_err(|e| named("cannot read the guest agent", agent, &e))?;
    if !content.starts_with(b"\x7fELF") {
        let e = io::Error::new(io::ErrorKind::InvalidData, "it is not an ELF program");
        return Err(named("cannot use the guest agent", agent, &e));
    }
    let digest = Sha256::digest(&content);
    let hex: String = digest.iter().take(16).map(|b| format!("{b:02x}")).collect();
    let path = cache_dir.join(format!("initramfs-{LAYOUT_VERSION}-{hex}.cpio"));
    if path.is_file() {
        return Ok(path);
    }
    write_whole(&path, &build(&content))
        .map_err(|e| named("cannot write the guest's initramfs", &path, &e))?;
    Ok(path)
}

/// Writes a file so that its name never stands for half of it.
fn write_whole(path: &Path, content: &[u8]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::create_dir_all(dir)?;
    let temporary = path.with_extension(format!("{}.tmp", std::process::id()));
    let result = (|| {
        let mut file = File::create(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        File::open(dir)?.sync_all()
    })();
    if result.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    result
}

fn named(what: &str, path: &Path, e: &io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{what} {}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[test]
    fn the_archive_is_laid_out_as_newc_says() {
        let archive = build(b"\x7fELFagent");
        assert_eq!(archive.len() % 4, 0);
        assert_eq!(&archive[..6], b"070701");
        // 110 bytes of header, then the name.
        assert_eq!(&archive[110..114], b"dev\0");
        assert_eq!(archive, build(b"\x7fELFagent"), "reproducible");
    }

    #[test]
    fn cpio_reads_it_where_cpio_is_installed_and_our_own_reader_everywhere() {
        let archive = build(b"\x7fELFagent");
        let names: Vec<String> = entries(&archive).into_iter().map(|e| e.0).collect();
        assert_eq!(
            names,
            [
                "dev",
                "proc",
                "sys",
                "run",
                "dev/console",
                "init",
                "TRAILER!!!"
            ]
        );
        let init = &entries(&archive)[5];
        assert_eq!(init.1, 0o100_755);
        assert_eq!(init.2, b"\x7fELFagent");

        let Ok(mut cpio) = Command::new("cpio")
            .args(["--list", "--quiet"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
        else {
            return;
        };
        cpio.stdin.take().unwrap().write_all(&archive).unwrap();
        let out = cpio.wait_with_output().unwrap();
        let listed = String::from_utf8(out.stdout).unwrap();
        assert_eq!(listed.lines().collect::<Vec<_>>(), names[..6]);
    }

    fn entries(archive: &[u8]) -> Vec<(String, u32, Vec<u8>)> {
        let field = |at: usize, n: usize| {
            let text = std::str::from_utf8(&archive[at + 6 + n * 8..at + 14 + n * 8]).unwrap();
            u32::from_str_radix(text, 16).unwrap()
        };
        let mut found = Vec::new();
        let mut at = 0;
        while at < archive.len() {
            let name_end = at + 110 + field(at, 11) as usize;
            let name = String::from_utf8(archive[at + 110..name_end - 1].to_vec()).unwrap();
            let start = name_end.next_multiple_of(4);
            let end = start + field(at, 6) as usize;
            found.push((name, field(at, 1), archive[start..end].to_vec()));
            at = end.next_multiple_of(4);
        }
        found
    }

    #[test]
    fn one_agent_is_built_once_and_another_agent_is_another_file() {
        let dir = tempfile::tempdir().unwrap();
        let agent = dir.path().join("agent");
        fs::write(&agent, b"\x7fELF one").unwrap();
        let first = cached(&agent, &dir.path().join("cache")).unwrap();
        let made = fs::metadata(&first).unwrap().modified().unwrap();
        assert_eq!(cached(&agent, &dir.path().join("cache")).unwrap(), first);
        assert_eq!(fs::metadata(&first).unwrap().modified().unwrap(), made);
        fs::write(&agent, b"\x7fELF two").unwrap();
        assert_ne!(cached(&agent, &dir.path().join("cache")).unwrap(), first);
        fs::write(&agent, b"#!/bin/sh").unwrap();
        assert!(cached(&agent, &dir.path().join("cache")).is_err());
        let left: Vec<_> = fs::read_dir(dir.path().join("cache")).unwrap().collect();
        assert_eq!(left.len(), 2, "no temporary files");
    }
}
