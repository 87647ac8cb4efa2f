//! Images: content store, import and records; scratch disks.
//!
//! Images are never unpacked or mounted on the host. Each layer streams from
//! the file through digest check and decompression into one EROFS image
//! ([`bulkhead_erofs`]), which pods attach as a read-only disk.
//!
//! * [`Store`] keeps images: [`Store::import`], [`Store::pull`], [`Store::resolve`],
//!   [`Store::list`], [`Store::remove`], [`Store::hold`], [`Store::export`].
//! * [`Reference`] is the one parser of image names.
//! * [`ScratchTemplates`] makes pods' writable disks without running mkfs.
//!
//! Everything blocks; [`blocking`] runs it from async code.

#![forbid(unsafe_code)]
// Tests say what they expect by unwrapping it.
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic))]

mod catalog;
pub mod config;
mod decompress;
mod digest;
mod error;
mod export;
mod files;
pub mod fuzz;
mod image;
mod import;
mod limits;
mod manifest;
mod records;
pub mod reference;
pub mod scratch;
mod space;
mod steps;
mod store;

pub use config::ImageConfig;
pub use digest::{Digest, DigestError};
pub use error::{Error, ErrorKind, Result};
pub use export::ExportReport;
pub use image::{Checked, FsInfo, Image, Layer, Problem, Removed};
pub use import::{ImportOptions, ImportReport, Progress, PullOptions, Report, Repository};
pub use limits::Limits;
pub use reference::{Reference, ReferenceError};
pub use scratch::{Scratch, ScratchTemplate, ScratchTemplates};
pub use store::{Hold, Store};

/// Runs a blocking operation of this crate on tokio's blocking threads.
///
/// ```no_run
/// # async fn example(store: bulkhead_image::Store) -> bulkhead_image::Result<()> {
/// let image = bulkhead_image::blocking(move || store.resolve("busybox")).await?;
/// # Ok(()) }
/// ```
///
/// # Errors
/// The operation's, or [`Error::Cancelled`] if the runtime shuts down.
pub async fn blocking<T, F>(operation: F) -> Result<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T> + Send + 'static,
{
    match tokio::task::spawn_blocking(operation).await {
        Ok(result) => result,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        Err(_) => Err(Error::Cancelled),
    }
}
