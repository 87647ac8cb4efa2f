//! Export: images of the store as one archive that others take in.
//!
//! ```text
//! oci-layout  index.json  blobs/sha256/…      OCI image layout, in a tar archive
//! manifest.json                               the same for `docker load`
//! ```
//!
//! The store keeps file systems, not the archives that they came in. So layers are written
//! anew ([`bulkhead_erofs::export`]), uncompressed: their digests are new ones, and with
//! them those of configuration and manifest. All that a container sees is the same. One
//! image gives the same bytes each time.
//!
//! A tar archive says how long a file is before it comes, and an OCI layout what its
//! digest is: every layer is made twice, the first time only to be hashed. Nothing is
//! written to the store's disk.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bulkhead_erofs::read::Image as Erofs;
use bulkhead_erofs::tar::write::{Header, TarWriter};
use serde_json::{Value, json};

use crate::digest::{Digest, HashingWriter};
use crate::error::{Error, IoContext, Result};
use crate::files;
use crate::image::Image;
use crate::import::{Place, places};
use crate::limits::Limits;
use crate::records::LayerRecord;
use crate::store::{Hold, Store, sum_of};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Told how many bytes of how many are done, of the whole archive; while the layers are
/// hashed, of none yet. What it returns ends the export: nobody wants it any more.
pub type ExportReport<'a> = dyn Fn(u64, u64) -> io::Result<()> + 'a;

impl Store {
    /// Writes an OCI archive of the images that `references` mean to `out`, with all their
    /// names.
    ///
    /// # Errors
    /// As of [`Store::resolve`]; an image is damaged; `out` can't be written, or `report`
    /// says so.
    pub fn export(
        &self,
        references: &[String],
        out: &mut dyn Write,
        report: &ExportReport<'_>,
    ) -> Result<()> {
        let mut holds = Vec::new();
        for reference in references {
            let image = self.resolve(reference)?;
            // What is named twice is there once.
            if holds.iter().all(|hold: &Hold| hold.image().id != image.id) {
                holds.push(self.hold(&image.id)?);
            }
        }
        let mut archive = Archive {
            store: self,
            report,
            documents: BTreeMap::new(),
            layers: BTreeMap::new(),
            index: Vec::new(),
            docker: Vec::new(),
        };
        for hold in &holds {
            archive.add(hold.image())?;
        }
        archive.write(out)
    }

    /// An image's layers as its configuration counts them, the base first.
    fn layers_of(&self, image: &Image) -> Result<Vec<LayerRecord>> {
        let state = self.inner.lock();
        let layer = |place: &Place| {
            let layers = place.keys().into_iter();
            let mut layers = layers.filter_map(|key| state.layers.get(&key));
            let layer = layers.find(|record| place.is(record)).cloned();
            layer.ok_or_else(|| Error::Inconsistent(format!("layer {} is missing", place.diff_id)))
        };
        places(&image.config.diff_ids).iter().map(layer).collect()
    }
}

/// What goes into an archive.
struct Archive<'a> {
    store: &'a Store,
    report: &'a ExportReport<'a>,
    documents: BTreeMap<Digest, Vec<u8>>,
    /// By file: what its archive is.
    layers: BTreeMap<PathBuf, Written>,
    index: Vec<Value>,
    docker: Vec<Value>,
}

/// A blob of the archive.
#[derive(Clone, Copy)]
struct Written {
    digest: Digest,
    size: u64,
}

impl Written {
    /// A descriptor of it (OCI image-spec, descriptor.md).
    fn described(&self, media_type: &str) -> Value {
        json!({ "mediaType": media_type, "digest": self.digest, "size": self.size })
    }
}

