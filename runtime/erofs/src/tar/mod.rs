//! A tar reader for hostile archives.
//!
//! It reads a stream once, front to back. Everything it keeps is bounded: one
//! extended header of at most 1 MiB and one sparse map. Where archives are
//! ambiguous it decides as Go's `archive/tar` does, which is what container
//! tools use: links, devices, fifos and directories have no payload whatever
//! their size field says; GNU long names outrank PAX; an archive may end without
//! its trailer, but only between entries.

mod header;
mod pax;
mod sparse;
pub mod write;

use std::io::{self, Read, Seek, SeekFrom};

use crate::error::{ArchiveFault, Error};
pub(crate) use header::BLOCK;
use header::Header;
use pax::Pax;
pub use sparse::Extent;

/// Largest GNU long name or PAX header, as in Go's reader.
const EXTENDED_MAX: u64 = 1 << 20;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EntryKind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link to [`Entry::link`].
    Symlink,
    /// Another name of the file [`Entry::link`].
    HardLink,
    /// A character device, [`Entry::device`].
    CharDevice,
    /// A block device, [`Entry::device`].
    BlockDevice,
    /// A named pipe.
    Fifo,
}

/// One entry of an archive, as it says of itself. Nothing here is checked
/// beyond its form.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub kind: EntryKind,
    /// Its name; any bytes.
    pub path: Vec<u8>,
    /// Target of a symbolic or hard link; any bytes.
    pub link: Vec<u8>,
    /// The mode field; only the lower 12 bits mean something.
    pub mode: i64,
    /// Owner.
    pub uid: i64,
    /// Group.
    pub gid: i64,
    /// Modification time: seconds since 1970 and nanoseconds.
    pub mtime: (i64, u32),
    /// Size of the file in bytes, holes included; 0 for all but files.
    pub size: u64,
    /// Major and minor number of a device.
    pub device: (u64, u64),
    /// Extended attributes: full names and values. Of equal names the last
    /// counts.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// For a sparse file, the parts that the payload holds, ascending.
    pub sparse: Option<Vec<Extent>>,
}

/// Reads an archive entry by entry.
///
/// After [`TarReader::next_entry`], [`Read`] gives the entry's payload and then
/// end of file. A sparse file's payload is the bytes of its extents.
pub struct TarReader<R> {
    inner: R,
    skip: fn(&mut R, u64) -> io::Result<u64>,
    /// Bytes taken from `inner`.
    offset: u64,
    /// Where the last header began.
    header_offset: u64,
    /// Payload bytes not read yet, and the padding after them.
    payload: u64,
    padding: u64,
    ended: bool,
}

impl<R: Read> TarReader<R> {
    /// Reads from `inner`, which should be buffered: headers are read alone.
    pub fn new(inner: R) -> Self {
        Self {
            inner,
            skip: |inner, count| io::copy(&mut inner.take(count), &mut io::sink()),
            offset: 0,
            header_offset: 0,
            payload: 0,
            padding: 0,
            ended: false,
        }
    }

    /// As [`TarReader::new`], but seeks over payloads that are not read. A cut
    /// off payload is then not noticed: compare [`TarReader::offset`] and
    /// [`Entry::size`] with the file's length.
    pub fn seeking(inner: R) -> Self
    where
        R: Seek,
    {
        let mut reader = Self::new(inner);
        reader.skip = |inner, count| {
            let step =
                i64::try_from(count).map_err(|_| io::Error::from(io::ErrorKind::InvalidInput))?;
            inner.seek(SeekFrom::Current(step)).map(|_| count)
        };
        reader
    }

    /// Bytes read so far; after `next_entry`, where the payload begins.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// Payload bytes that were not read yet.
    pub fn remaining(&self) -> u64 {
        self.payload
    }

    /// The stream behind the archive, for what follows its end.
    pub fn into_inner(self) -> R {
        self.inner
    }

