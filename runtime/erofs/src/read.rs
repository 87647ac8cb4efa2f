//! Reading of the images that [`crate::convert`] writes.
//!
//! A layer may lean on those beneath it: by a hard link to one of their files, or by an
//! entry whose parents it does not name. What they have is read here, from their
//! images. An image was made from outside input: every place in it is checked before
//! it is read, and what makes no sense is an error.
//!
//! Only what the writer writes is understood: blocks of 4096 bytes, extended inodes,
//! no compression, no shared attributes.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt,
};

use crate::disk::{self, BLOCK, DIRENT_SIZE, HOLE, INODE_SIZE, Layout, NAME_MAX, SLOT};

/// Largest directory that is read, in bytes: more names than a layer may have.
const DIRECTORY_MAX: u64 = 1 << 30;
/// Longest target of a symbolic link, as in Linux.
const LINK_MAX: u64 = 4095;

/// Bytes that can be read at any place.
pub trait ReadAt {
    /// Fills `buf` with what is at `offset`.
    ///
    /// # Errors
    /// It can't be read, or ends before that.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;
}

impl ReadAt for File {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        FileExt::read_exact_at(self, buf, offset)
    }
}

impl ReadAt for Box<dyn ReadAt> {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        (**self).read_exact_at(buf, offset)
    }
}

impl ReadAt for Vec<u8> {
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let start = usize::try_from(offset).ok();
        let part = start.and_then(|start| self.get(start..start.checked_add(buf.len())?));
        buf.copy_from_slice(part.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
}

/// An image.
#[derive(Debug)]
pub struct Image<F> {
    file: F,
    blocks: u64,
    /// Where slot 0 is, in bytes.
    table: u64,
    root: u64,
}

/// An inode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inode {
    /// `st_mode`.
    pub mode: u16,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// Bytes of content.
    pub size: u64,
    /// Names that it has.
    pub links: u32,
    /// Device number as Linux has it on disks, for devices.
    pub device: u32,
    /// Its number: equal for names of one inode.
    pub slot: u64,
    /// How long its extended attributes are, and where.
    xattrs: (usize, u64),
    layout: Layout,
    union: u32,
    /// Where its tail or chunk table is.
    after: u64,
}

/// File type bits of `st_mode`.
pub const TYPE: u16 = 0xf000;
/// A directory.
pub const DIRECTORY: u16 = 0x4000;
/// A regular file.
pub const REGULAR: u16 = 0x8000;
/// A symbolic link.
pub const SYMLINK: u16 = 0xa000;
/// A character device.
pub const CHARACTER: u16 = 0x2000;
/// A block device.
pub const BLOCK_DEVICE: u16 = 0x6000;
/// A named pipe.
pub const FIFO: u16 = 0x1000;

impl Inode {
    /// The file type bits.
    #[must_use]
    pub fn file_type(&self) -> u16 {
        self.mode & TYPE
    }

    /// Whether it is what overlayfs takes for a removed name.
    #[must_use]
    pub fn is_whiteout(&self) -> bool {
        self.file_type() == CHARACTER && self.device == 0
    }
}

pub(crate) fn damaged(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("damaged image: {what}"))
}

fn u16_at(bytes: &[u8], at: usize) -> u16 {
    let mut out = [0; 2];
    out.copy_from_slice(bytes.get(at..at + 2).unwrap_or(&[0; 2]));
    u16::from_le_bytes(out)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    u32::from(u16_at(bytes, at)) | u32::from(u16_at(bytes, at + 2)) << 16
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from(u32_at(bytes, at)) | u64::from(u32_at(bytes, at + 4)) << 32
}

impl<F: ReadAt> Image<F> {
    /// Reads the superblock.
    ///
    /// # Errors
    /// It can't be read, or is not one that the writer wrote.
    pub fn open(file: F) -> io::Result<Self> {
        let mut block = vec![0; BLOCK];
        file.read_exact_at(&mut block, 0)?;
        let sb = disk::Super::decode(&block).ok_or_else(|| damaged("no superblock"))?;
        Ok(Self {
            file,
            blocks: u64::from(sb.blocks),
            table: u64::from(sb.meta_block) * BLOCK as u64,
            root: u64::from(sb.root_slot),
        })
    }

    /// The root directory.
    ///
    /// # Errors
    /// As [`Image::inode`].
    pub fn root(&self) -> io::Result<Inode> {
        self.inode(self.root)
    }

