//! What can go wrong, in words an operator can act on.

use std::io;
use std::path::{Path, PathBuf};

use crate::digest::{Digest, DigestError};
use crate::reference::ReferenceError;

/// Result of this crate's operations.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The classes a caller tells apart, for example to choose a gRPC code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// No such image.
    NotFound,
    /// The request or the file's kind is wrong: a bad name, an unknown format.
    Invalid,
    /// The content is damaged or is not what its digest says.
    Corrupt,
    /// A bound was exceeded.
    Limit,
    /// A registry wants other credentials, or forbids it.
    Denied,
    /// The node's policy forbids it.
    Refused,
    /// A registry can't be reached, or can't answer now.
    Unavailable,
    /// The disk is full, or a quota or file size limit was hit.
    NoSpace,
    /// The host failed in some other way.
    Internal,
}

/// An error of the image store.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Nothing in the store answers to this reference.
    #[error("image {0:?} is not in the store; import it with `bulkhead image import`")]
    NotFound(String),
    /// A short id fits more than one image.
    #[error("image id prefix {prefix:?} is ambiguous: {first} and {second} begin with it")]
    Ambiguous {
        /// What was asked for.
        prefix: String,
        /// One image it fits.
        first: Digest,
        /// Another one.
        second: Digest,
    },
    /// A reference does not parse.
    #[error("{text:?} is not an image reference: {source}")]
    Reference {
        /// What was given.
        text: String,
        /// Why not.
        source: ReferenceError,
    },
    /// A digest does not parse.
    #[error("in {place}: {source}")]
    Digest {
        /// Where it was found.
        place: String,
        /// Why not.
        source: DigestError,
    },
    /// The file is nothing this store imports.
    #[error("{path}: {reason}")]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A JSON document of the image does not parse.
    #[error("{what} does not parse: {source}")]
    Json {
        /// Which document.
        what: String,
        /// Where and why.
        source: serde_json::Error,
    },
    /// A media type this store does not handle.
    #[error("{what} has the media type {media_type:?}, which is not supported{hint}")]
    MediaType {
        /// Which descriptor.
        what: String,
        /// Its media type.
        media_type: String,
        /// What to do, or empty.
        hint: &'static str,
    },
    /// No manifest for this machine in an index.
    #[error("the image has no manifest for {wanted}; it has {found}")]
    Platform {
        /// `os/architecture` looked for.
        wanted: String,
        /// What the index offers.
        found: String,
    },
    /// The archive names a blob and does not contain it.
    #[error("{what} is missing from the archive; it is incomplete or was cut off")]
    MissingBlob {
        /// Which blob.
        what: String,
    },
    /// Content does not have the digest it should have.
    #[error(
        "{what} has the digest {actual}, but {expected} is expected; the file is damaged or was tampered with"
    )]
    WrongDigest {
        /// Which blob.
        what: String,
        /// As the image says.
        expected: Digest,
        /// As it is.
        actual: Digest,
    },
    /// Content does not have the size it should have.
    #[error("{what} has {actual} bytes, but {expected} are expected")]
    WrongSize {
        /// Which blob.
        what: String,
        /// As the image says.
        expected: u64,
        /// As it is.
        actual: u64,
    },
    /// Manifest and configuration disagree.
    #[error("the image contradicts itself: {0}")]
    Inconsistent(String),
    /// A bound was exceeded.
    #[error("{what} exceeds the limit of {limit} {unit}")]
    Limit {
        /// What is too large.
        what: String,
        /// The bound.
        limit: u64,
        /// In which unit.
        unit: &'static str,
    },
    /// The compressed stream of a layer is damaged or ends early.
    #[error("{layer} cannot be decompressed: {source}")]
    Decompress {
        /// Which layer: by its digest, as the manifest gives it.
        layer: String,
        /// Why.
        source: io::Error,
    },
    /// A compressed archive is damaged or ends early.
    #[error("{path} cannot be decompressed: {source}")]
    Archive {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The layer cannot become a file system.
    #[error("{layer}: {source}")]
    Layer {
        /// Which layer.
        layer: String,
        /// Why.
        source: bulkhead_erofs::Error,
    },
    /// The database of image records failed.
    #[error("image database {path}: {reason}")]
    Database {
        /// The file.
        path: PathBuf,
        /// What it said.
        reason: String,
        /// Whether what is in it can't be read, now or later.
        damaged: bool,
    },
    /// A system call failed.
    #[error("{action} {path}: {source}")]
    Io {
        /// What was attempted, such as "create".
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Images may not take more.
    #[error("no room for images in {path}: {why}; remove some, or `bulkhead image prune`")]
    NoRoom {
        /// The store.
        path: PathBuf,
        /// Which bound, and how much there is.
        why: String,
    },
    /// A helper program failed.
    #[error("{program} failed: {reason}")]
    Program {
        /// Which one.
        program: &'static str,
        /// Exit status and the end of its output.
        reason: String,
    },
    /// A registry did not give what was asked for.
    #[error("{source}")]
    Remote {
        /// The class it is of.
        kind: ErrorKind,
        /// What was tried, and what came of it.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The blocking task was cancelled because the runtime is shutting down.
    #[error("the daemon is shutting down")]
    Cancelled,
}

impl Error {
    /// The class of this error.
    pub fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFound(_) => ErrorKind::NotFound,
            Self::Ambiguous { .. }
            | Self::Reference { .. }
            | Self::Digest { .. }
            | Self::Format { .. }
            | Self::MediaType { .. }
            | Self::Platform { .. } => ErrorKind::Invalid,
            Self::Json { .. }
            | Self::MissingBlob { .. }
            | Self::WrongDigest { .. }
            | Self::WrongSize { .. }
            | Self::Inconsistent(_) => ErrorKind::Corrupt,
            Self::Decompress { source, .. } | Self::Archive { source, .. } => {
                io_kind(source, ErrorKind::Corrupt)
            }
            Self::Limit { .. } => ErrorKind::Limit,
            Self::NoRoom { .. } => ErrorKind::NoSpace,
            Self::Layer { source, .. } => match source.io_error() {
                Some(error) => io_kind(error, ErrorKind::Internal),
                None if source.is_limit() => ErrorKind::Limit,
                None => ErrorKind::Corrupt,
            },
            Self::Io { source, .. } => io_kind(source, ErrorKind::Internal),
            Self::Remote { kind, .. } => *kind,
            Self::Database { .. } | Self::Program { .. } | Self::Cancelled => ErrorKind::Internal,
        }
    }

    /// As an error of a reader's, out of which [`Error::of_download`] takes it again.
    #[must_use]
    pub fn into_io(self) -> io::Error {
        io::Error::other(self)
    }

    /// What [`Error::into_io`] made; any other error as it was.
    pub(crate) fn of_download(error: io::Error) -> Result<Self, io::Error> {
        if !error.get_ref().is_some_and(|inner| inner.is::<Self>()) {
            return Err(error);
        }
        let kind = error.kind();
        match error.into_inner().map(|inner| inner.downcast::<Self>()) {
            Some(Ok(inner)) => Ok(*inner),
            Some(Err(inner)) => Err(io::Error::new(kind, inner)),
            None => Err(kind.into()),
        }
    }

    pub(crate) fn io(action: &'static str, path: impl AsRef<Path>, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.as_ref().to_owned(),
            source,
        }
    }
}

fn io_kind(error: &io::Error, otherwise: ErrorKind) -> ErrorKind {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
            ErrorKind::NoSpace
        }
        _ => otherwise,
    }
}

/// Names what was attempted on which path when a system call fails.
pub(crate) trait IoContext<T> {
    fn at(self, action: &'static str, path: impl AsRef<Path>) -> Result<T>;
}

impl<T> IoContext<T> for io::Result<T> {
    fn at(self, action: &'static str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|source| Error::io(action, path, source))
    }
}

impl<T> IoContext<T> for rustix::io::Result<T> {
    fn at(self, action: &'static str, path: impl AsRef<Path>) -> Result<T> {
        self.map_err(|errno| Error::io(action, path, errno.into()))
    }
}