    /// Skips what is left of the last entry and reads the next header, or
    /// returns `None` at the end of the archive.
    ///
    /// # Errors
    /// [`Error::Read`] and [`Error::Archive`].
    pub fn next_entry(&mut self) -> Result<Option<Entry>, Error> {
        let mut pax = None;
        let (mut long_path, mut long_link) = (None, None);
        loop {
            self.skip_rest()?;
            self.header_offset = self.offset;
            let Some(block) = self.next_header()? else {
                let dangling = pax.is_some() || long_path.is_some() || long_link.is_some();
                return if dangling {
                    Err(self.fault(ArchiveFault::Dangling))
                } else {
                    Ok(None)
                };
            };
            let header = Header::new(&block).map_err(|fault| self.fault(fault))?;
            let size = header.size().map_err(|fault| self.fault(fault))?;
            match header.kind() {
                b'x' => {
                    let bytes = self.extended(size)?;
                    let map_max = sparse::EXTENTS_MAX * 2;
                    let parsed = Pax::parse(&bytes, map_max).map_err(|fault| self.fault(fault))?;
                    pax = Some(parsed);
                }
                // Global headers carry comments; what they would set for every
                // entry is set by nobody, and container tools ignore it.
                b'g' => drop(self.extended(size)?),
                b'L' => long_path = Some(header::text(&self.extended(size)?).to_vec()),
                b'K' => long_link = Some(header::text(&self.extended(size)?).to_vec()),
                _ => {
                    let mut entry = self.entry(&header, pax.take().unwrap_or_default(), size)?;
                    if let Some(path) = long_path {
                        entry.path = path;
                    }
                    if let Some(link) = long_link {
                        entry.link = link;
                    }
                    if header.kind() == 0 && entry.path.ends_with(b"/") {
                        // Archives from before there were types.
                        entry.kind = EntryKind::Directory;
                        entry.size = 0;
                    }
                    return Ok(Some(entry));
                }
            }
        }
    }

    fn entry(&mut self, header: &Header<'_>, pax: Pax, size: u64) -> Result<Entry, Error> {
        let at = self.header_offset;
        let fault = move |fault| Error::Archive { offset: at, fault };
        let kind = match header.kind() {
            0 | b'0' | b'7' | b'S' => EntryKind::File,
            b'1' => EntryKind::HardLink,
            b'2' => EntryKind::Symlink,
            b'3' => EntryKind::CharDevice,
            b'4' => EntryKind::BlockDevice,
            b'5' => EntryKind::Directory,
            b'6' => EntryKind::Fifo,
            other => return Err(fault(ArchiveFault::Type(other))),
        };
        let mut entry = Entry {
            kind,
            path: pax.path.unwrap_or_else(|| header.path()),
            link: pax.link.unwrap_or_else(|| header.link()),
            mode: header.mode().map_err(fault)?,
            uid: pax.uid.map_or_else(|| header.uid(), Ok).map_err(fault)?,
            gid: pax.gid.map_or_else(|| header.gid(), Ok).map_err(fault)?,
            mtime: pax
                .mtime
                .map_or_else(|| Ok((header.mtime()?, 0)), Ok)
                .map_err(fault)?,
            size: 0,
            device: (0, 0),
            xattrs: pax.xattrs,
            sparse: None,
        };
        if matches!(kind, EntryKind::CharDevice | EntryKind::BlockDevice) {
            entry.device = header.device().map_err(fault)?;
        }
        if kind != EntryKind::File {
            return Ok(entry);
        }
        entry.size = pax.size.unwrap_or(size);
        self.expect_payload(entry.size)?;
        if header.kind() == b'S' {
            self.gnu_sparse(header, &mut entry)?;
        } else {
            self.pax_sparse(pax.sparse, &mut entry)?;
        }
        Ok(entry)
    }

    /// Old GNU format: four extents in the header, more in blocks after it.
    fn gnu_sparse(&mut self, header: &Header<'_>, entry: &mut Entry) -> Result<(), Error> {
        let (entries, mut more, size) = header.gnu_sparse().map_err(|fault| self.fault(fault))?;
        let mut pairs = Vec::new();
        sparse::take_gnu(entries, &mut pairs).map_err(|fault| self.fault(fault))?;
        while more {
            let mut block = [0; BLOCK];
            self.read_block(&mut block)?;
            sparse::take_gnu(&block[..504], &mut pairs).map_err(|fault| self.fault(fault))?;
            // A block with nothing in it would let an archive go on for ever.
            if pairs.is_empty() {
                return Err(self.fault(ArchiveFault::Sparse));
            }
            more = block[504] != 0;
        }
        let extents =
            sparse::checked(&pairs, size, entry.size).map_err(|fault| self.fault(fault))?;
        entry.size = size;
        entry.sparse = Some(extents);
        Ok(())
    }

