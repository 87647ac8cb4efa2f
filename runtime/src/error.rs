//! The daemon's one error: a kind that is a gRPC code, and a message for an
//! operator. Everything that the crates beneath report becomes one here.

use std::fmt;

/// What kind of failure, in gRPC's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// No such pod, container or image.
    NotFound,
    /// It exists with another content.
    AlreadyExists,
    /// Not in the state that the call needs.
    FailedPrecondition,
    /// The request makes no sense.
    InvalidArgument,
    /// Refused by permissions.
    PermissionDenied,
    /// A bound was reached.
    ResourceExhausted,
    /// A deadline passed.
    DeadlineExceeded,
    /// Not now; a retry may succeed.
    Unavailable,
    /// Not there in this version.
    Unimplemented,
    /// Anything else.
    Internal,
}

/// A failure. Cheap to clone: joined callers all get the same one.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Error {
    kind: Kind,
    message: String,
}

/// Result with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error of the given kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            message: message.into(),
        }
    }

    /// No such thing.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    /// The request makes no sense.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::InvalidArgument, message)
    }

    /// Not in the state that the call needs.
    pub fn precondition(message: impl Into<String>) -> Self {
        Self::new(Kind::FailedPrecondition, message)
    }

    /// Something that should not happen.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(Kind::Internal, message)
    }

    /// What kind of failure this is.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The same failure with what was attempted in front.
    #[must_use]
    pub fn while_(self, attempted: impl fmt::Display) -> Self {
        Self {
            kind: self.kind,
            message: format!("{attempted}: {}", self.message),
        }
    }
}

impl From<bulkhead_sandbox::Error> for Error {
    fn from(error: bulkhead_sandbox::Error) -> Self {
        use bulkhead_sandbox::ErrorKind as From;
        let kind = match error.kind() {
            From::NotFound => Kind::NotFound,
            From::AlreadyExists => Kind::AlreadyExists,
            From::FailedPrecondition | From::SandboxDead => Kind::FailedPrecondition,
            From::InvalidArgument => Kind::InvalidArgument,
            From::PermissionDenied => Kind::PermissionDenied,
            From::ResourceExhausted => Kind::ResourceExhausted,
            From::DeadlineExceeded => Kind::DeadlineExceeded,
            From::Unsupported => Kind::Unimplemented,
            From::Internal => Kind::Internal,
        };
        Self::new(kind, error.to_string())
    }
}

impl From<bulkhead_net::NetError> for Error {
    fn from(error: bulkhead_net::NetError) -> Self {
        use bulkhead_net::NetError as From;
        let kind = match error {
            From::PoolExhausted { .. } | From::NoTapName { .. } => Kind::ResourceExhausted,
            From::PodCidr { .. } | From::Config { .. } => Kind::InvalidArgument,
            From::PoolCollides { .. }
            | From::NotABridge { .. }
            | From::PortTaken { .. }
            | From::PortInUse { .. } => Kind::FailedPrecondition,
            From::NotSetUp | From::Interrupted { .. } => Kind::Unavailable,
            _ => Kind::Internal,
        };
        Self::new(kind, format!("pod network: {error}"))
    }
}

impl From<bulkhead_image::Error> for Error {
    fn from(error: bulkhead_image::Error) -> Self {
        use bulkhead_image::ErrorKind as From;
        let kind = match error.kind() {
            From::NotFound => Kind::NotFound,
            From::Invalid | From::Corrupt => Kind::InvalidArgument,
            From::Limit | From::NoSpace => Kind::ResourceExhausted,
            From::Denied | From::Refused => Kind::PermissionDenied,
            From::Unavailable => Kind::Unavailable,
            From::Internal => Kind::Internal,
        };
        // What kubelet knows such an error by (k8s.io/cri-api, pkg/errors).
        let prefix = match error.kind() {
            From::Unavailable => "RegistryUnavailable: ",
            From::Refused => "SignatureValidationFailed: ",
            _ => "",
        };
        Self::new(kind, format!("{prefix}{error}"))
    }
}

impl From<bulkhead_registry::Error> for Error {
    fn from(error: bulkhead_registry::Error) -> Self {
        crate::images::remote_error(error).into()
    }
}

impl From<crate::store::StoreError> for Error {
    fn from(error: crate::store::StoreError) -> Self {
        let kind = if error.is_full() {
            Kind::ResourceExhausted
        } else {
            Kind::Internal
        };
        Self::new(kind, error.to_string())
    }
}

impl From<bulkhead_streaming::Error> for Error {
    fn from(error: bulkhead_streaming::Error) -> Self {
        use bulkhead_streaming::Error as From;
        let kind = match error {
            From::Full => Kind::ResourceExhausted,
            From::Ports => Kind::InvalidArgument,
            From::Random(_) => Kind::Internal,
        };
        Self::new(kind, format!("streaming: {error}"))
    }
}

impl From<Error> for tonic::Status {
    fn from(error: Error) -> Self {
        use tonic::Code;
        let code = match error.kind {
            Kind::NotFound => Code::NotFound,
            Kind::AlreadyExists => Code::AlreadyExists,
            Kind::FailedPrecondition => Code::FailedPrecondition,
            Kind::InvalidArgument => Code::InvalidArgument,
            Kind::PermissionDenied => Code::PermissionDenied,
            Kind::ResourceExhausted => Code::ResourceExhausted,
            Kind::DeadlineExceeded => Code::DeadlineExceeded,
            Kind::Unavailable => Code::Unavailable,
            Kind::Unimplemented => Code::Unimplemented,
            Kind::Internal => Code::Internal,
        };
        // Statuses travel as HTTP/2 headers, which peers bound (16 KiB by default).
        Self::new(code, shorten(error.message))
    }
}

/// Longest message sent, bytes.
const MESSAGE_MAX: usize = 4096;

fn shorten(mut message: String) -> String {
    if message.len() > MESSAGE_MAX {
        let end = (0..=MESSAGE_MAX)
            .rev()
            .find(|at| message.is_char_boundary(*at))
            .unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_messages_are_cut_between_characters() {
        let error = Error::internal("é".repeat(MESSAGE_MAX));
        let status = tonic::Status::from(error);
        assert!(status.message().len() <= MESSAGE_MAX + '…'.len_utf8());
        assert!(status.message().ends_with("é…"));
    }

    #[test]
    fn attempts_are_put_in_front() {
        let error = Error::not_found("image \"x\" is not there").while_("create container a");
        assert_eq!(
            error.to_string(),
            "create container a: image \"x\" is not there"
        );
        assert_eq!(error.kind(), Kind::NotFound);
    }
}