impl Archive<'_> {
    fn add(&mut self, image: &Image) -> Result<()> {
        let mut layers = Vec::new();
        let inner = &self.store.inner;
        for record in self.store.layers_of(image)? {
            let file = inner.layer_path(&record);
            let layer = match self.layers.get(&file) {
                Some(layer) => *layer,
                None => {
                    let layer = self.measure(&record, &file)?;
                    self.layers.insert(file, layer);
                    layer
                }
            };
            layers.push(layer);
        }
        let limit = inner.limits.config_bytes;
        let config = files::read_bounded(&inner.blob_path(&image.id), limit)?;
        if Digest::of(&config) != image.id {
            return Err(damaged(&inner.blob_path(&image.id)));
        }
        let config = with_layers(&config, &layers)?;
        let of_config = Written {
            digest: Digest::of(&config),
            size: config.len() as u64,
        };
        let of_layers = layers.iter().map(|layer| layer.described(LAYER));
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": of_config.described(CONFIG),
            "layers": of_layers.collect::<Vec<_>>(),
        });
        let manifest = bytes_of(&manifest)?;
        let of_manifest = Written {
            digest: Digest::of(&manifest),
            size: manifest.len() as u64,
        };
        self.name(image, &of_manifest.described(MANIFEST));
        self.docker.push(json!({
            "Config": name_of(&of_config.digest),
            "RepoTags": image.repo_tags,
            "Layers": layers.iter().map(|layer| name_of(&layer.digest)).collect::<Vec<_>>(),
        }));
        self.documents.insert(of_config.digest, config);
        self.documents.insert(of_manifest.digest, manifest);
        Ok(())
    }

    /// Puts an image into the index: once for each of its names, or without one.
    fn name(&mut self, image: &Image, manifest: &Value) {
        let (os, architecture) = (&image.config.os, &image.config.architecture);
        let mut entry = manifest.clone();
        // What an image doesn't say of itself is not said here either.
        if !os.is_empty() && !architecture.is_empty() {
            entry["platform"] = json!({ "os": os, "architecture": architecture });
        }
        if image.repo_tags.is_empty() {
            self.index.push(entry.clone());
        }
        for name in &image.repo_tags {
            let tag = name.rsplit_once(':').map_or("", |(_, tag)| tag);
            entry["annotations"] = json!({
                "io.containerd.image.name": name,
                "org.opencontainers.image.ref.name": tag,
            });
            self.index.push(entry.clone());
        }
    }

    /// Makes a layer's archive for nobody, to know what it will be. What has decayed must not
    /// go out under a digest that says that it is whole.
    fn measure(&self, record: &LayerRecord, file: &Path) -> Result<Written> {
        let (bytes, sum) = sum_of(file)?;
        if bytes != record.erofs_bytes || record.checksum.is_some_and(|written| written != sum) {
            return Err(damaged(file));
        }
        let nowhere = Told {
            out: io::sink(),
            report: &|_| (self.report)(0, 0),
            done: 0,
        };
        let out = export(file, HashingWriter::new(nowhere), &self.store.inner.limits)?;
        let (digest, size) = out.finish();
        Ok(Written { digest, size })
    }

    /// The archive's small files.
    fn files(&self) -> Result<Vec<(String, Vec<u8>)>> {
        let layout = json!({ "imageLayoutVersion": "1.0.0" });
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": self.index });
        let mut files = vec![
            ("oci-layout".to_owned(), bytes_of(&layout)?),
            ("index.json".to_owned(), bytes_of(&index)?),
            ("manifest.json".to_owned(), bytes_of(&json!(self.docker))?),
        ];
        let blobs = self.documents.iter();
        files.extend(blobs.map(|(digest, bytes)| (name_of(digest), bytes.clone())));
        Ok(files)
    }

    fn write(self, out: &mut dyn Write) -> Result<()> {
        let documents = self.files()?;
        // Two of the store's layers may be one archive.
        let layers = self.layers.iter().map(|it| (it.1.digest, it));
        let layers: BTreeMap<Digest, _> = layers.collect();
        let small = documents
            .iter()
            .map(|(name, bytes)| (name, bytes.len() as u64));
        let names: Vec<_> = layers.keys().map(name_of).collect();
        let large = names
            .iter()
            .zip(layers.values().map(|(_, layer)| layer.size));
        let total = length(small.chain(large)).map_err(unwanted)?;
        let report = |done| (self.report)(done, total);
        let mut tar = TarWriter::new(Told {
            out,
            report: &report,
            done: 0,
        });
        for (name, bytes) in &documents {
            tar.file(name, bytes).map_err(unwanted)?;
        }
        for (file, layer) in layers.values() {
            let name = name_of(&layer.digest);
            tar.header(&Header::file(name.as_bytes(), layer.size))
                .map_err(unwanted)?;
            let end = HashingWriter::new(Exact {
                out: &mut tar,
                left: layer.size,
            });
            let end = export(file, end, &self.store.inner.limits)?;
            if end.finish() != (layer.digest, layer.size) {
                return Err(damaged(file));
            }
            tar.pad().map_err(unwanted)?;
        }
        tar.finish().map_err(unwanted)?;
        Ok(())
    }
}

