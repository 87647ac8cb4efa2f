//! Pull: an import from a repository of a registry.
//!
//! ```text
//! name ─► manifest or index ─► … ─► manifest ─► configuration
//!                                     └► layers, several at a time ─► layer::ensure
//! ```
//!
//! What a name stands for is believed; everything below it is checked by the digest
//! that led to it. A layer that is here is not fetched.

use std::io::Read;
use std::sync::Arc;
use std::time::Instant;

use super::oci::{self, Documents, Kind};
use super::source::{Blob, check_whole};
use super::{Found, ImportReport, LayerSource, Layers, Report, Totals};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::manifest::Descriptor;
use crate::reference::Reference;
use crate::steps;
use crate::store::{Inner, Store};

/// Where an image is pulled from. Blocks, as all of this crate does.
pub trait Repository: Sync {
    /// What a tag stands for: the digest and the bytes of a manifest or an index, of at
    /// most `limit` bytes.
    ///
    /// # Errors
    /// [`Error::Remote`].
    fn tagged(&self, tag: &str, limit: u64) -> Result<(Digest, Vec<u8>)>;

    /// Whether the image of a manifest or an index may be pulled at all.
    ///
    /// # Errors
    /// [`Error::Remote`]: it may not.
    fn approve(&self, digest: &Digest) -> Result<()> {
        let _ = digest;
        Ok(())
    }

    /// A manifest or an index by its digest.
    ///
    /// # Errors
    /// [`Error::Remote`].
    fn by_digest(&self, digest: &Digest, limit: u64) -> Result<Vec<u8>>;

    /// A blob from its first byte on; at most `size` bytes. Its errors may hold an
    /// [`Error::Remote`] ([`Error::into_io`]).
    ///
    /// # Errors
    /// [`Error::Remote`].
    fn blob(&self, digest: &Digest, size: u64) -> Result<Box<dyn Read>>;
}

/// How an image is pulled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PullOptions {
    /// Layers that are fetched and converted at the same time.
    pub layers_at_once: usize,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self { layers_at_once: 3 }
    }
}

impl Store {
    /// Pulls the image that `reference` names in `repository`, in its variant for this
    /// machine. `progress` is called from several threads.
    ///
    /// # Errors
    /// The image is not there then, unless it was before, and nothing that was written
    /// for it stays.
    pub fn pull(
        &self,
        reference: &Reference,
        repository: &dyn Repository,
        options: PullOptions,
        progress: &Report<'_>,
    ) -> Result<ImportReport> {
        let start = Instant::now();
        let result = self.inner.pull(reference, repository, options, progress);
        self.or_sweep(result).map(|report| ImportReport {
            elapsed: start.elapsed(),
            ..report
        })
    }
}

impl Inner {
    fn pull(
        self: &Arc<Self>,
        reference: &Reference,
        repository: &dyn Repository,
        options: PullOptions,
        progress: &Report<'_>,
    ) -> Result<ImportReport> {
        let limit = self.limits.manifest_bytes;
        let (digest, bytes) = match (reference.digest(), reference.tag()) {
            (Some(digest), _) => (*digest, repository.by_digest(digest, limit)?),
            (None, tag) => repository.tagged(tag.unwrap_or("latest"), limit)?,
        };
        repository.approve(&digest)?;
        let top = Descriptor::of_manifest(digest, bytes.len() as u64);
        let remote = Remote {
            repository,
            top: (digest, bytes),
        };
        let found = Found {
            names: vec![reference.clone()],
            ..oci::find_one(&remote, top, &self.limits)?
        };
        let mut totals = Totals::default();
        let at_once = options.layers_at_once;
        let (record, _pins) = self.prepare(&remote, &found, at_once, progress, &mut totals)?;
        let image = self.commit_image(record)?;
        steps::reached("image recorded");
        Ok(ImportReport {
            images: vec![image],
            layers_converted: totals.converted,
            layers_reused: totals.reused,
            bytes_read: totals.read,
            bytes_written: totals.written,
            elapsed: std::time::Duration::ZERO,
        })
    }
}

/// A repository, and what the name that is pulled stands for in it.
struct Remote<'a> {
    repository: &'a dyn Repository,
    top: (Digest, Vec<u8>),
}

impl Documents for Remote<'_> {
    fn verified(&self, digest: &Digest, size: u64, limit: u64, kind: Kind) -> Result<Vec<u8>> {
        let what = || format!("blob {digest}");
        if size > limit {
            return Err(Error::Limit {
                what: what(),
                limit,
                unit: "bytes",
            });
        }
        let bytes = match kind {
            Kind::Manifest if *digest == self.top.0 => self.top.1.clone(),
            Kind::Manifest => self.repository.by_digest(digest, limit)?,
            Kind::Config => {
                let mut bytes = Vec::new();
                let blob = self.repository.blob(digest, size)?;
                let read = blob.take(limit).read_to_end(&mut bytes);
                read.map_err(|error| match Error::of_download(error) {
                    Ok(error) => error,
                    Err(source) => Error::io("read", what(), source),
                })?;
                bytes
            }
        };
        check_whole(digest, size, &bytes)?;
        Ok(bytes)
    }
}

impl Layers for Remote<'_> {
    fn open(&self, layer: &LayerSource) -> Result<Blob> {
        let (digest, size) = layer.expected.ok_or_else(|| Error::MissingBlob {
            what: format!("layer {:?}", layer.name),
        })?;
        Ok(Blob {
            size,
            reader: self.repository.blob(&digest, size)?,
        })
    }
}