    /// Reads an inode.
    ///
    /// # Errors
    /// It can't be read, or makes no sense.
    pub fn inode(&self, slot: u64) -> io::Result<Inode> {
        let place = slot
            .checked_mul(SLOT)
            .and_then(|offset| offset.checked_add(self.table))
            .ok_or_else(|| damaged("an inode beyond all bounds"))?;
        let mut raw = [0; INODE_SIZE];
        self.read(&mut raw, place)?;
        let layout = Layout::decode(u16_at(&raw, 0)).ok_or_else(|| damaged("an unknown layout"))?;
        let units = usize::from(u16_at(&raw, 2));
        let mut after = place + INODE_SIZE as u64;
        let mut xattrs = (0, after);
        if units > 0 {
            // A header of 12 bytes comes first.
            xattrs = ((units - 1) * 4, after + 12);
            after = xattrs.1 + xattrs.0 as u64;
        }
        let mode = u16_at(&raw, 4);
        let union = u32_at(&raw, 16);
        let mtime = (u64_at(&raw, 32).cast_signed(), u32_at(&raw, 40));
        if mtime.1 >= 1_000_000_000 {
            return Err(damaged("a time that is none"));
        }
        let is_device = matches!(mode & TYPE, CHARACTER | BLOCK_DEVICE);
        Ok(Inode {
            mode,
            size: u64_at(&raw, 8),
            uid: u32_at(&raw, 24),
            gid: u32_at(&raw, 28),
            mtime,
            links: u32_at(&raw, 44),
            device: if is_device { union } else { 0 },
            slot,
            xattrs,
            layout,
            union,
            after,
        })
    }

    /// An inode's extended attributes, as they are on disk.
    pub(crate) fn xattrs(&self, inode: &Inode) -> io::Result<Vec<u8>> {
        let (length, place) = inode.xattrs;
        let mut entries = vec![0; length];
        if length > 0 {
            self.read(&mut entries, place)?;
        }
        Ok(entries)
    }

    /// Finds a name in a directory. Names are sorted: few blocks are read.
    ///
    /// # Errors
    /// The directory can't be read, or makes no sense.
    pub fn lookup(&self, directory: &Inode, name: &[u8]) -> io::Result<Option<Inode>> {
        check_directory(directory)?;
        let (mut low, mut high) = (0, directory.size.div_ceil(BLOCK as u64));
        while low < high {
            let middle = low + (high - low) / 2;
            let block = self.directory_block(directory, middle)?;
            let entries = entries(&block)?;
            let first = entries.first().map_or(&[][..], |(_, name)| name);
            let last = entries.last().map_or(&[][..], |(_, name)| name);
            if name < first {
                high = middle;
            } else if name > last {
                low = middle + 1;
            } else {
                let found = entries.iter().find(|(_, entry)| *entry == name);
                return found.map(|(slot, _)| self.inode(*slot)).transpose();
            }
        }
        Ok(None)
    }

    fn directory_block(&self, directory: &Inode, number: u64) -> io::Result<Vec<u8>> {
        let mut content = self.content(directory)?;
        content.at = number.saturating_mul(BLOCK as u64);
        let mut block = Vec::new();
        content.take(BLOCK as u64).read_to_end(&mut block)?;
        Ok(block)
    }

