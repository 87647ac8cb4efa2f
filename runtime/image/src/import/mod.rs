//! Import of images: from files, and from registries ([`pull`]).
//!
//! First the documents are read, which say what there is: names, configuration,
//! layers ([`oci`], [`docker`]). Then each layer that the store does not have is
//! converted ([`layers`], [`layer`]). Then the documents are stored, and last the record
//! that makes the image known. Until then nothing of it can be seen.

mod docker;
mod layer;
mod layers;
mod oci;
mod pull;
mod source;
#[cfg(test)]
mod tests;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use crate::config::ImageConfig;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::files;
use crate::image::Image;
use crate::limits::Limits;
use crate::manifest::{Compression, Platform};
use crate::records::ImageRecord;
use crate::reference::Reference;
use crate::steps;
use crate::store::{Inner, Pin, Store};
pub(crate) use layers::{Place, chain_id, places, stack};
pub use pull::{PullOptions, Repository};
use source::{Blob, Source};

/// What to import, and how.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// The name to give the image, in place of those in the file. Only for a
    /// file that holds one image.
    pub name: Option<String>,
}

/// What an import did.
#[derive(Debug, Clone)]
pub struct ImportReport {
    /// The images that are now in the store.
    pub images: Vec<Arc<Image>>,
    /// Layers that were converted.
    pub layers_converted: usize,
    /// Layers that were here already.
    pub layers_reused: usize,
    /// Bytes of layers read from the file, compressed.
    pub bytes_read: u64,
    /// Bytes of EROFS images written.
    pub bytes_written: u64,
    /// How long it took.
    pub elapsed: Duration,
}

/// Told of every step; from several threads at a time.
pub type Report<'a> = dyn Fn(Progress) + Sync + 'a;

/// A step of an import.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Progress {
    /// An image was found in the file.
    Image {
        /// Its names, or its id where it has none.
        name: String,
        /// How many layers it has.
        layers: usize,
    },
    /// A layer is being converted.
    Layer {
        /// Its place in the image, base first, from 0.
        index: usize,
        /// Its diff id.
        diff_id: Digest,
        /// Compressed bytes read so far.
        done: u64,
        /// Compressed bytes in all.
        total: u64,
    },
    /// A layer is complete.
    LayerDone {
        /// Its place in the image.
        index: usize,
        /// Its diff id.
        diff_id: Digest,
        /// True if it was in the store already.
        reused: bool,
    },
}

impl Store {
    /// Imports every image in `path`: an OCI image layout (a directory), an OCI
    /// archive or a docker archive (a file, plain, gzip or zstd). Layers may be
    /// plain, gzip or zstd. `progress` is called from the importing threads.
    ///
    /// # Errors
    /// No image of the file is there then that was not before, and nothing that
    /// was written for it stays (unless the database itself failed).
    pub fn import(
        &self,
        path: &Path,
        options: &ImportOptions,
        progress: &Report<'_>,
    ) -> Result<ImportReport> {
        let start = Instant::now();
        let result = self.inner.import(path, options, progress);
        self.or_sweep(result).map(|report| ImportReport {
            elapsed: start.elapsed(),
            ..report
        })
    }

    /// Deletes what a failed import left.
    fn or_sweep(&self, result: Result<ImportReport>) -> Result<ImportReport> {
        if result.is_err()
            && let Err(error) = self.inner.sweep(&mut self.inner.lock())
        {
            tracing::warn!(%error, "left-overs of a failed import stay until the next collection");
        }
        result
    }
}

/// An image as its documents describe it.
struct Found {
    names: Vec<Reference>,
    /// Digest of the manifest or index that the name stands for.
    digest: Option<Digest>,
    id: Digest,
    config: Vec<u8>,
    layers: Vec<LayerSource>,
    /// Documents to keep.
    blobs: Vec<(Digest, Vec<u8>)>,
}

/// Counts the documents of an archive's images.
struct Documented {
    limit: u64,
    left: u64,
}

impl Documented {
    fn new(limits: &Limits) -> Self {
        let limit = limits.documents_bytes;
        Self { limit, left: limit }
    }

    fn add(&mut self, found: &Found) -> Result<()> {
        let bytes: usize = found.blobs.iter().map(|(_, bytes)| bytes.len()).sum();
        self.left = self
            .left
            .checked_sub(bytes as u64)
            .ok_or_else(|| Error::Limit {
                what: "the manifests and configurations of all images in one archive".into(),
                limit: self.limit,
                unit: "bytes",
            })?;
        Ok(())
    }
}

/// Where a layer is in the source, and what is known of it.
struct LayerSource {
    name: String,
    /// Digest and size as stored, if the manifest gives them.
    expected: Option<(Digest, u64)>,
    /// As the media type says; otherwise the content shows it.
    compression: Option<Compression>,
}

/// Where layers' bytes come from.
trait Layers: Sync {
    /// Opens a layer at its first byte.
    fn open(&self, layer: &LayerSource) -> Result<Blob>;
}

impl Layers for Source {
    fn open(&self, layer: &LayerSource) -> Result<Blob> {
        let what = || Error::MissingBlob {
            what: format!("layer {:?}", layer.name),
        };
        self.blob(&layer.name)?.ok_or_else(what)
    }
}

#[derive(Default)]
struct Totals {
    read: u64,
    written: u64,
    converted: usize,
    reused: usize,
}

impl Totals {
    fn add(&mut self, other: &Self) {
        self.read += other.read;
        self.written += other.written;
        self.converted += other.converted;
        self.reused += other.reused;
    }
}

