//! Why a layer could not become a file system.

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
}

impl Error {
    /// The input/output error behind this one, if any.
    pub fn io_error(&self) -> Option<&io::Error> {
        match self {
            Self::Read(error) | Self::Write(error) => Some(error),
        }
    }

    /// Whether a bound of [`crate::Limits`] was exceeded.
    pub fn is_limit(&self) -> bool {
        false
    }
}
