//! The on-disk structures that are written. Little-endian throughout.
//!
//! Source: Linux fs/erofs/erofs_fs.h and Documentation/filesystems/erofs.rst.

/// Block size. 4096 works on every kernel and architecture.
pub(crate) const BLOCK: usize = 4096;
/// Block size as an exponent of 2.
const BLOCK_BITS: u8 = 12;
/// Inodes lie at multiples of this; their numbers count in it.
pub(crate) const SLOT: u64 = 32;
/// Bytes of an extended inode, the only form written.
pub(crate) const INODE_SIZE: usize = 64;
/// Bytes of a directory entry without its name.
pub(crate) const DIRENT_SIZE: usize = 12;
/// Longest name.
pub(crate) const NAME_MAX: usize = 255;
/// A chunk that is a hole.
pub(crate) const HOLE: u32 = u32::MAX;

const SUPER_OFFSET: usize = 1024;
const MAGIC: u32 = 0xE0F5_E1E2;
/// Checksum of the superblock; extended inodes carry the modification time.
const COMPAT_SB_CHKSUM: u32 = 1;
const COMPAT_MTIME: u32 = 2;
const INCOMPAT_CHUNKED_FILE: u32 = 4;

/// Where an inode's content is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Layout {
    /// In one run of blocks.
    Plain = 0,
    /// Whole blocks in one run, the tail right after the inode.
    Inline = 2,
    /// In chunks that a table after the inode points to.
    Chunks = 4,
}

impl Layout {
    /// From `i_format` of an extended inode.
    pub(crate) fn decode(format: u16) -> Option<Self> {
        match format {
            1 => Some(Self::Plain),
            5 => Some(Self::Inline),
            9 => Some(Self::Chunks),
            _ => None,
        }
    }
}

/// `erofs_inode_extended`.
pub(crate) struct DiskInode {
    pub(crate) layout: Layout,
    /// Bytes of extended attributes after the inode, with their header.
    pub(crate) xattr_size: usize,
    /// `st_mode`.
    pub(crate) mode: u16,
    pub(crate) size: u64,
    /// First block, device number, or chunk format.
    pub(crate) union: u32,
    /// Number for 32-bit `stat`.
    pub(crate) number: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) links: u32,
}

impl DiskInode {
    pub(crate) fn encode(&self) -> [u8; INODE_SIZE] {
        // The count is of 4-byte units past the header's 12 bytes, plus 1.
        let units = match self.xattr_size {
            0 => 0,
            size => u16::try_from((size - 12) / 4 + 1).unwrap_or(u16::MAX),
        };
        let mut out = [0; INODE_SIZE];
        put(&mut out, 0, &(1 | (self.layout as u16) << 1).to_le_bytes());
        put(&mut out, 2, &units.to_le_bytes());
        put(&mut out, 4, &self.mode.to_le_bytes());
        put(&mut out, 8, &self.size.to_le_bytes());
        put(&mut out, 16, &self.union.to_le_bytes());
        put(&mut out, 20, &self.number.to_le_bytes());
        put(&mut out, 24, &self.uid.to_le_bytes());
        put(&mut out, 28, &self.gid.to_le_bytes());
        put(&mut out, 32, &self.mtime.0.to_le_bytes());
        put(&mut out, 40, &self.mtime.1.to_le_bytes());
        put(&mut out, 44, &self.links.to_le_bytes());
        out
    }
}

/// What the superblock says.
pub(crate) struct Super {
    pub(crate) root_slot: u16,
    pub(crate) inodes: u64,
    pub(crate) blocks: u32,
    /// Block where slot 0 is.
    pub(crate) meta_block: u32,
    pub(crate) uuid: [u8; 16],
    pub(crate) has_chunks: bool,
}

impl Super {
    /// The first block of the image.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        let out = &mut block[SUPER_OFFSET..];
        put(out, 0, &MAGIC.to_le_bytes());
        put(out, 8, &(COMPAT_SB_CHKSUM | COMPAT_MTIME).to_le_bytes());
        out[12] = BLOCK_BITS;
        put(out, 14, &self.root_slot.to_le_bytes());
        put(out, 16, &self.inodes.to_le_bytes());
        put(out, 36, &self.blocks.to_le_bytes());
        put(out, 40, &self.meta_block.to_le_bytes());
        put(out, 48, &self.uuid);
        let incompat = if self.has_chunks {
            INCOMPAT_CHUNKED_FILE
        } else {
            0
        };
        put(out, 80, &incompat.to_le_bytes());
        let checksum = crc32c(out);
        put(out, 4, &checksum.to_le_bytes());
        block
    }
}

impl Super {
    /// What the first block of an image says; none where it is not one of ours.
    pub(crate) fn decode(block: &[u8]) -> Option<Self> {
        let block = block.get(SUPER_OFFSET..BLOCK)?;
        let u32_at = |at: usize| Some(u32::from_le_bytes(block.get(at..at + 4)?.try_into().ok()?));
        let incompat = u32_at(80)?;
        let ours = u32_at(0)? == MAGIC
            && block.get(12) == Some(&BLOCK_BITS)
            && incompat & !INCOMPAT_CHUNKED_FILE == 0;
        ours.then_some(Self {
            root_slot: u16::from_le_bytes(block.get(14..16)?.try_into().ok()?),
            inodes: u64::from_le_bytes(block.get(16..24)?.try_into().ok()?),
            blocks: u32_at(36)?,
            meta_block: u32_at(40)?,
            uuid: block.get(48..64)?.try_into().ok()?,
            has_chunks: incompat != 0,
        })
    }
}

/// A directory entry's header; `name_offset` counts from its block's start.
pub(crate) fn dirent(slot: u32, name_offset: u16, file_type: u8) -> [u8; DIRENT_SIZE] {
    let mut out = [0; DIRENT_SIZE];
    put(&mut out, 0, &u64::from(slot).to_le_bytes());
    put(&mut out, 8, &name_offset.to_le_bytes());
    out[10] = file_type;
    out
}

/// Linux's encoding of device numbers for disks: 12 bits major, 20 bits minor.
pub(crate) fn device_number(major: u64, minor: u64) -> Option<u32> {
    let major = u32::try_from(major).ok().filter(|major| *major < 1 << 12)?;
    let minor = u32::try_from(minor).ok().filter(|minor| *minor < 1 << 20)?;
    Some(minor & 0xff | major << 8 | (minor & !0xff) << 12)
}

/// Major and minor number of a device, from [`device_number`].
pub(crate) fn device_numbers(device: u32) -> (u32, u32) {
    (device >> 8 & 0xfff, device & 0xff | device >> 12 & 0xf_ff00)
}

fn put(out: &mut [u8], at: usize, bytes: &[u8]) {
    out[at..at + bytes.len()].copy_from_slice(bytes);
}

/// CRC-32C, not inverted at the end, as the kernel's `crc32c(~0, …)`.
fn crc32c(bytes: &[u8]) -> u32 {
    bytes.iter().fold(!0, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| {
            let carry = crc & 1;
            crc >> 1 ^ (0x82F6_3B78 * carry)
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn crc_of_the_standard_check_value() {
        assert_eq!(!crc32c(b"123456789"), 0xE306_9283);
    }

    #[test]
    fn device_numbers() {
        assert_eq!(device_number(0, 0), Some(0));
        assert_eq!(device_number(8, 1), Some(0x801));
        assert_eq!(device_number(259, 70_000), Some(0x1111_0370));
        assert_eq!(device_number(4096, 0), None);
        assert_eq!(device_number(0, 1 << 20), None);
    }
}