impl Inner {
    fn import(
        self: &Arc<Self>,
        path: &Path,
        options: &ImportOptions,
        progress: &Report<'_>,
    ) -> Result<ImportReport> {
        let limits = &self.limits;
        let source = Source::open(path, &self.tmp_dir(), limits)?;
        let index = source.document("index.json", limits.manifest_bytes)?;
        let mut found = match index {
            Some(index) if source.blob("oci-layout")?.is_some() => {
                oci::find(&source, &index, limits)?
            }
            _ => match source.document("manifest.json", limits.manifest_bytes)? {
                Some(manifest) => docker::find(&source, &manifest, limits)?,
                None => {
                    let reason = "neither an OCI image layout (oci-layout, index.json) nor a \
                                  docker archive (manifest.json)";
                    return Err(Error::Format {
                        path: path.to_owned(),
                        reason: reason.into(),
                    });
                }
            },
        };
        if let Some(name) = &options.name {
            rename(&mut found, name, path)?;
        }
        if found.is_empty() {
            let reason = "no image in it".into();
            return Err(Error::Format {
                path: path.to_owned(),
                reason,
            });
        }
        let mut totals = Totals::default();
        // All files first, then all records: what fails, fails for every image.
        let prepared = found
            .iter()
            .map(|image| self.prepare(&source, image, 1, progress, &mut totals))
            .collect::<Result<Vec<_>>>()?;
        let mut images = Vec::new();
        for (record, _pins) in prepared {
            images.push(self.commit_image(record)?);
            steps::reached("image recorded");
        }
        Ok(ImportReport {
            images,
            layers_converted: totals.converted,
            layers_reused: totals.reused,
            bytes_read: totals.read,
            bytes_written: totals.written,
            elapsed: Duration::ZERO,
        })
    }

    /// Brings an image's files into the store. They stay while the pins live.
    fn prepare(
        self: &Arc<Self>,
        source: &dyn Layers,
        found: &Found,
        layers_at_once: usize,
        progress: &Report<'_>,
        totals: &mut Totals,
    ) -> Result<(ImageRecord, Vec<Pin>)> {
        let config = ImageConfig::parse(&found.config)?;
        check_platform(&config)?;
        if config.diff_ids.len() != found.layers.len() {
            return Err(Error::Inconsistent(format!(
                "its manifest has {} layers, its configuration {}",
                found.layers.len(),
                config.diff_ids.len()
            )));
        }
        let name = found
            .names
            .first()
            .map_or_else(|| found.id.to_string(), Reference::to_string);
        progress(Progress::Image {
            name,
            layers: found.layers.len(),
        });

        // From here on nothing of this image is collected until it is known.
        let places = layers::places(&config.diff_ids);
        let mut pins: Vec<_> = places
            .iter()
            .flat_map(layers::Place::keys)
            .map(|key| self.pin(key))
            .collect();
        pins.extend(found.blobs.iter().map(|(digest, _)| self.pin(*digest)));

        let (keys, done) = layers::ensure(
            self,
            source,
            &found.layers,
            &places,
            layers_at_once,
            progress,
        )?;
        totals.add(&done);
        for (digest, bytes) in &found.blobs {
            files::write_durably(&self.blob_path(digest), &self.tmp_dir(), bytes)?;
            steps::reached("blob written");
        }
        let mut record = ImageRecord::new(found.id);
        record.repo_tags = found.names.iter().filter_map(Reference::tagged).collect();
        if let Some(digest) = &found.digest {
            record.repo_digests = found
                .names
                .iter()
                .map(|name| name.with_digest(digest))
                .collect();
        }
        record.layers = layers::stack(&keys);
        record.blobs = found.blobs.iter().map(|(digest, _)| *digest).collect();
        record.imported_at = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |elapsed| elapsed.as_secs());
        Ok((record, pins))
    }
}

/// Gives the one image in a file the name the user wants.
fn rename(found: &mut [Found], name: &str, path: &Path) -> Result<()> {
    let reference = Reference::parse(name).map_err(|source| Error::Reference {
        text: name.chars().take(512).collect(),
        source,
    })?;
    match found {
        [image] => {
            image.names = vec![reference];
            Ok(())
        }
        images => {
            let reason = format!(
                "it holds {} images, so it cannot take one name",
                images.len()
            );
            Err(Error::Format {
                path: path.to_owned(),
                reason,
            })
        }
    }
}

/// Images say in their configuration what they run on, also those that no index
/// chose.
fn check_platform(config: &ImageConfig) -> Result<()> {
    let here = Platform::here();
    let of_image = Platform {
        os: config.os.clone(),
        architecture: config.architecture.clone(),
    };
    let silent = config.os.is_empty() && config.architecture.is_empty();
    if silent || of_image.matches(&here) {
        return Ok(());
    }
    let found = of_image.to_string().chars().take(128).collect();
    Err(Error::Platform {
        wanted: here.to_string(),
        found,
    })
}

/// A repository for images that bring a tag only: `localhost/` and the file's
/// name without its endings.
fn name_from_file(path: &Path) -> Result<String> {
    let file = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let stem = file
        .split('.')
        .next()
        .unwrap_or_default()
        .to_ascii_lowercase();
    let name = format!("localhost/{stem}");
    match Reference::parse(&name) {
        Ok(_) => Ok(name),
        Err(_) => {
            let reason = "it gives its image a tag but no name; give one with --name".into();
            Err(Error::Format {
                path: path.to_owned(),
                reason,
            })
        }
    }
}
