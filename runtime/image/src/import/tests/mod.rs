//! Imports of images made by hand: what the tests share.

mod crashes;
mod exports;
mod formats;
mod lifecycle;
mod pulls;
mod refusals;

use std::io::Write;
use std::path::PathBuf;

use bulkhead_erofs::testing::{Archive, Item};
use serde_json::{Value, json};

use super::*;
use crate::image::Image;
use crate::limits::Limits;

const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// An image as parts, to be put together rightly or wrongly.
struct Parts {
    blobs: Vec<Vec<u8>>,
    index: Vec<Value>,
}

impl Parts {
    fn new() -> Self {
        Self {
            blobs: Vec::new(),
            index: Vec::new(),
        }
    }

    fn blob(&mut self, media_type: &str, bytes: Vec<u8>) -> Value {
        let digest = Digest::of(&bytes).to_string();
        let descriptor = json!({"mediaType": media_type, "size": bytes.len(), "digest": digest});
        self.blobs.push(bytes);
        descriptor
    }

    /// Adds an image of these layers (media type suffix, tar) and returns its
    /// manifest's descriptor.
    fn image(&mut self, architecture: &str, layers: &[(&str, &[u8])]) -> Value {
        let diff_ids: Vec<String> = layers
            .iter()
            .map(|(_, tar)| Digest::of(tar).to_string())
            .collect();
        let config = json!({
            "architecture": architecture, "os": "linux",
            "config": {"Cmd": ["/bin/sh"], "Env": ["PATH=/bin"]},
            "rootfs": {"type": "layers", "diff_ids": diff_ids},
        });
        let config = self.blob(OCI_CONFIG, config.to_string().into_bytes());
        let layers: Vec<Value> = layers
            .iter()
            .map(|(suffix, tar)| self.blob(&format!("{OCI_LAYER}{suffix}"), compress(suffix, tar)))
            .collect();
        self.manifest(config, layers)
    }

    fn manifest(&mut self, config: Value, layers: Vec<Value>) -> Value {
        let manifest = json!({
            "schemaVersion": 2, "mediaType": OCI_MANIFEST, "config": config, "layers": layers,
        });
        self.blob(OCI_MANIFEST, manifest.to_string().into_bytes())
    }

    fn index(&mut self, entries: Vec<Value>) -> Value {
        let index = json!({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries});
        self.blob(OCI_INDEX, index.to_string().into_bytes())
    }

    fn name(&mut self, mut descriptor: Value, name: &str) {
        descriptor["annotations"] = json!({"org.opencontainers.image.ref.name": name});
        self.index.push(descriptor);
    }

    fn files(&self) -> Vec<(String, Vec<u8>)> {
        let index = json!({"schemaVersion": 2, "manifests": self.index});
        let mut files = vec![
            (
                "oci-layout".into(),
                br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
            ),
            ("index.json".into(), index.to_string().into_bytes()),
        ];
        for blob in &self.blobs {
            files.push((
                format!("blobs/sha256/{}", Digest::of(blob).hex()),
                blob.clone(),
            ));
        }
        files
    }

    fn archive(&self) -> Vec<u8> {
        self.files()
            .into_iter()
            .map(|(name, data)| Item::file(name, data))
            .collect::<Archive>()
            .finish()
    }
}

fn compress(suffix: &str, data: &[u8]) -> Vec<u8> {
    match suffix {
        "+gzip" => gzip(data),
        "+zstd" => zstd::encode_all(data, 1).unwrap(),
        _ => data.to_vec(),
    }
}

fn gzip(data: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(data).unwrap();
    encoder.finish().unwrap()
}

fn layer(name: &str) -> Vec<u8> {
    let content = name.repeat(20_000);
    [Item::dir("d"), Item::file(format!("d/{name}"), content)]
        .into_iter()
        .collect::<Archive>()
        .finish()
}

/// A store in a directory that goes with it.
struct Bench {
    dir: tempfile::TempDir,
    store: Store,
}

impl Bench {
    fn new() -> Self {
        Self::with(Limits::default())
    }

    fn with(limits: Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open_with(dir.path().join("store"), limits).unwrap();
        Self { dir, store }
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, bytes).unwrap();
        path
    }

    fn import(&self, archive: &[u8]) -> Result<ImportReport> {
        let path = self.write("image.tar", archive);
        self.store.import(&path, &ImportOptions::default(), &|_| {})
    }

    /// Imports what must be refused, and checks that nothing of it stays.
    fn refused(&self, archive: &[u8]) -> Error {
        let before = self.files();
        let error = self.import(archive).unwrap_err();
        assert_eq!(self.files(), before, "{error} left something behind");
        error
    }

    fn files(&self) -> Vec<PathBuf> {
        let mut files = Vec::new();
        let mut todo = vec![self.store.dir().to_owned()];
        while let Some(dir) = todo.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    todo.push(path)
                } else {
                    files.push(path)
                }
            }
        }
        files.sort();
        files
    }
}

fn simple() -> Parts {
    let mut parts = Parts::new();
    let (one, two, three) = (layer("one"), layer("two"), layer("three"));
    let manifest = parts.image("amd64", &[("", &one), ("+gzip", &two), ("+zstd", &three)]);
    parts.name(manifest, "registry.test/app:v1");
    parts
}

fn check_simple(bench: &Bench, report: &ImportReport) {
    let [image] = &report.images[..] else {
        panic!("{report:?}")
    };
    assert_eq!(image.repo_tags, ["registry.test/app:v1"]);
    assert_eq!(image.layers.len(), 3);
    assert_eq!(image.config.cmd, ["/bin/sh"]);
    for (layer, name) in image.layers.iter().zip(["one", "two", "three"]) {
        assert_eq!(layer.diff_id, Digest::of(&self::layer(name)));
        assert_eq!(
            std::fs::metadata(&layer.erofs_path).unwrap().len(),
            layer.erofs_bytes
        );
    }
    assert_eq!(
        image.size_bytes,
        image
            .layers
            .iter()
            .map(|layer| layer.erofs_bytes)
            .sum::<u64>()
    );
    for reference in [
        "registry.test/app:v1".to_owned(),
        image.id.to_string(),
        image.id.hex(),
        image.id.hex()[..12].to_owned(),
        format!("sha256:{}", &image.id.hex()[..12]),
    ] {
        let resolved = bench.store.resolve(&reference).unwrap();
        // A later import of the same is that image again, imported then.
        let resolved = Image {
            imported_at: image.imported_at,
            ..Image::clone(&resolved)
        };
        assert_eq!(resolved, Image::clone(image), "{reference}");
    }
}

/// A copy of a store's directory, as a crash at this moment would leave it.
fn copy_of(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    let status = std::process::Command::new("cp")
        .arg("-a")
        .arg(format!("{}/.", dir.display()))
        .arg(copy.path())
        .status()
        .unwrap();
    assert!(status.success());
    copy
}
