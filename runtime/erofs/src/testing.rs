//! A writer of tar archives for tests: well-formed ones with little typing, and
//! malformed ones by setting any field.

use crate::tar::{BLOCK, EntryKind, write};

/// An archive under construction.
#[derive(Debug, Clone, Default)]
pub struct Archive {
    bytes: Vec<u8>,
}

/// One entry to write. Names and links longer than their fields, extended
/// attributes and fractions of seconds go to a PAX header.
#[derive(Debug, Clone)]
pub struct Item {
    /// Type byte.
    pub kind: u8,
    /// Name.
    pub path: Vec<u8>,
    /// Link target.
    pub link: Vec<u8>,
    /// Permissions.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Content.
    pub data: Vec<u8>,
    /// What the size field says, if not the content's length.
    pub size: Option<u64>,
    /// Device numbers.
    pub device: (u32, u32),
    /// PAX records, also extended attributes.
    pub pax: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Item {
    /// An entry of this kind with mode 0755 for directories, else 0644.
    pub fn new(kind: EntryKind, path: impl AsRef<[u8]>) -> Self {
        let (kind, mode) = match kind {
            EntryKind::File => (b'0', 0o644),
            EntryKind::HardLink => (b'1', 0o644),
            EntryKind::Symlink => (b'2', 0o777),
            EntryKind::CharDevice => (b'3', 0o644),
            EntryKind::BlockDevice => (b'4', 0o644),
            EntryKind::Directory => (b'5', 0o755),
            EntryKind::Fifo => (b'6', 0o644),
        };
        Self {
            kind,
            path: path.as_ref().to_vec(),
            link: Vec::new(),
            mode,
            uid: 0,
            gid: 0,
            mtime: (1_600_000_000, 0),
            data: Vec::new(),
            size: None,
            device: (0, 0),
            pax: Vec::new(),
        }
    }

    /// A file with this content.
    pub fn file(path: impl AsRef<[u8]>, data: impl AsRef<[u8]>) -> Self {
        Self {
            data: data.as_ref().to_vec(),
            ..Self::new(EntryKind::File, path)
        }
    }

    /// A directory.
    pub fn dir(path: impl AsRef<[u8]>) -> Self {
        Self::new(EntryKind::Directory, path)
    }

    /// A symbolic link.
    pub fn symlink(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self {
            link: target.as_ref().to_vec(),
            ..Self::new(EntryKind::Symlink, path)
        }
    }

    /// A hard link.
    pub fn hard_link(path: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Self {
        Self {
            link: target.as_ref().to_vec(),
            ..Self::new(EntryKind::HardLink, path)
        }
    }

    /// Sets permissions.
    pub fn mode(mut self, mode: u32) -> Self {
        self.mode = mode;
        self
    }

    /// Sets owner and group.
    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        (self.uid, self.gid) = (uid, gid);
        self
    }

    /// Sets the time.
    pub fn time(mut self, seconds: i64, nanos: u32) -> Self {
        self.mtime = (seconds, nanos);
        self
    }

    /// Sets device numbers.
    pub fn device(mut self, major: u32, minor: u32) -> Self {
        self.device = (major, minor);
        self
    }

    /// Adds an extended attribute.
    pub fn xattr(self, name: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax(&format!("SCHILY.xattr.{name}"), value)
    }

    /// Adds a PAX record.
    pub fn pax(mut self, key: &str, value: impl AsRef<[u8]>) -> Self {
        self.pax
            .push((key.as_bytes().to_vec(), value.as_ref().to_vec()));
        self
    }
}

impl Archive {
    /// An empty archive.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds an entry.
    pub fn add(&mut self, item: Item) -> &mut Self {
        let mut pax = item.pax.clone();
        if item.path.len() > 100 {
            pax.push((b"path".to_vec(), item.path.clone()));
        }
        if item.link.len() > 100 {
            pax.push((b"linkpath".to_vec(), item.link.clone()));
        }
        if item.mtime.0 < 0 || item.mtime.1 != 0 {
            pax.push((b"mtime".to_vec(), write::time(item.mtime).into_bytes()));
        }
        if !pax.is_empty() {
            let body: Vec<u8> = pax
                .iter()
                .flat_map(|(key, value)| record(key, value))
                .collect();
            let mut header = Item::file("PaxHeader", &body);
            header.kind = b'x';
            self.raw(&header);
        }
        self.raw(&item)
    }

    /// Adds a header and payload as they are, without extended headers.
    pub fn raw(&mut self, item: &Item) -> &mut Self {
        let size = item.size.unwrap_or(item.data.len() as u64);
        self.block(header(item, size));
        self.bytes.extend_from_slice(&item.data);
        self.align()
    }

    /// Adds one block as it is.
    pub fn block(&mut self, block: [u8; BLOCK]) -> &mut Self {
        self.bytes.extend_from_slice(&block);
        self
    }

    /// Adds bytes and pads them to a block.
    pub fn payload(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self.align()
    }

    fn align(&mut self) -> &mut Self {
        self.bytes
            .resize(self.bytes.len().next_multiple_of(BLOCK), 0);
        self
    }

    /// The archive with its trailer.
    pub fn finish(&self) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        bytes.resize(bytes.len() + 2 * BLOCK, 0);
        bytes
    }

    /// The archive without a trailer.
    pub fn unfinished(&self) -> Vec<u8> {
        self.bytes.clone()
    }
}

impl FromIterator<Item> for Archive {
    fn from_iter<I: IntoIterator<Item = Item>>(items: I) -> Self {
        let mut archive = Self::new();
        for item in items {
            archive.add(item);
        }
        archive
    }
}

/// A ustar header with its checksum.
pub fn header(item: &Item, size: u64) -> [u8; BLOCK] {
    write::block(&write::Fields {
        kind: item.kind,
        path: &item.path,
        link: &item.link,
        mode: item.mode,
        uid: item.uid,
        gid: item.gid,
        size,
        mtime: item.mtime.0,
        device: item.device,
    })
}

/// Sets a header's checksum field to what it should be.
pub fn checksum(block: &mut [u8; BLOCK]) {
    write::checksum(block);
}

/// One PAX record; its length counts its own digits.
pub fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    write::record(key, value)
}
