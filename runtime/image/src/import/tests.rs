//! Imports of images made by hand: good ones in every form, and bad ones.

use std::io::Write;
use std::path::PathBuf;

use bulkhead_erofs::testing::{Archive, Item};
use serde_json::{Value, json};

use super::*;
use crate::error::ErrorKind;
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
        assert_eq!(
            bench.store.resolve(&reference).unwrap(),
            *image,
            "{reference}"
        );
    }
}

#[test]
fn oci_layouts_in_every_wrapping() {
    let parts = simple();
    let archive = parts.archive();
    for bytes in [
        archive.clone(),
        gzip(&archive),
        zstd::encode_all(&archive[..], 1).unwrap(),
    ] {
        let bench = Bench::new();
        let report = bench.import(&bytes).unwrap();
        check_simple(&bench, &report);
        assert_eq!((report.layers_converted, report.layers_reused), (3, 0));
        let digest = report.images[0].repo_digests[0].clone();
        assert!(bench.store.resolve(&digest).is_ok());
        assert!(
            bench
                .store
                .resolve(&digest.replace("app@", "app:other@"))
                .is_ok()
        );
        assert!(
            bench
                .store
                .resolve(&digest.replace("/app", "/other"))
                .is_err()
        );
    }
    let bench = Bench::new();
    for (name, data) in parts.files() {
        bench.write(&format!("layout/{name}"), &data);
    }
    let layout = bench.dir.path().join("layout");
    let report = bench
        .store
        .import(&layout, &ImportOptions::default(), &|_| {})
        .unwrap();
    check_simple(&bench, &report);
}

#[test]
fn docker_archives() {
    let (one, two, three) = (layer("one"), layer("two"), layer("three"));
    let diff_ids: Vec<String> = [&one, &two, &three]
        .map(|tar| Digest::of(tar).to_string())
        .into();
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
    })
    .to_string();
    let config_name = format!("{}.json", Digest::of(config.as_bytes()).hex());
    let manifest = json!([{
        "Config": config_name, "RepoTags": ["registry.test/app:v1"],
        "Layers": ["1/layer.tar", "2/layer.tar", "3/layer.tar"],
    }]);
    // Layers as docker writes them: plain, linked to another one, and (by other
    // tools) compressed.
    let archive: Archive = [
        Item::file("real/layer.tar", &one),
        Item::symlink("1/layer.tar", "../real/layer.tar"),
        Item::file("2/layer.tar", gzip(&two)),
        Item::file("3/layer.tar", &three),
        Item::file(&config_name, &config),
        Item::file("manifest.json", manifest.to_string()),
    ]
    .into_iter()
    .collect();
    let bench = Bench::new();
    let report = bench.import(&archive.finish()).unwrap();
    check_simple(&bench, &report);
    assert!(report.images[0].repo_digests.is_empty());
    assert_eq!(report.images[0].id, Digest::of(config.as_bytes()));
}

#[test]
fn the_variant_for_this_machine_is_taken() {
    let mut parts = Parts::new();
    let (ours, theirs) = (layer("ours"), layer("theirs"));
    let mut other = parts.image("s390x", &[("", &theirs)]);
    other["platform"] = json!({"os": "linux", "architecture": "s390x"});
    let mut here = parts.image("amd64", &[("", &ours)]);
    here["platform"] = json!({"os": "linux", "architecture": "amd64"});
    let mut attestation = parts.image("unknown", &[]);
    attestation["platform"] = json!({"os": "unknown", "architecture": "unknown"});
    let inner = parts.index(vec![attestation, other.clone(), here]);
    let outer = parts.index(vec![inner]);
    parts.name(outer.clone(), "registry.test/multi:1");
    let bench = Bench::new();
    let report = bench.import(&parts.archive()).unwrap();
    assert_eq!(report.images[0].layers[0].diff_id, Digest::of(&ours));
    let digest = outer["digest"].as_str().unwrap();
    assert_eq!(
        report.images[0].repo_digests,
        [format!("registry.test/multi@{digest}")]
    );

    let mut parts = Parts::new();
    let mut other = parts.image("s390x", &[("", &theirs)]);
    parts.name(other.clone(), "x:1");
    let error = bench.refused(&parts.archive());
    assert!(matches!(error, Error::Platform { .. }), "{error}");
    other["platform"] = json!({"os": "linux", "architecture": "s390x"});
    parts.index.clear();
    parts.name(other, "x:1");
    let error = bench.refused(&parts.archive());
    assert!(error.to_string().contains("linux/s390x"), "{error}");
}

