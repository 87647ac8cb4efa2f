//! A layer's archive again, from its image: what [`export`] gives for the image of a layer
//! is an archive of a layer that is the same file system, whiteouts and all.
//!
//! It is not the archive that the image was made from, byte by byte: order, padding and
//! the form of headers are this writer's own. Names come depth first and sorted, so that
//! one image always gives the same bytes.
//!
//! Layers that lean on those beneath them have all in their image that they took from
//! there; as archives they lean on nothing.

use std::collections::HashMap;
use std::io::{Read, Write};

use crate::disk::{self, NAME_MAX};
use crate::error::Error;
use crate::limits::Limits;
use crate::read::{self, Image, Inode, ReadAt};
use crate::tar::EntryKind;
use crate::tar::write::{Header, TarWriter};
use crate::xattr;

/// What hides a name of the layers beneath, and all names in a directory (OCI image-spec,
/// layer.md, "Whiteouts").
const WHITEOUT: &[u8] = b".wh.";
const OPAQUE: &[u8] = b".wh..wh..opq";
/// Longest target of a hard link that is taken in.
const LINK_MAX: usize = 4095;
/// What a file with several names takes beside the bytes of the first.
const LINK: u64 = 64;
/// The mode of directories that nobody speaks of.
const IMPLIED_MODE: u16 = 0o755;
/// Content that is read at a time.
const PIECE: usize = 128 << 10;

/// Writes the archive of an image's layer.
///
/// # Errors
/// The image can't be read ([`Error::Read`]) or is none that the writer writes, `out`
/// can't be written, or it is beyond `limits`. What was written is of no use then.
pub fn export<F: ReadAt, W: Write>(image: &Image<F>, out: W, limits: &Limits) -> Result<W, Error> {
    let mut export = Export {
        image,
        tar: TarWriter::new(out),
        limits,
        entries: 0,
        content: 0,
        links: HashMap::new(),
        remembered: 0,
        piece: vec![0; PIECE],
    };
    export.walk()?;
    export.tar.finish().map_err(Error::Write)
}

struct Export<'a, F, W> {
    image: &'a Image<F>,
    tar: TarWriter<W>,
    limits: &'a Limits,
    entries: u64,
    content: u64,
    /// The first name of each file that has several, by its number.
    links: HashMap<u64, Vec<u8>>,
    /// Bytes in `links`, and in the levels.
    remembered: u64,
    piece: Vec<u8>,
}

/// A directory on the way down.
struct Level {
    /// How long its path is.
    path: usize,
    /// Its names, one after another.
    bytes: Vec<u8>,
    /// Where each ends, and its inode's number.
    names: Vec<(usize, u64)>,
    /// The next one, and where it begins.
    next: (usize, usize),
}

impl Level {
    /// What a name takes beside its bytes.
    const NAME: u64 = 16;

    fn size(&self) -> u64 {
        self.bytes.len() as u64 + self.names.len() as u64 * Self::NAME
    }

    /// Appends the next name to `path`; and its inode's number.
    fn next(&mut self, path: &mut Vec<u8>) -> Option<u64> {
        let (number, start) = self.next;
        let &(end, slot) = self.names.get(number)?;
        path.extend_from_slice(self.bytes.get(start..end)?);
        self.next = (number + 1, end);
        Some(slot)
    }
}

