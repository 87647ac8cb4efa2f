//! Writing of tar archives: ustar headers, and before them PAX records for what these
//! have no room for.
//!
//! Source: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Header Block". Extended
//! attributes are records `SCHILY.xattr.NAME`, as GNU tar, bsdtar and Go write them.

use std::io::{self, Read as _, Write};

use super::{BLOCK, EntryKind};

/// Longest name and link target that a ustar header has room for, but for prefixes, which
/// are not used.
const NAME_MAX: usize = 100;
/// Largest owner and group, and size and time, in octal digits.
const OWNER_MAX: u64 = 0o7_777_777;
const SIZE_MAX: u64 = 0o77_777_777_777;

/// What is said of an entry, before its content.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header<'a> {
    /// What it is.
    pub kind: EntryKind,
    /// Its name.
    pub path: &'a [u8],
    /// What a link points to.
    pub link: &'a [u8],
    /// Permissions, set-id and sticky bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Bytes of content: zero for all but files.
    pub size: u64,
    /// Major and minor number.
    pub device: (u32, u32),
    /// Names and values.
    pub xattrs: &'a [(Vec<u8>, Vec<u8>)],
}

impl<'a> Header<'a> {
    /// A root-owned file of 1970 that all may read.
    #[must_use]
    pub fn file(path: &'a [u8], size: u64) -> Self {
        Self {
            kind: EntryKind::File,
            path,
            link: &[],
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            size,
            device: (0, 0),
            xattrs: &[],
        }
    }
}

/// A tar archive that is being written. What is written to it itself is the content of the
/// entry whose header came last; after it, [`TarWriter::pad`].
#[derive(Debug)]
pub struct TarWriter<W> {
    out: W,
    written: u64,
}

impl<W: Write> TarWriter<W> {
    /// An archive to be written to `out`.
    pub fn new(out: W) -> Self {
        Self { out, written: 0 }
    }

    /// Begins an entry.
    ///
    /// # Errors
    /// Of the writer.
    pub fn header(&mut self, header: &Header<'_>) -> io::Result<()> {
        let records = records(header);
        if !records.is_empty() {
            let size = records.len() as u64;
            let mut fields = Fields::of(&Header::file(b"PaxHeader", size));
            fields.kind = b'x';
            self.write_all(&block(&fields))?;
            self.write_all(&records)?;
            self.pad()?;
        }
        self.write_all(&block(&Fields::of(header)))
    }

    /// Fills the block that the content ended in.
    ///
    /// # Errors
    /// Of the writer.
    pub fn pad(&mut self) -> io::Result<()> {
        let missing = self.written.next_multiple_of(BLOCK as u64) - self.written;
        io::copy(&mut io::repeat(0).take(missing), self)?;
        Ok(())
    }

    /// Bytes of the archive so far.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// Adds a whole file.
    ///
    /// # Errors
    /// Of the writer.
    pub fn file(&mut self, path: &str, content: &[u8]) -> io::Result<()> {
        self.header(&Header::file(path.as_bytes(), content.len() as u64))?;
        self.write_all(content)?;
        self.pad()
    }

    /// Writes what an archive ends with.
    ///
    /// # Errors
    /// Of the writer.
    pub fn end(&mut self) -> io::Result<()> {
        self.write_all(&[0; 2 * BLOCK])?;
        self.flush()
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// Of the writer.
    pub fn finish(mut self) -> io::Result<W> {
        self.end()?;
        Ok(self.out)
    }
}

impl<W: Write> Write for TarWriter<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let n = self.out.write(buf)?;
        self.written += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// The PAX records that an entry needs.
fn records(header: &Header<'_>) -> Vec<u8> {
    let mut records = Vec::new();
    let mut add = |key: &[u8], value: &[u8]| records.extend_from_slice(&record(key, value));
    if header.path.len() > NAME_MAX {
        add(b"path", header.path);
    }
    if header.link.len() > NAME_MAX {
        add(b"linkpath", header.link);
    }
    for (key, owner) in [(&b"uid"[..], header.uid), (b"gid", header.gid)] {
        if u64::from(owner) > OWNER_MAX {
            add(key, owner.to_string().as_bytes());
        }
    }
    if header.size > SIZE_MAX {
        add(b"size", header.size.to_string().as_bytes());
    }
    let (seconds, nanos) = header.mtime;
    if nanos != 0 || u64::try_from(seconds).map_or(true, |seconds| seconds > SIZE_MAX) {
        add(b"mtime", time(header.mtime).as_bytes());
    }
    for (name, value) in header.xattrs {
        add(&[b"SCHILY.xattr.", name.as_slice()].concat(), value);
    }
    records
}

/// One PAX record; its length counts its own digits.
pub(crate) fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

/// Seconds with a fraction, which counts away from zero in times before 1970.
pub(crate) fn time((seconds, nanos): (i64, u32)) -> String {
    if seconds >= 0 || nanos == 0 {
        format!("{seconds}.{nanos:09}")
    } else {
        format!("-{}.{:09}", -(seconds + 1), 1_000_000_000 - nanos)
    }
}

/// A header's fields as they are written, whatever that means.
pub(crate) struct Fields<'a> {
    pub(crate) kind: u8,
    pub(crate) path: &'a [u8],
    pub(crate) link: &'a [u8],
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    pub(crate) size: u64,
    pub(crate) mtime: i64,
    pub(crate) device: (u32, u32),
}

