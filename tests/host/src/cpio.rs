//! Writes an initramfs: a cpio archive in the "newc" format.
//!
//! Each entry is a 110-byte header of ASCII hexadecimal fields, the name with a
//! closing NUL, and the data; name and data are padded to four bytes. The entry
//! `TRAILER!!!` ends the archive. Source: the kernel's
//! `Documentation/driver-api/early-userspace/buffer-format.rst`.

use std::io::{self, Write};

const REGULAR: u32 = 0o100_000;
const DIRECTORY: u32 = 0o040_000;

/// An archive being written.
pub(crate) struct Archive<W> {
    out: W,
    next_inode: u32,
}

impl<W: Write> Archive<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, next_inode: 1 }
    }

    /// Adds a directory; its parent must have been added before.
    pub(crate) fn directory(&mut self, name: &str) -> io::Result<()> {
        self.entry(name, DIRECTORY | 0o755, &[])
    }

    /// Adds a regular file with permission bits `mode`.
    pub(crate) fn file(&mut self, name: &str, mode: u32, data: &[u8]) -> io::Result<()> {
        self.entry(name, REGULAR | mode, data)
    }

    /// Ends the archive.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.next_inode = 0;
        self.entry("TRAILER!!!", 0, &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(&mut self, name: &str, mode: u32, data: &[u8]) -> io::Result<()> {
        let size = u32::try_from(data.len())
            .map_err(|_| io::Error::other(format!("{name} is larger than a cpio entry can be")))?;
        let name_size = u32::try_from(name.len() + 1)
            .map_err(|_| io::Error::other("a name is longer than a cpio entry can hold"))?;
        let links = if mode & DIRECTORY == DIRECTORY { 2 } else { 1 };
        let inode = self.next_inode;
        self.next_inode += 1;

        // inode, mode, uid, gid, links, mtime, size, device (major, minor),
        // special device (major, minor), name size, checksum (unused).
        let fields = [inode, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0];
        self.out.write_all(b"070701")?;
        for field in fields {
            write!(self.out, "{field:08X}")?;
        }
        self.out.write_all(name.as_bytes())?;
        self.out.write_all(&[0])?;
        self.pad(110 + name.len() + 1)?;
        self.out.write_all(data)?;
        self.pad(data.len())
    }

    fn pad(&mut self, written: usize) -> io::Result<()> {
        let padding = written.next_multiple_of(4) - written;
        self.out.write_all(&[0; 3][..padding])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn sample() -> Vec<u8> {
        let mut archive = Archive::new(Vec::new());
        archive.directory("dev").unwrap();
        archive.file("init", 0o755, b"#!/bin/sh\n").unwrap();
        archive.file("empty", 0o600, b"").unwrap();
        archive.finish().unwrap()
    }

    #[test]
    fn entries_are_aligned_and_end_with_a_trailer() {
        let bytes = sample();
        assert_eq!(bytes.len() % 4, 0);
        assert!(bytes.starts_with(b"07070100000001000041ED"));
        let text = String::from_utf8_lossy(&bytes);
        assert!(text.trim_end_matches('\0').ends_with("TRAILER!!!"));
    }

    #[test]
    fn busybox_reads_it_back() {
        let Ok(mut child) = Command::new("busybox")
            .args(["cpio", "-tv"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
        else {
            return; // no busybox on this machine: `make setup` brings it
        };
        child.stdin.take().unwrap().write_all(&sample()).unwrap();
        let listing = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        let lines: Vec<_> = listing.lines().collect();
        assert_eq!(lines.len(), 3, "{listing}");
        assert!(
            lines[0].starts_with("drwxr-xr-x") && lines[0].ends_with("dev"),
            "{listing}"
        );
        assert!(
            lines[1].starts_with("-rwxr-xr-x") && lines[1].ends_with("init"),
            "{listing}"
        );
        assert!(
            lines[2].starts_with("-rw-------") && lines[2].ends_with("empty"),
            "{listing}"
        );
    }
}