impl<F: ReadAt, W: Write> Export<'_, F, W> {
    fn walk(&mut self) -> Result<(), Error> {
        let mut path = Vec::new();
        let root = self.image.root().map_err(Error::Read)?;
        self.root(&root)?;
        let mut levels = vec![self.enter(&mut path, &root)?];
        while let Some(level) = levels.last_mut() {
            path.truncate(level.path);
            if !path.is_empty() {
                path.push(b'/');
            }
            let start = path.len();
            let Some(slot) = level.next(&mut path) else {
                self.remembered -= level.size();
                levels.pop();
                continue;
            };
            // As an import counts: what is above an entry, without the root.
            if levels.len() > self.limits.depth as usize + 1 {
                let limit = u64::from(self.limits.depth);
                return Err(limited("the depth of the tree", limit, "directories"));
            }
            let inode = self.image.inode(slot).map_err(Error::Read)?;
            let name = path.get(start..).unwrap_or_default();
            let is_marker = name.starts_with(WHITEOUT);
            if inode.file_type() == read::DIRECTORY {
                // A directory of such a name was never named itself, which would have been a
                // whiteout: what is in it says that it is there.
                if !is_marker {
                    self.entry(EntryKind::Directory, &path, &[], &inode)?;
                }
                levels.push(self.enter(&mut path, &inode)?);
            } else if is_marker {
                return Err(Error::Read(read::damaged("a name that no layer has")));
            } else if inode.is_whiteout() && WHITEOUT.len() + name.len() <= NAME_MAX {
                path.splice(start..start, WHITEOUT.iter().copied());
                self.header(&Header::file(&path, 0))?;
            } else {
                self.leaf(&path, &inode)?;
            }
        }
        Ok(())
    }

    /// The root, unless all of it is as it would be without a word.
    fn root(&mut self, root: &Inode) -> Result<(), Error> {
        let attributes = self.image.xattrs(root).map_err(Error::Read)?;
        let is_plain = (root.mode & 0o7777, root.uid, root.gid, root.mtime)
            == (IMPLIED_MODE, 0, 0, (0, 0))
            && xattr::without_opaque(&attributes).is_empty();
        match is_plain {
            true => Ok(()),
            false => self.entry(EntryKind::Directory, b".", &[], root),
        }
    }

    /// Says whether what is beneath a directory shows, and lists its names.
    fn enter(&mut self, path: &mut Vec<u8>, directory: &Inode) -> Result<Level, Error> {
        let mut level = Level {
            path: path.len(),
            bytes: Vec::new(),
            names: Vec::new(),
            next: (0, 0),
        };
        let attributes = self.image.xattrs(directory).map_err(Error::Read)?;
        if xattr::is_opaque(&attributes) {
            if !path.is_empty() {
                path.push(b'/');
            }
            path.extend_from_slice(OPAQUE);
            self.header(&Header::file(path, 0))?;
            path.truncate(level.path);
        }
        let room = self.limits.metadata_bytes - self.remembered;
        let each = |name: &[u8], slot| {
            if !matches!(name, b"." | b"..") {
                level.bytes.extend_from_slice(name);
                level.names.push((level.bytes.len(), slot));
            }
            Ok(level.size() <= room)
        };
        self.image.each(directory, each).map_err(Error::Read)?;
        self.remember(level.size())?;
        Ok(level)
    }

    /// Counts what stays in memory.
    fn remember(&mut self, bytes: u64) -> Result<(), Error> {
        self.remembered += bytes;
        let limit = self.limits.metadata_bytes;
        match self.remembered > limit {
            true => Err(limited("the memory for names", limit, "bytes")),
            false => Ok(()),
        }
    }

    fn leaf(&mut self, path: &[u8], inode: &Inode) -> Result<(), Error> {
        if inode.links > 1 {
            if let Some(first) = self.links.get(&inode.slot) {
                let first = first.clone();
                return self.entry(EntryKind::HardLink, path, &first, inode);
            }
            // What another name of it will say.
            if path.len() > LINK_MAX {
                let limit = LINK_MAX as u64;
                return Err(limited("the path of a hard link's target", limit, "bytes"));
            }
            self.remember(path.len() as u64 + LINK)?;
            self.links.insert(inode.slot, path.to_vec());
        }
        let target;
        let (kind, link) = match inode.file_type() {
            read::REGULAR => (EntryKind::File, &[][..]),
            read::SYMLINK => {
                target = self.image.target(inode).map_err(Error::Read)?;
                (EntryKind::Symlink, target.as_slice())
            }
            read::CHARACTER => (EntryKind::CharDevice, &[][..]),
            read::BLOCK_DEVICE => (EntryKind::BlockDevice, &[][..]),
            read::FIFO => (EntryKind::Fifo, &[][..]),
            _ => return Err(Error::Read(read::damaged("a type that no layer has"))),
        };
        self.entry(kind, path, link, inode)?;
        if kind == EntryKind::File {
            self.copy(inode)?;
        }
        Ok(())
    }

    fn entry(
        &mut self,
        kind: EntryKind,
        path: &[u8],
        link: &[u8],
        inode: &Inode,
    ) -> Result<(), Error> {
        let mut directory = Vec::new();
        let path = match kind {
            EntryKind::Directory if path.len() < self.limits.path_bytes => {
                directory.extend_from_slice(path);
                directory.push(b'/');
                &directory
            }
            _ => path,
        };
        let attributes = match kind {
            // The first name has said it.
            EntryKind::HardLink => Vec::new(),
            _ => self.image.xattrs(inode).map_err(Error::Read)?,
        };
        let attributes = xattr::without_opaque(&attributes);
        self.header(&Header {
            kind,
            path,
            link,
            mode: u32::from(inode.mode & 0o7777),
            uid: inode.uid,
            gid: inode.gid,
            mtime: inode.mtime,
            size: match kind {
                EntryKind::File => inode.size,
                _ => 0,
            },
            device: disk::device_numbers(inode.device),
            xattrs: &xattr::names(&attributes),
        })
    }

    fn header(&mut self, header: &Header<'_>) -> Result<(), Error> {
        if header.path.len() > self.limits.path_bytes {
            let limit = self.limits.path_bytes as u64;
            return Err(limited("the length of a path", limit, "bytes"));
        }
        self.entries += 1;
        // Also where a damaged image leads in a circle.
        if self.entries > self.limits.entries {
            let limit = self.limits.entries;
            return Err(limited("the number of entries", limit, "entries"));
        }
        self.tar.header(header).map_err(Error::Write)
    }

    fn copy(&mut self, inode: &Inode) -> Result<(), Error> {
        self.content = self.content.saturating_add(inode.size);
        if self.content > self.limits.data_bytes {
            let limit = self.limits.data_bytes;
            return Err(limited("the content of the files", limit, "bytes"));
        }
        let mut content = self.image.content(inode).map_err(Error::Read)?;
        loop {
            match content.read(&mut self.piece).map_err(Error::Read)? {
                0 => break,
                n => self.tar.write_all(&self.piece[..n]).map_err(Error::Write)?,
            }
        }
        self.tar.pad().map_err(Error::Write)
    }
}

fn limited(what: &'static str, limit: u64, unit: &'static str) -> Error {
    Error::Limit { what, limit, unit }
}
