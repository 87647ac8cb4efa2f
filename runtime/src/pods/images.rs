//! The image store as the lifecycle and the image service use it.

use std::{
    any::Any,
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
};

use async_trait::async_trait;
use bulkhead_image::{
    Checked, Digest, FsInfo, Image, ImportOptions, ImportReport, Problem, Progress, Reference,
    Removed,
};
use bulkhead_registry::AuthConfig;

use crate::error::Result;

/// Keeps an image's layers in place until it is dropped.
pub type ImageHold = Box<dyn Any + Send + Sync>;

/// Where images are. See [`crate::images::NodeImages`], which is the one.
#[async_trait]
pub trait Images: Send + Sync {
    /// The image that a name, digest, id or beginning of an id means. From memory.
    ///
    /// # Errors
    /// [`Kind::NotFound`](crate::Kind::NotFound), or the name makes no sense.
    fn resolve(&self, reference: &str) -> Result<Arc<Image>>;

    /// All images. From memory.
    fn list(&self) -> Vec<Arc<Image>>;

    /// Keeps an image's layers in place, even if the image is removed meanwhile.
    ///
    /// # Errors
    /// It is not there.
    fn hold(&self, id: &Digest) -> Result<ImageHold>;

    /// Removes an image with all its names.
    ///
    /// # Errors
    /// It is not there, or the disk failed.
    async fn remove(&self, reference: &str) -> Result<Removed>;

    /// Deletes what no image and no hold needs. Once, after pods were adopted.
    ///
    /// # Errors
    /// The disk failed.
    async fn collect(&self) -> Result<u64>;

    /// Use of the image file system.
    ///
    /// # Errors
    /// The disk failed.
    async fn fs_info(&self) -> Result<FsInfo>;

    /// What is damaged and was set aside.
    fn problems(&self) -> Vec<Problem>;

    /// Imports an archive or layout, saying on the way what is being done.
    ///
    /// # Errors
    /// What is wrong with it; the store is as before.
    async fn import(
        &self,
        path: PathBuf,
        options: ImportOptions,
        progress: Box<dyn Fn(Progress) + Send + Sync>,
    ) -> Result<ImportReport>;

    /// Pulls an image from its registry, or a mirror of it, saying on the way what is being
    /// done.
    ///
    /// # Errors
    /// No server gave it, or what it gave can't be used; the image is as before.
    async fn pull(
        &self,
        reference: Reference,
        auth: Option<AuthConfig>,
        progress: Box<dyn Fn(Progress) + Send + Sync>,
    ) -> Result<Arc<Image>>;

    /// Writes an archive of images to `out`. `report` is told how many bytes of how many are
    /// done, and ends the export with an error.
    ///
    /// # Errors
    /// One is not there, or is damaged; `out` takes no more, or the report's.
    async fn export(
        &self,
        images: Vec<String>,
        out: Box<dyn Write + Send>,
        report: Box<dyn Fn(u64, u64) -> io::Result<()> + Send + Sync>,
    ) -> Result<()>;

    /// Reads all that is there, and with `repair` takes out what is damaged.
    ///
    /// # Errors
    /// The disk failed.
    async fn check(
        &self,
        repair: bool,
        progress: Box<dyn for<'a> Fn(&'a str) + Send + Sync>,
    ) -> Result<Checked>;
}
