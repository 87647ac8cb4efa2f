//! Why a layer could not become a file system.

use std::fmt;
use std::io;

/// Why a layer could not become a file system.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The layer could not be read.
    #[error("reading the layer: {0}")]
    Read(io::Error),
    /// The image could not be written.
    #[error("writing the image: {0}")]
    Write(io::Error),
    /// A layer beneath, which this one leans on, could not be read.
    #[error("reading a layer beneath it: {0}")]
    Beneath(io::Error),
    /// The archive is malformed.
    #[error("malformed archive at byte {offset}: {fault}")]
    Archive {
        /// Where the header or payload in question begins.
        offset: u64,
        /// What is wrong there.
        fault: ArchiveFault,
    },
    /// The archive is well formed, but an entry cannot be part of a tree.
    #[error("entry {path}: {fault}")]
    Entry {
        /// The entry's name as the archive has it.
        path: Name,
        /// What is wrong with it.
        fault: EntryFault,
    },
    /// A bound of [`crate::Limits`] was exceeded.
    #[error("{what} exceeds the limit of {limit} {unit}")]
    Limit {
        /// What is too large.
        what: &'static str,
        /// The bound.
        limit: u64,
        /// In which unit.
        unit: &'static str,
    },
}

/// What is wrong with an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ArchiveFault {
    /// The stream ends inside a header or a payload.
    #[error("the archive ends in the middle of an entry; it was cut off")]
    Truncated,
    /// The header's checksum is wrong.
    #[error("this is not a tar header (checksum mismatch)")]
    Checksum,
    /// A lone block of zeros.
    #[error("a block of zeros amid the entries")]
    LoneZeroBlock,
    /// A numeric field is no number or out of range.
    #[error("the field {0} is not a valid number")]
    Number(&'static str),
    /// A PAX record is malformed.
    #[error("malformed PAX header")]
    Pax,
    /// A map of a sparse file is malformed or contradicts the sizes.
    #[error("malformed map of a sparse file")]
    Sparse,
    /// A GNU long name or a PAX header that no entry follows.
    #[error("an extended header without an entry")]
    Dangling,
    /// An entry type that is none of POSIX's and GNU's file types.
    #[error("unsupported entry type {:?}", char::from(*.0))]
    Type(u8),
}

/// What is wrong with an entry.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum EntryFault {
    /// A component is longer than 255 bytes.
    #[error("a name in its path is longer than 255 bytes")]
    NameTooLong,
    /// A NUL byte in the name or link target.
    #[error("its name or link target contains a NUL byte")]
    Nul,
    /// The root is given as something else than a directory.
    #[error("the root of the layer must be a directory")]
    RootNotDirectory,
    /// Something above it in this layer is not a directory.
    #[error("{0} above it is not a directory")]
    NotADirectory(Name),
    /// Symbolic links above it lead in a circle.
    #[error("too many symbolic links above it")]
    LinkLoop,
    /// A symbolic or hard link without a target, or with too long a one.
    #[error("its link target is empty or longer than 4095 bytes")]
    LinkTarget,
    /// A hard link to something that is neither in this layer nor beneath it.
    #[error("hard link to {0}, which neither this layer nor one beneath it contains")]
    LinkMissing(Name),
    /// A hard link to a directory.
    #[error("hard link to {0}, which is a directory")]
    LinkToDirectory(Name),
    /// More hard links than file systems take.
    #[error("its file has more than {} hard links", crate::tree::LINKS_MAX)]
    TooManyLinks,
    /// `.wh.`, `.wh..` or `.wh...`.
    #[error("a whiteout of no name")]
    Whiteout,
    /// A device number beyond 12 bits major and 20 bits minor.
    #[error("device number {0}:{1} is out of range")]
    Device(u64, u64),
    /// An owner or group beyond 32 bits.
    #[error("owner or group is out of range")]
    Owner,
    /// An extended attribute with too long a name or value.
    #[error("extended attribute {0} is too long")]
    Xattr(Name),
    /// A file too large for the format.
    #[error("its size of {0} bytes is out of range")]
    Size(u64),
}

/// A name from an archive, for messages: escaped and cut to a sane length.
#[derive(Clone, PartialEq, Eq)]
pub struct Name(String);

impl Name {
    const SHOWN: usize = 256;

    pub(crate) fn new(bytes: &[u8]) -> Self {
        let shown = &bytes[..bytes.len().min(Self::SHOWN)];
        let ellipsis = if bytes.len() > shown.len() { "…" } else { "" };
        Self(format!("\"{}{ellipsis}\"", shown.escape_ascii()))
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Error {
    /// The input/output error behind this one, if any.
    pub fn io_error(&self) -> Option<&io::Error> {
        match self {
            Self::Read(error) | Self::Write(error) | Self::Beneath(error) => Some(error),
            _ => None,
        }
    }

    /// Whether a bound of [`crate::Limits`] was exceeded.
    pub fn is_limit(&self) -> bool {
        matches!(self, Self::Limit { .. })
    }

    pub(crate) fn entry(path: &[u8], fault: EntryFault) -> Self {
        Self::Entry {
            path: Name::new(path),
            fault,
        }
    }
}
