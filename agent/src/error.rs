//! The agent's one error: what kind of failure, of what, and why.
//!
//! Every failure ends as a ttrpc status at the daemon, so an error here is just
//! that: a code the daemon acts on and a sentence an operator reads.

use std::{fmt::Display, io};

use ttrpc::Code;

/// Result of anything in the agent that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure, told as `what: why`.
#[derive(Debug, thiserror::Error)]
#[error("{what}")]
pub struct Error {
    code: Code,
    what: String,
}

impl Error {
    /// An error of the given code; the text says what was attempted and on what.
    pub fn new(code: Code, what: impl Into<String>) -> Self {
        Self {
            code,
            what: what.into(),
        }
    }

    /// The request itself is at fault.
    pub fn invalid(what: impl Into<String>) -> Self {
        Self::new(Code::INVALID_ARGUMENT, what)
    }

    /// The named thing does not exist.
    pub fn not_found(what: impl Into<String>) -> Self {
        Self::new(Code::NOT_FOUND, what)
    }

    /// The request does not fit the state of what it names.
    pub fn precondition(what: impl Into<String>) -> Self {
        Self::new(Code::FAILED_PRECONDITION, what)
    }

    /// The guest could not do it.
    pub fn internal(what: impl Into<String>) -> Self {
        Self::new(Code::INTERNAL, what)
    }

    /// The ttrpc code the daemon sees.
    #[must_use]
    pub fn code(&self) -> Code {
        self.code
    }

    /// The same failure, told as part of something larger.
    #[must_use]
    pub fn within(self, what: impl Display) -> Self {
        Self {
            code: self.code,
            what: format!("{what}: {}", self.what),
        }
    }
}

impl From<Error> for ttrpc::Error {
    fn from(error: Error) -> Self {
        Self::RpcStatus(ttrpc::get_status(error.code, error.what))
    }
}

/// Adds what was attempted to an error that only says why it failed.
pub trait Context<T> {
    /// `what` is evaluated only for a failure.
    ///
    /// # Errors
    /// The failure, with its context.
    fn context<D: Display>(self, what: impl FnOnce() -> D) -> Result<T>;
}

impl<T> Context<T> for io::Result<T> {
    fn context<D: Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|why| {
            let code = match why.kind() {
                io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                    Code::RESOURCE_EXHAUSTED
                }
                _ => Code::INTERNAL,
            };
            Error::new(code, format!("{}: {why}", what()))
        })
    }
}

impl<T> Context<T> for rustix::io::Result<T> {
    fn context<D: Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(io::Error::from).context(what)
    }
}

impl<T> Context<T> for Result<T> {
    fn context<D: Display>(self, what: impl FnOnce() -> D) -> Result<T> {
        self.map_err(|why| why.within(what()))
    }
}