/// How long an archive of files with these names and sizes is.
fn length<'a>(files: impl Iterator<Item = (&'a String, u64)>) -> io::Result<u64> {
    let mut headers = TarWriter::new(io::sink());
    let mut contents = 0;
    for (name, size) in files {
        headers.header(&Header::file(name.as_bytes(), size))?;
        contents += size.next_multiple_of(512);
    }
    headers.end()?;
    Ok(headers.written() + contents)
}

/// Writes the archive of one layer.
fn export<W: Write>(file: &Path, out: W, limits: &Limits) -> Result<W> {
    let opened = File::open(file).at("open", file)?;
    let image = Erofs::open(opened).at("read", file)?;
    bulkhead_erofs::export(&image, out, &limits.erofs).map_err(|error| match error {
        bulkhead_erofs::Error::Write(error) => unwanted(error),
        bulkhead_erofs::Error::Read(error) => Error::io("read", file, error),
        source => Error::Layer {
            layer: file.display().to_string(),
            source,
        },
    })
}

fn damaged(file: &Path) -> Error {
    let file = file.display();
    Error::Inconsistent(format!(
        "{file} is not what was written; `bulkhead image check --repair` takes out what is damaged"
    ))
}

/// Whoever the archive is for does not take it.
fn unwanted(source: io::Error) -> Error {
    Error::Io {
        action: "write",
        path: "the archive".into(),
        source,
    }
}

/// The configuration with other layers in it. All else stays, known here or not.
fn with_layers(config: &[u8], layers: &[Written]) -> Result<Vec<u8>> {
    let mangled = |source| Error::Json {
        what: "the image configuration".into(),
        source,
    };
    let mut config: Value = serde_json::from_slice(config).map_err(mangled)?;
    let diff_ids: Vec<_> = layers.iter().map(|layer| layer.digest).collect();
    match config.get_mut("rootfs").and_then(Value::as_object_mut) {
        Some(rootfs) => drop(rootfs.insert("diff_ids".to_owned(), json!(diff_ids))),
        None => {
            return Err(Error::Inconsistent(
                "its configuration has no layers".into(),
            ));
        }
    }
    bytes_of(&config)
}

fn bytes_of(value: &Value) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|source| Error::Json {
        what: "a document of the archive".into(),
        source,
    })
}

fn name_of(digest: &Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

/// Tells how many bytes went through, and ends with what the report says.
struct Told<'a, W> {
    out: W,
    report: &'a dyn Fn(u64) -> io::Result<()>,
    done: u64,
}

impl<W: Write> Write for Told<'_, W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        (self.report)(self.done)?;
        let n = self.out.write(buf)?;
        self.done += n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

/// Takes so many bytes and no more: a layer that has become longer must not run into what
/// follows it.
struct Exact<W> {
    out: W,
    left: u64,
}

impl<W: Write> Write for Exact<W> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        if buf.len() as u64 > self.left {
            return Err(io::Error::other("a layer has changed"));
        }
        let n = self.out.write(buf)?;
        self.left -= n as u64;
        Ok(n)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