    /// Calls `visit` with each name in a directory, `.` and `..` too, and its inode's
    /// number, until it returns false.
    ///
    /// # Errors
    /// The directory can't be read, or makes no sense; or the visitor's error.
    pub fn each(
        &self,
        directory: &Inode,
        mut visit: impl FnMut(&[u8], u64) -> io::Result<bool>,
    ) -> io::Result<()> {
        check_directory(directory)?;
        for number in 0..directory.size.div_ceil(BLOCK as u64) {
            let block = self.directory_block(directory, number)?;
            for (slot, name) in entries(&block)? {
                if !visit(name, slot)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// A symbolic link's target.
    ///
    /// # Errors
    /// It can't be read, or is too long.
    pub fn target(&self, link: &Inode) -> io::Result<Vec<u8>> {
        if link.file_type() != SYMLINK || link.size > LINK_MAX {
            return Err(damaged("a link that is none"));
        }
        let mut target = Vec::new();
        self.content(link)?.read_to_end(&mut target)?;
        Ok(target)
    }

    /// The content of a file, directory or symbolic link, from its start.
    ///
    /// # Errors
    /// It lies outside of the image.
    pub fn content<'a>(&'a self, inode: &Inode) -> io::Result<Content<'a, F>> {
        let mut chunks = None;
        let (bits, plain) = match inode.layout {
            Layout::Plain => (0, inode.size),
            Layout::Inline => (0, inode.size - inode.size % BLOCK as u64),
            Layout::Chunks => {
                chunks = Some(inode.after);
                (inode.union & 31, 0)
            }
        };
        let first = u64::from(inode.union) * BLOCK as u64;
        if plain > 0 && first.saturating_add(plain) > self.blocks * BLOCK as u64 {
            return Err(damaged("content beyond its end"));
        }
        Ok(Content {
            image: self,
            at: 0,
            size: inode.size,
            first,
            plain,
            tail: inode.after,
            chunks,
            chunk: (BLOCK as u64) << bits,
        })
    }

    fn read(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = offset.checked_add(buf.len() as u64);
        if end.is_none_or(|end| end > self.blocks * BLOCK as u64) {
            return Err(damaged("something beyond its end"));
        }
        self.file.read_exact_at(buf, offset)
    }
}

fn check_directory(directory: &Inode) -> io::Result<()> {
    match directory.file_type() == DIRECTORY && directory.size <= DIRECTORY_MAX {
        true => Ok(()),
        false => Err(damaged("a directory that is none")),
    }
}

/// Numbers and names of a block's entries.
fn entries(block: &[u8]) -> io::Result<Vec<(u64, &[u8])>> {
    let count = usize::from(u16_at(block, 8)) / DIRENT_SIZE;
    let entry = |number| dirent(block, number, count).ok_or_else(|| damaged("a directory entry"));
    (0..count).map(entry).collect()
}

/// Number and name of a block's entry.
fn dirent(block: &[u8], number: usize, count: usize) -> Option<(u64, &[u8])> {
    let entry = block.get(number * DIRENT_SIZE..(number + 1) * DIRENT_SIZE)?;
    let start = usize::from(u16_at(entry, 8));
    let name = if number + 1 < count {
        let next = block.get((number + 1) * DIRENT_SIZE..(number + 2) * DIRENT_SIZE)?;
        block.get(start..usize::from(u16_at(next, 8)))?
    } else {
        // The last of a block ends where the block's zeros begin.
        let rest = block.get(start..)?;
        rest.split(|&byte| byte == 0).next()?
    };
    let is_name = !name.is_empty() && name.len() <= NAME_MAX && !name.contains(&b'/');
    is_name.then_some((u64_at(entry, 0), name))
}

/// See [`Image::content`].
#[derive(Debug)]
pub struct Content<'a, F> {
    image: &'a Image<F>,
    at: u64,
    size: u64,
    /// Where the first run of blocks is, and how long it is.
    first: u64,
    plain: u64,
    /// Where what follows that is.
    tail: u64,
    /// Where the table of chunks is, if there is one.
    chunks: Option<u64>,
    chunk: u64,
}

impl<F: ReadAt> Read for Content<'_, F> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        // The run that the next byte is in: where it is, if anywhere, and its length.
        let (place, run) = match self.chunks {
            _ if self.at >= self.size => return Ok(0),
            Some(table) => {
                let (index, within) = (self.at / self.chunk, self.at % self.chunk);
                let mut raw = [0; 4];
                let entry = index.checked_mul(4).and_then(|at| at.checked_add(table));
                let entry = entry.ok_or_else(|| damaged("a chunk beyond all bounds"))?;
                self.image.read(&mut raw, entry)?;
                let block = u32::from_le_bytes(raw);
                let place = (block != HOLE).then(|| u64::from(block) * BLOCK as u64 + within);
                (place, self.chunk - within)
            }
            None if self.at < self.plain => (Some(self.first + self.at), self.plain - self.at),
            None => (
                Some(self.tail + (self.at - self.plain)),
                self.size - self.at,
            ),
        };
        let now = run.min(self.size - self.at).min(buf.len() as u64);
        let room = usize::try_from(now).unwrap_or(buf.len());
        let buf = buf.get_mut(..room).unwrap_or_default();
        match place {
            Some(place) => self.image.read(buf, place)?,
            None => buf.fill(0),
        }
        self.at += buf.len() as u64;
        Ok(buf.len())
    }
}