#[test]
fn names() {
    let import = |name: Option<&str>, given: Option<&str>, file: &str| {
        let bench = Bench::new();
        let mut parts = Parts::new();
        let manifest = parts.image("amd64", &[]);
        match name {
            Some(name) => parts.name(manifest, name),
            None => parts.index.push(manifest),
        }
        let path = bench.write(file, &parts.archive());
        let options = ImportOptions {
            name: given.map(str::to_owned),
        };
        let report = bench.store.import(&path, &options, &|_| {})?;
        Ok::<_, Error>(report.images[0].repo_tags.clone())
    };
    assert_eq!(
        import(Some("busybox:1"), None, "x").unwrap(),
        ["docker.io/library/busybox:1"]
    );
    assert_eq!(
        import(Some("v1"), None, "app.oci.tar").unwrap(),
        ["localhost/app:v1"]
    );
    assert_eq!(import(None, None, "x").unwrap(), [""; 0]);
    assert_eq!(
        import(None, Some("a/b"), "x").unwrap(),
        ["docker.io/a/b:latest"]
    );
    assert_eq!(
        import(Some("q.io/c:1"), Some("a/b:2"), "x").unwrap(),
        ["docker.io/a/b:2"]
    );
    assert!(matches!(
        import(Some("v1"), None, "-_-.tar"),
        Err(Error::Format { .. })
    ));
    assert!(matches!(
        import(None, Some("A B"), "x"),
        Err(Error::Reference { .. })
    ));
    assert!(matches!(
        import(Some("a:b:c"), None, "x"),
        Err(Error::Reference { .. })
    ));

    let mut parts = simple();
    let second = parts.image("amd64", &[]);
    parts.name(second, "registry.test/second:1");
    let bench = Bench::new();
    assert_eq!(bench.import(&parts.archive()).unwrap().images.len(), 2);
    let path = bench.write("two.tar", &parts.archive());
    let options = ImportOptions {
        name: Some("one".into()),
    };
    assert!(matches!(
        bench.store.import(&path, &options, &|_| {}),
        Err(Error::Format { .. })
    ));
}

