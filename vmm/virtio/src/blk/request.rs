//! What the driver asks for: one pure parser (5.2.6).
//!
//! ```text
//!   readable: [ type u32 | reserved u32 | sector u64 ][ data to write, or ranges ]
//!   writable: [ data read, or the serial ][ status u8 ]
//! ```
//!
//! The parts may be cut into descriptors anywhere (5.2.6.1 asks only for the order).

use super::SECTOR;
use crate::chain::Chain;

/// Bytes of the header.
pub(crate) const HEADER: usize = 16;

/// Bytes of a discard or write-zeroes range.
const RANGE: usize = 16;

/// Most ranges of one discard or write-zeroes request (`max_discard_seg`).
pub(crate) const MAX_RANGES: u32 = 32;

/// Most sectors of a discard range: 1 GiB.
pub(crate) const MAX_DISCARD_SECTORS: u32 = 2 << 20;

/// Most sectors of a write-zeroes range: 64 MiB, because a file system without
/// `FALLOC_FL_ZERO_RANGE` makes us write them.
pub(crate) const MAX_ZERO_SECTORS: u32 = 128 << 10;

/// Bytes of a serial (`VIRTIO_BLK_ID_BYTES`).
pub(crate) const SERIAL: usize = 20;

const IN: u32 = 0;
const OUT: u32 = 1;
const FLUSH: u32 = 4;
const GET_ID: u32 = 8;
const DISCARD: u32 = 11;
const WRITE_ZEROES: u32 = 13;

/// In a range's flags: the sectors may be deallocated.
const UNMAP: u32 = 1;

/// What the last writable byte says (5.2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Status {
    Ok = 0,
    IoError = 1,
    Unsupported = 2,
}

/// Sectors, as bytes of the file: within the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Range {
    pub(crate) offset: u64,
    pub(crate) len: u64,
    /// Zeroed sectors may be deallocated.
    pub(crate) unmap: bool,
}

/// A request that can be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Request {
    /// `len` bytes of the file from `offset` to the start of the writable part.
    Read {
        offset: u64,
        len: usize,
    },
    /// `len` bytes behind the header to the file.
    Write {
        offset: u64,
        len: usize,
    },
    Flush,
    Identify,
    Discard(Vec<Range>),
    WriteZeroes(Vec<Range>),
}

/// A request that is answered without being done, or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// The status says why.
    Status(Status),
    /// There is no room for a status: the driver broke 5.2.6.1.
    NoStatus,
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

/// What a disk is to the parser.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Geometry {
    /// Bytes; a multiple of [`SECTOR`].
    pub(crate) bytes: u64,
    pub(crate) read_only: bool,
}

impl Geometry {
    /// The bytes of `len` from `sector` on, if they lie within the disk.
    fn bytes_at(self, sector: u64, len: u64) -> Result<u64, Refused> {
        let offset = sector.checked_mul(SECTOR);
        let end = offset.and_then(|offset| offset.checked_add(len));
        match (offset, end) {
            (Some(offset), Some(end)) if end <= self.bytes => Ok(offset),
            _ => Err(Status::IoError.into()),
        }
    }
}

/// Reads a request out of its chain.
pub(crate) fn parse(chain: &Chain, disk: Geometry) -> Result<Request, Refused> {
    // The last writable byte is the status; what is before it is data.
    let room = chain
        .writable_len()
        .checked_sub(1)
        .ok_or(Refused::NoStatus)?;
    let mut reader = chain.reader();
    let mut header = [0; HEADER];
    reader
        .read_exact(&mut header)
        .map_err(|_| Refused::from(Status::IoError))?;
    let [a, b, c, d, _, _, _, _, sector @ ..] = header;
    let kind = u32::from_le_bytes([a, b, c, d]);
    let sector = u64::from_le_bytes(sector);
    let sent = reader.remaining();

    match kind {
        IN => Ok(Request::Read {
            offset: data(disk, sector, room)?,
            len: room,
        }),
        OUT if disk.read_only => Err(Status::IoError.into()),
        OUT => Ok(Request::Write {
            offset: data(disk, sector, sent)?,
            len: sent,
        }),
        FLUSH => Ok(Request::Flush),
        GET_ID => Ok(Request::Identify),
        DISCARD | WRITE_ZEROES if disk.read_only => Err(Status::Unsupported.into()),
        DISCARD => Ok(Request::Discard(ranges(reader, disk, kind)?)),
        WRITE_ZEROES => Ok(Request::WriteZeroes(ranges(reader, disk, kind)?)),
        _ => Err(Status::Unsupported.into()),
    }
}

/// The file offset of whole sectors.
fn data(disk: Geometry, sector: u64, len: usize) -> Result<u64, Refused> {
    let len = len as u64;
    if len == 0 || !len.is_multiple_of(SECTOR) {
        return Err(Status::IoError.into());
    }
    disk.bytes_at(sector, len)
}

/// The ranges of a discard or write-zeroes request (5.2.6.2).
fn ranges(
    mut reader: crate::chain::Reader<'_>,
    disk: Geometry,
    kind: u32,
) -> Result<Vec<Range>, Refused> {
    let sent = reader.remaining();
    if sent == 0 || !sent.is_multiple_of(RANGE) || sent / RANGE > MAX_RANGES as usize {
        return Err(Status::IoError.into());
    }
    let most = if kind == DISCARD {
        MAX_DISCARD_SECTORS
    } else {
        MAX_ZERO_SECTORS
    };
    let mut ranges = Vec::with_capacity(sent / RANGE);
    let mut bytes = [0; RANGE];
    while reader.read_exact(&mut bytes).is_ok() {
        let [a, b, c, d, e, f, g, h, i, j, k, l, flags @ ..] = bytes;
        let sector = u64::from_le_bytes([a, b, c, d, e, f, g, h]);
        let sectors = u32::from_le_bytes([i, j, k, l]);
        let flags = u32::from_le_bytes(flags);
        // "If an unknown flag is set the device MUST set the status to UNSUPP"; unmap means
        // nothing to a discard, and counts as one.
        let known = if kind == DISCARD { 0 } else { UNMAP };
        if flags & !known != 0 {
            return Err(Status::Unsupported.into());
        }
        if sectors > most {
            return Err(Status::IoError.into());
        }
        let len = u64::from(sectors) * SECTOR;
        ranges.push(Range {
            offset: disk.bytes_at(sector, len)?,
            len,
            unmap: flags & UNMAP != 0,
        });
    }
    Ok(ranges)
}
