//! Streaming writer of EROFS images from layer tarballs.

#![forbid(unsafe_code)]

mod error;
mod limits;

pub use error::Error;
pub use limits::Limits;

/// Changes whenever the same layer would give other bytes.
pub const WRITER_VERSION: u32 = 1;