impl<'a> Fields<'a> {
    /// What has no room, and is in a record, is cut off or as large as it gets.
    fn of(header: &Header<'a>) -> Self {
        Self {
            kind: match header.kind {
                EntryKind::File => b'0',
                EntryKind::HardLink => b'1',
                EntryKind::Symlink => b'2',
                EntryKind::CharDevice => b'3',
                EntryKind::BlockDevice => b'4',
                EntryKind::Directory => b'5',
                EntryKind::Fifo => b'6',
            },
            path: header.path,
            link: header.link,
            mode: header.mode,
            uid: u64::from(header.uid).min(OWNER_MAX),
            gid: u64::from(header.gid).min(OWNER_MAX),
            size: header.size.min(SIZE_MAX),
            mtime: header.mtime.0.min(SIZE_MAX.cast_signed()),
            device: header.device,
        }
    }
}

/// A ustar header with its checksum.
pub(crate) fn block(fields: &Fields<'_>) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let time = fields.mtime.max(0).cast_unsigned();
    put(&mut block, 0, cut(fields.path));
    put(&mut block, 100, format!("{:07o}", fields.mode).as_bytes());
    put(&mut block, 108, &number(fields.uid, 8));
    put(&mut block, 116, &number(fields.gid, 8));
    put(&mut block, 124, &number(fields.size, 12));
    put(&mut block, 136, &number(time, 12));
    block[156] = fields.kind;
    put(&mut block, 157, cut(fields.link));
    put(&mut block, 257, b"ustar\x0000");
    put(&mut block, 329, &number(u64::from(fields.device.0), 8));
    put(&mut block, 337, &number(u64::from(fields.device.1), 8));
    checksum(&mut block);
    block
}

/// Sets a header's checksum field to what it should be.
pub(crate) fn checksum(block: &mut [u8; BLOCK]) {
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
    put(block, 148, format!("{sum:06o}\0 ").as_bytes());
}

fn cut(name: &[u8]) -> &[u8] {
    name.get(..NAME_MAX).unwrap_or(name)
}

/// Octal where it fits, else base-256 (GNU).
fn number(value: u64, width: usize) -> Vec<u8> {
    let octal = format!("{value:0digits$o}\0", digits = width - 1);
    if octal.len() <= width {
        return octal.into_bytes();
    }
    let mut field = vec![0; width];
    field[width - 8..].copy_from_slice(&value.to_be_bytes());
    field[0] |= 0x80;
    field
}

fn put(block: &mut [u8], at: usize, bytes: &[u8]) {
    block[at..at + bytes.len()].copy_from_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tar::{Entry, TarReader};

    fn read_back(header: &Header<'_>) -> Entry {
        let mut tar = TarWriter::new(Vec::new());
        tar.header(header).unwrap();
        for _ in 0..header.size.min(4096) {
            tar.write_all(b"x").unwrap();
        }
        tar.pad().unwrap();
        let bytes = tar.finish().unwrap();
        assert_eq!(bytes.len() % BLOCK, 0);
        TarReader::new(bytes.as_slice())
            .next_entry()
            .unwrap()
            .unwrap()
    }

    #[test]
    fn what_has_no_room_in_a_header_comes_back_too() {
        let (path, link) = ([b"d/".as_slice(), &[b'n'; 200]].concat(), vec![b'l'; 3000]);
        let xattrs = [
            (b"user.a".to_vec(), b"with\nend\0".to_vec()),
            (b"security.capability".to_vec(), vec![1; 20]),
        ];
        let header = Header {
            kind: EntryKind::Symlink,
            path: &path,
            link: &link,
            mode: 0o7777,
            uid: u32::MAX,
            gid: 0o7_777_777,
            mtime: (-2, 500_000_000),
            size: 0,
            device: (0, 0),
            xattrs: &xattrs,
        };
        let entry = read_back(&header);
        assert_eq!((entry.path, entry.link), (path.clone(), link.clone()));
        assert_eq!((entry.uid, entry.gid), (u32::MAX.into(), 0o7_777_777));
        assert_eq!((entry.mode, entry.mtime), (0o7777, (-2, 500_000_000)));
        assert_eq!(entry.xattrs, xattrs);
    }

    #[test]
    fn large_files_and_late_times() {
        let header = Header {
            mtime: (1 << 40, 0),
            size: 1 << 40,
            ..Header::file(b"large", 0)
        };
        let entry = read_back(&header);
        assert_eq!((entry.size, entry.mtime), (1 << 40, (1 << 40, 0)));
    }

    #[test]
    fn devices() {
        let header = Header {
            kind: EntryKind::BlockDevice,
            device: (4095, 1_048_575),
            ..Header::file(b"disk", 0)
        };
        assert_eq!(read_back(&header).device, (4095, 1_048_575));
    }

    #[test]
    fn ordinary_entries_need_no_records() {
        assert!(records(&Header::file(&[b'n'; 100], SIZE_MAX)).is_empty());
    }
}
