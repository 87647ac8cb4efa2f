//! The one error of this crate: a kind that maps onto a gRPC code, and a
//! message an operator can act on.

/// What kind of failure; the CRI layer turns it into a gRPC status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ErrorKind {
    /// The thing named does not exist (a program, a container, a sandbox).
    NotFound,
    /// It exists already, with another content.
    AlreadyExists,
    /// Not in the state that the call needs.
    FailedPrecondition,
    /// What was asked for makes no sense.
    InvalidArgument,
    /// Refused by permissions.
    PermissionDenied,
    /// A bound was reached: memory, disk, descriptors, addresses.
    ResourceExhausted,
    /// A deadline passed.
    DeadlineExceeded,
    /// The sandbox has ended.
    SandboxDead,
    /// This host or build cannot do it.
    Unsupported,
    /// Anything else.
    Internal,
}

/// A failure, with what was attempted, on what, and what to do.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: ErrorKind,
    message: String,
    #[source]
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of the given kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
            source: None,
        }
    }

    /// The same error with its cause attached; the cause's text is appended.
    #[must_use]
    pub fn caused_by(
        mut self,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        let source = source.into();
        self.message = format!("{}: {source}", self.message);
        self.source = Some(source);
        self
    }

    /// What kind of failure this is.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}