    fn pax_sparse(&mut self, map: pax::PaxSparse, entry: &mut Entry) -> Result<(), Error> {
        let (pairs, size) = match (map.major, map.minor) {
            (Some(1), Some(0)) => (self.pax_1_0_map()?, map.real_size),
            (Some(0), Some(0 | 1)) | (None, None) if map.has_map => (map.map, map.real_size),
            (None, None) => return Ok(()),
            _ => return Err(self.fault(ArchiveFault::Sparse)),
        };
        let size = size.ok_or_else(|| self.fault(ArchiveFault::Sparse))?;
        let extents =
            sparse::checked(&pairs, size, self.payload).map_err(|fault| self.fault(fault))?;
        if let Some(name) = map.name {
            entry.path = name;
        }
        entry.size = size;
        entry.sparse = Some(extents);
        Ok(())
    }

    /// PAX 1.0: the map is the first blocks of the payload.
    fn pax_1_0_map(&mut self) -> Result<Vec<u64>, Error> {
        let mut map = sparse::Pax1Map::default();
        loop {
            if self.payload < BLOCK as u64 {
                return Err(self.fault(ArchiveFault::Sparse));
            }
            let mut block = [0; BLOCK];
            self.read_block(&mut block)?;
            self.payload -= BLOCK as u64;
            if map.take(&block).map_err(|fault| self.fault(fault))? {
                return Ok(map.into_pairs());
            }
        }
    }

    /// Reads the payload of an extended header.
    fn extended(&mut self, size: u64) -> Result<Vec<u8>, Error> {
        if size > EXTENDED_MAX {
            return Err(Error::Limit {
                what: "a PAX header or GNU long name",
                limit: EXTENDED_MAX,
                unit: "bytes",
            });
        }
        self.expect_payload(size)?;
        let mut bytes = Vec::new();
        self.take(EXTENDED_MAX)
            .read_to_end(&mut bytes)
            .map_err(|error| self.read_error(error))?;
        Ok(bytes)
    }

    fn expect_payload(&mut self, size: u64) -> Result<(), Error> {
        if size > i64::MAX.cast_unsigned() - BLOCK as u64 {
            return Err(self.fault(ArchiveFault::Number("size")));
        }
        self.payload = size;
        self.padding = size.next_multiple_of(BLOCK as u64) - size;
        Ok(())
    }

    fn skip_rest(&mut self) -> Result<(), Error> {
        let rest = self.payload + self.padding;
        if rest == 0 {
            return Ok(());
        }
        let skipped = (self.skip)(&mut self.inner, rest).map_err(Error::Read)?;
        self.offset += skipped;
        self.payload = 0;
        self.padding = 0;
        if skipped < rest {
            Err(self.fault(ArchiveFault::Truncated))
        } else {
            Ok(())
        }
    }

    /// The next block that is a header, or `None` at the end: two blocks of
    /// zeros, or no more blocks.
    fn next_header(&mut self) -> Result<Option<[u8; BLOCK]>, Error> {
        let mut block = [0; BLOCK];
        if self.ended || !self.try_read_block(&mut block)? {
            self.ended = true;
            return Ok(None);
        }
        if block.iter().any(|&byte| byte != 0) {
            return Ok(Some(block));
        }
        if self.try_read_block(&mut block)? && block.iter().any(|&byte| byte != 0) {
            return Err(self.fault(ArchiveFault::LoneZeroBlock));
        }
        self.ended = true;
        Ok(None)
    }

    fn read_block(&mut self, block: &mut [u8; BLOCK]) -> Result<(), Error> {
        if self.try_read_block(block)? {
            Ok(())
        } else {
            Err(self.fault(ArchiveFault::Truncated))
        }
    }

    /// Reads one block; false at the end of the stream, which must not be amid it.
    fn try_read_block(&mut self, block: &mut [u8; BLOCK]) -> Result<bool, Error> {
        let mut filled = 0;
        while filled < BLOCK {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(self.fault(ArchiveFault::Truncated)),
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::Read(error)),
            }
        }
        self.offset += BLOCK as u64;
        Ok(true)
    }

    fn fault(&self, fault: ArchiveFault) -> Error {
        Error::Archive {
            offset: self.header_offset,
            fault,
        }
    }

    /// Turns an error of [`Read`] into what it stands for.
    pub(crate) fn read_error(&self, error: io::Error) -> Error {
        if error
            .get_ref()
            .is_some_and(|inner| inner.is::<ArchiveFault>())
        {
            self.fault(ArchiveFault::Truncated)
        } else {
            Error::Read(error)
        }
    }
}

impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let want = usize::try_from(self.payload)
            .unwrap_or(usize::MAX)
            .min(buf.len());
        if want == 0 {
            return Ok(0);
        }
        let n = self.inner.read(&mut buf[..want])?;
        if n == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                ArchiveFault::Truncated,
            ));
        }
        self.offset += n as u64;
        self.payload -= n as u64;
        Ok(n)
    }
}