#[test]
fn damage_is_found_and_named() {
    let bench = Bench::new();
    let good = simple();
    let archive = good.archive();
    let replaced = |from: &[u8], to: &[u8]| {
        let at = archive
            .windows(from.len())
            .position(|window| window == from)
            .unwrap();
        [&archive[..at], to, &archive[at + from.len()..]].concat()
    };
    // A flipped bit in each blob: plain, gzip and zstd layer, manifest, config.
    for blob in &good.blobs {
        let mut bad = blob.clone();
        let middle = bad.len() / 2;
        bad[middle] ^= 1;
        let error = bench.refused(&replaced(blob, &bad));
        assert!(matches!(error, Error::WrongDigest { .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }
    // A cut-off archive, at many places.
    for part in 1..10 {
        let error = bench.refused(&archive[..archive.len() * part / 10]);
        assert!(
            matches!(error, Error::MissingBlob { .. } | Error::Format { .. }),
            "{part}: {error}"
        );
    }
    // A blob that is not there at all.
    for missing in 2..good.files().len() {
        let mut files = good.files();
        files.remove(missing);
        let archive: Archive = files
            .into_iter()
            .map(|(name, data)| Item::file(name, data))
            .collect();
        let error = bench.refused(&archive.finish());
        assert!(matches!(error, Error::MissingBlob { .. }), "{error}");
    }
    assert_eq!(bench.refused(b"").kind(), ErrorKind::Invalid);
    assert_eq!(
        bench.refused(&vec![b'x'; 10_000]).kind(),
        ErrorKind::Invalid
    );
    assert_eq!(
        bench.refused(&gzip(&archive)[..1000]).kind(),
        ErrorKind::Corrupt
    );
    assert_eq!(
        bench.refused(&Archive::new().finish()).kind(),
        ErrorKind::Invalid
    );
    let missing = bench.store.import(
        Path::new("/nonexistent"),
        &ImportOptions::default(),
        &|_| {},
    );
    assert!(missing.unwrap_err().to_string().contains("/nonexistent"));
    bench.import(&archive).unwrap();
}

#[test]
fn lies_are_found() {
    let bench = Bench::new();
    let tar = layer("x");

    // A size that is not the blob's.
    let mut parts = Parts::new();
    let config = parts.blob(OCI_CONFIG, config_of(&[&tar]).into_bytes());
    let mut wrong = parts.blob(&format!("{OCI_LAYER}+gzip"), gzip(&tar));
    wrong["size"] = json!(5);
    let manifest = parts.manifest(config.clone(), vec![wrong.clone()]);
    parts.name(manifest, "a:1");
    assert!(matches!(
        bench.refused(&parts.archive()),
        Error::WrongSize { .. }
    ));

    // A diff id that is not the content's.
    let mut parts = Parts::new();
    let config = parts.blob(OCI_CONFIG, config_of(&[b"something else"]).into_bytes());
    let good = parts.blob(&format!("{OCI_LAYER}+gzip"), gzip(&tar));
    let manifest = parts.manifest(config.clone(), vec![good.clone()]);
    parts.name(manifest, "a:1");
    let error = bench.refused(&parts.archive());
    assert!(matches!(error, Error::WrongDigest { .. }), "{error}");

    // More layers than diff ids.
    let mut parts = Parts::new();
    let config = parts.blob(OCI_CONFIG, config_of(&[&tar]).into_bytes());
    let good = parts.blob(&format!("{OCI_LAYER}+gzip"), gzip(&tar));
    let manifest = parts.manifest(config.clone(), vec![good.clone(), good.clone()]);
    parts.name(manifest, "a:1");
    assert!(matches!(
        bench.refused(&parts.archive()),
        Error::Inconsistent(_)
    ));

    // gzip that says it is zstd, and the other way round; bytes after the end.
    for (media, bytes) in [
        ("+zstd", gzip(&tar)),
        ("+gzip", zstd::encode_all(&tar[..], 1).unwrap()),
        ("+gzip", [gzip(&tar), b"more".to_vec()].concat()),
    ] {
        let mut parts = Parts::new();
        let config = parts.blob(OCI_CONFIG, config_of(&[&tar]).into_bytes());
        let layer = parts.blob(&format!("{OCI_LAYER}{media}"), bytes);
        let manifest = parts.manifest(config.clone(), vec![layer]);
        parts.name(manifest, "a:1");
        let error = bench.refused(&parts.archive());
        assert!(matches!(error, Error::Decompress { .. }), "{error}");
        assert_eq!(error.kind(), ErrorKind::Corrupt);
    }

    // A layer that is no archive.
    let mut parts = Parts::new();
    let junk = vec![b'j'; 2000];
    let manifest = parts.image("amd64", &[("", &junk)]);
    parts.name(manifest, "a:1");
    assert!(matches!(
        bench.refused(&parts.archive()),
        Error::Layer { .. }
    ));

    // An index that contains itself cannot be made (its digest would have to be
    // known), but a long chain can.
    let mut parts = simple();
    let mut next = parts.index.pop().unwrap();
    for _ in 0..6 {
        next = parts.index(vec![next]);
    }
    parts.name(next, "a:1");
    assert!(matches!(
        bench.refused(&parts.archive()),
        Error::Limit { .. }
    ));
}

fn config_of(layers: &[&[u8]]) -> String {
    let diff_ids: Vec<String> = layers
        .iter()
        .map(|tar| Digest::of(tar).to_string())
        .collect();
    json!({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": diff_ids}})
        .to_string()
}

#[test]
fn bombs_are_stopped() {
    let limits = Limits {
        layer_bytes: 1 << 20,
        archive_bytes: 4 << 20,
        manifest_bytes: 4096,
        config_bytes: 4096,
        archive_entries: 100,
        ..Limits::default()
    };
    let bench = Bench::with(limits);
    let bomb = [Item::file("zeros", vec![0; 2 << 20])]
        .into_iter()
        .collect::<Archive>()
        .finish();
    for suffix in ["+gzip", "+zstd", ""] {
        let mut parts = Parts::new();
        let manifest = parts.image("amd64", &[(suffix, &bomb)]);
        parts.name(manifest, "a:1");
        let error = bench.refused(&parts.archive());
        assert_eq!(error.kind(), ErrorKind::Limit, "{error}");
    }
    let archive_bomb = gzip(&vec![0; 8 << 20]);
    assert_eq!(bench.refused(&archive_bomb).kind(), ErrorKind::Limit);

    let mut parts = simple();
    parts.index[0]["annotations"]["filler"] = json!("x".repeat(5000));
    assert_eq!(bench.refused(&parts.archive()).kind(), ErrorKind::Limit);

    let many: Archive = (0..200).map(|i| Item::file(format!("f{i}"), b"")).collect();
    assert_eq!(bench.refused(&many.finish()).kind(), ErrorKind::Limit);
}

#[test]
fn what_cannot_be_run_is_refused() {
    let bench = Bench::new();
    for media in [
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.v1.tar+gzip+encrypted",
        "application/x-unknown",
    ] {
        let mut parts = Parts::new();
        let config = parts.blob(OCI_CONFIG, config_of(&[b""]).into_bytes());
        let layer = parts.blob(media, Vec::new());
        let manifest = parts.manifest(config, vec![layer]);
        parts.name(manifest, "a:1");
        let error = bench.refused(&parts.archive());
        assert!(matches!(error, Error::MediaType { .. }), "{error}");
    }
}

#[test]
fn layers_are_shared_and_freed() {
    let bench = Bench::new();
    let (base, one, two) = (layer("base"), layer("1"), layer("2"));
    let mut parts = Parts::new();
    let first = parts.image("amd64", &[("+gzip", &base), ("+gzip", &one)]);
    parts.name(first, "r.io/a:1");
    bench.import(&parts.archive()).unwrap();
    let mut parts = Parts::new();
    let second = parts.image("amd64", &[("+gzip", &base), ("+gzip", &two)]);
    parts.name(second, "r.io/b:1");
    let report = bench.import(&parts.archive()).unwrap();
    assert_eq!((report.layers_converted, report.layers_reused), (1, 1));

    let layers = |bench: &Bench| {
        std::fs::read_dir(bench.store.dir().join("layers"))
            .unwrap()
            .count()
    };
    assert_eq!(layers(&bench), 3);
    assert!(bench.store.remove("r.io/a:1").unwrap().freed_bytes > 0);
    assert_eq!(layers(&bench), 2);
    assert!(matches!(
        bench.store.resolve("r.io/a:1"),
        Err(Error::NotFound(_))
    ));
    assert!(bench.store.resolve("r.io/b:1").is_ok());
    bench.store.remove("r.io/b:1").unwrap();
    assert_eq!(layers(&bench), 0);
    assert_eq!(
        std::fs::read_dir(bench.store.dir().join("blobs/sha256"))
            .unwrap()
            .count(),
        0
    );
    assert!(matches!(
        bench.store.remove("r.io/b:1"),
        Err(Error::NotFound(_))
    ));
}

#[test]
fn a_layer_that_occurs_twice_is_stacked_once() {
    let bench = Bench::new();
    let (x, y) = (layer("x"), layer("y"));
    let mut parts = Parts::new();
    let manifest = parts.image("amd64", &[("", &x), ("", &y), ("", &x)]);
    parts.name(manifest, "a:1");
    let report = bench.import(&parts.archive()).unwrap();
    let diff_ids: Vec<Digest> = report.images[0]
        .layers
        .iter()
        .map(|layer| layer.diff_id)
        .collect();
    assert_eq!(diff_ids, [Digest::of(&y), Digest::of(&x)]);
    assert_eq!(report.images[0].config.diff_ids.len(), 3);
}

#[test]
fn tags_move_to_the_newest_image() {
    let bench = Bench::new();
    bench.import(&simple().archive()).unwrap();
    let old = bench.store.resolve("registry.test/app:v1").unwrap();
    let mut parts = Parts::new();
    let manifest = parts.image("amd64", &[]);
    parts.name(manifest, "registry.test/app:v1");
    let new = bench.import(&parts.archive()).unwrap().images[0].clone();
    assert_eq!(
        bench.store.resolve("registry.test/app:v1").unwrap().id,
        new.id
    );
    assert!(bench.store.get(&old.id).unwrap().repo_tags.is_empty());
    // Importing an image again under another name adds the name.
    let path = bench.write("again.tar", &parts.archive());
    let options = ImportOptions {
        name: Some("other:2".into()),
    };
    bench.store.import(&path, &options, &|_| {}).unwrap();
    let both = bench.store.get(&new.id).unwrap();
    assert_eq!(
        both.repo_tags,
        ["docker.io/library/other:2", "registry.test/app:v1"]
    );
    // Removing it by one name removes all of them.
    let removed = bench.store.remove("other:2").unwrap();
    assert_eq!(removed.repo_tags.len(), 2);
    assert_eq!(bench.store.list().len(), 1);
}

#[test]
fn held_images_outlive_their_removal() {
    let bench = Bench::new();
    let image = bench.import(&simple().archive()).unwrap().images[0].clone();
    let hold = bench.store.hold(&image.id).unwrap();
    let second = bench.store.hold(&image.id).unwrap();
    assert_eq!(
        bench
            .store
            .remove("registry.test/app:v1")
            .unwrap()
            .freed_bytes,
        0
    );
    assert!(bench.store.list().is_empty());
    assert!(bench.store.resolve(&image.id.to_string()).is_err());
    bench.store.collect().unwrap();
    assert!(image.layers.iter().all(|layer| layer.erofs_path.exists()));

    // A restarted daemon holds again what its pods use.
    let Bench { dir, store } = bench;
    drop((hold, second));
    drop(store);
    assert!(!image.layers[0].erofs_path.exists());
    drop(dir);

    let bench = Bench::new();
    let image = bench.import(&simple().archive()).unwrap().images[0].clone();
    let hold = bench.store.hold(&image.id).unwrap();
    bench.store.remove(&image.id.to_string()).unwrap();
    let crashed = copy_of(bench.store.dir());
    drop(hold);
    let reopened = Store::open(crashed.path()).unwrap();
    assert!(reopened.list().is_empty());
    let hold = reopened.hold(&image.id).unwrap();
    reopened.collect().unwrap();
    assert!(
        hold.image()
            .layers
            .iter()
            .all(|layer| layer.erofs_path.exists())
    );
    let kept = hold.image().clone();
    drop(hold);
    assert!(kept.layers.iter().all(|layer| !layer.erofs_path.exists()));
}

#[test]
fn imports_at_the_same_time_convert_a_layer_once() {
    let bench = Bench::new();
    let archive = simple().archive();
    let path = bench.write("image.tar", &archive);
    let reports: Vec<ImportReport> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..4)
            .map(|_| {
                scope.spawn(|| {
                    bench
                        .store
                        .import(&path, &ImportOptions::default(), &|_| {})
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap().unwrap())
            .collect()
    });
    assert_eq!(
        reports
            .iter()
            .map(|report| report.layers_converted)
            .sum::<usize>(),
        3
    );
    assert_eq!(
        reports
            .iter()
            .map(|report| report.layers_reused)
            .sum::<usize>(),
        9
    );
    check_simple(&bench, &reports[0]);
}

#[test]
fn removals_do_not_race_imports() {
    let bench = Bench::new();
    let path = bench.write("image.tar", &simple().archive());
    let stop = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                let _ = bench.store.remove("registry.test/app:v1");
            }
        });
        for _ in 0..20 {
            let report = bench
                .store
                .import(&path, &ImportOptions::default(), &|_| {})
                .unwrap();
            assert_eq!(report.images[0].layers.len(), 3);
        }
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    assert!(bench.store.problems().is_empty());
}

#[test]
fn progress_is_told() {
    let bench = Bench::new();
    let path = bench.write("image.tar", &simple().archive());
    let events = std::cell::RefCell::new(Vec::new());
    bench
        .store
        .import(&path, &ImportOptions::default(), &|event| {
            events.borrow_mut().push(event)
        })
        .unwrap();
    let events = events.into_inner();
    assert!(
        matches!(&events[0], Progress::Image { name, layers: 3 } if name == "registry.test/app:v1")
    );
    let done = events
        .iter()
        .filter(|event| matches!(event, Progress::LayerDone { reused: false, .. }));
    assert_eq!(done.count(), 3);
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

/// Does `body` with a store, and checks what a crash at each of its steps
/// leaves. Returns the steps.
fn crash_at_each_step(bench: &Bench, body: impl FnOnce()) -> Vec<&'static str> {
    let steps = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let (dir, seen) = (bench.store.dir().to_owned(), steps.clone());
    let archive = bench.write("again.tar", &simple().archive());
    crate::steps::watching(
        move |step| {
            seen.borrow_mut().push(step);
            let copy = copy_of(&dir);
            // What a crash amid a write leaves.
            std::fs::write(copy.path().join("tmp/left-over"), b"x").unwrap();
            let store = Store::open(copy.path()).unwrap();
            assert!(
                store.problems().is_empty(),
                "after {step}: {:?}",
                store.problems()
            );
            assert_eq!(
                std::fs::read_dir(copy.path().join("tmp")).unwrap().count(),
                0
            );
            for image in store.list() {
                assert!(
                    image.layers.iter().all(|layer| layer.erofs_path.exists()),
                    "after {step}"
                );
            }
            store
                .import(&archive, &ImportOptions::default(), &|_| {})
                .unwrap();
            for image in store.list() {
                store.remove(&image.id.to_string()).unwrap();
            }
            store.collect().unwrap();
            assert_eq!(
                std::fs::read_dir(copy.path().join("layers"))
                    .unwrap()
                    .count(),
                0
            );
            assert_eq!(
                std::fs::read_dir(copy.path().join("blobs/sha256"))
                    .unwrap()
                    .count(),
                0
            );
        },
        body,
    );
    steps.take()
}

#[test]
fn a_crash_at_any_step_leaves_a_sound_store() {
    let bench = Bench::new();
    let archive = simple().archive();
    let steps = crash_at_each_step(&bench, || drop(bench.import(&archive).unwrap()));
    for step in [
        "layer written",
        "layer renamed",
        "layer recorded",
        "blob written",
        "image recorded",
    ] {
        assert!(steps.contains(&step), "{step} in {steps:?}");
    }
    let steps = crash_at_each_step(&bench, || {
        drop(bench.store.remove("registry.test/app:v1").unwrap())
    });
    for step in ["image forgotten", "layer forgotten"] {
        assert!(steps.contains(&step), "{step} in {steps:?}");
    }
}

#[test]
fn damage_in_the_store_is_set_aside_and_mended() {
    let bench = Bench::new();
    let archive = simple().archive();
    let image = bench.import(&archive).unwrap().images[0].clone();
    let mut parts = Parts::new();
    let whole = parts.image("amd64", &[("", &layer("whole"))]);
    parts.name(whole, "whole:1");
    bench.import(&parts.archive()).unwrap();

    let damages: [&dyn Fn(&Path); 3] = [
        &|dir| {
            std::fs::remove_file(
                dir.join("layers")
                    .join(image.layers[1].erofs_path.file_name().unwrap()),
            )
            .unwrap()
        },
        &|dir| {
            let path = dir
                .join("layers")
                .join(image.layers[1].erofs_path.file_name().unwrap());
            std::fs::remove_file(&path).unwrap();
            std::fs::write(&path, b"short").unwrap();
        },
        &|dir| std::fs::write(dir.join("blobs/sha256").join(image.id.hex()), b"{}").unwrap(),
    ];
    for damage in damages {
        let copy = copy_of(bench.store.dir());
        damage(copy.path());
        let store = Store::open(copy.path()).unwrap();
        assert_eq!(store.problems().len(), 1, "{:?}", store.problems());
        assert_eq!(store.list().len(), 1);
        assert!(store.resolve("whole:1").is_ok());
        assert!(store.resolve("registry.test/app:v1").is_err());
        // Import mends it, in place.
        let path = bench.write("mend.tar", &archive);
        store
            .import(&path, &ImportOptions::default(), &|_| {})
            .unwrap();
        assert!(store.problems().is_empty());
        assert_eq!(
            store.resolve("registry.test/app:v1").unwrap().layers.len(),
            3
        );
    }
    // Or it can be removed by its name.
    let copy = copy_of(bench.store.dir());
    damages[0](copy.path());
    let store = Store::open(copy.path()).unwrap();
    store.remove("registry.test/app:v1").unwrap();
    assert!(store.problems().is_empty());
    assert!(store.resolve("whole:1").is_ok());
}

#[test]
fn an_unreadable_record_hides_no_other() {
    let bench = Bench::new();
    bench.import(&simple().archive()).unwrap();
    let copy = copy_of(bench.store.dir());
    let records = crate::records::Records::open(&copy.path().join("images.redb")).unwrap();
    records.put_raw_image(&Digest::of(b"bad").hex(), b"{ not json");
    records.put_raw_image(&Digest::of(b"new").hex(), br#"{"schema":99}"#);
    drop(records);
    let store = Store::open(copy.path()).unwrap();
    assert_eq!(store.list().len(), 1);
    assert_eq!(store.problems().len(), 2, "{:?}", store.problems());
}

#[test]
fn the_store_survives_a_restart() {
    let bench = Bench::new();
    let image = bench.import(&simple().archive()).unwrap().images[0].clone();
    bench.store.set_pinned(&image.id, true).unwrap();
    let Bench { dir, store } = bench;
    let path = store.dir().to_owned();
    assert!(
        matches!(Store::open(&path), Err(Error::Database { .. })),
        "two daemons on one store"
    );
    drop(store);
    let store = Store::open(&path).unwrap();
    let again = store.resolve("registry.test/app:v1").unwrap();
    assert!(again.pinned);
    assert_eq!(
        *again,
        Image {
            pinned: true,
            ..(*image).clone()
        }
    );
    let info = store.fs_info().unwrap();
    assert!(
        info.used_bytes >= again.size_bytes / 2 && info.inodes_used > 5,
        "{info:?}"
    );
    drop(dir);
}
