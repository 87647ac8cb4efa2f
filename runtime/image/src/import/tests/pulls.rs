//! Pulls from a registry in memory; layers that lean on others.

use std::collections::HashMap;
use std::io::Read;
use std::sync::{Condvar, Mutex};
use std::time::Duration;

use bulkhead_erofs::read::Image as Erofs;

use super::*;

/// A repository in memory.
#[derive(Default)]
pub(super) struct Memory {
    tag: Vec<u8>,
    blobs: HashMap<Digest, Vec<u8>>,
    /// Blobs that are not given out until another one was asked for.
    after: HashMap<Digest, Digest>,
    asked: Mutex<Vec<Digest>>,
    changed: Condvar,
}

impl Memory {
    /// The first image of an index.
    pub(super) fn of(parts: &Parts) -> Self {
        let blobs = parts.blobs.iter();
        let blobs: HashMap<_, _> = blobs.map(|it| (Digest::of(it), it.clone())).collect();
        let top: Digest = parts.index[0]["digest"].as_str().unwrap().parse().unwrap();
        Self {
            tag: blobs[&top].clone(),
            blobs,
            ..Self::default()
        }
    }

    pub(super) fn pull(
        &self,
        bench: &Bench,
        name: &str,
        layers_at_once: usize,
    ) -> Result<ImportReport> {
        let reference = Reference::parse(name).unwrap();
        let options = PullOptions { layers_at_once };
        bench.store.pull(&reference, self, options, &|_| {})
    }
}

impl Repository for Memory {
    fn tagged(&self, _tag: &str, _limit: u64) -> Result<(Digest, Vec<u8>)> {
        Ok((Digest::of(&self.tag), self.tag.clone()))
    }

    fn by_digest(&self, digest: &Digest, _limit: u64) -> Result<Vec<u8>> {
        Ok(self.blobs[digest].clone())
    }

    fn blob(&self, digest: &Digest, _size: u64) -> Result<Box<dyn Read>> {
        let mut asked = self.asked.lock().unwrap();
        asked.push(*digest);
        self.changed.notify_all();
        if let Some(other) = self.after.get(digest) {
            let (waited, timeout) = self
                .changed
                .wait_timeout_while(asked, Duration::from_secs(60), |asked| {
                    !asked.contains(other)
                })
                .unwrap();
            assert!(!timeout.timed_out(), "nobody asks for {other}");
            drop(waited);
        }
        Ok(Box::new(std::io::Cursor::new(self.blobs[digest].clone())))
    }
}

fn tar(items: impl IntoIterator<Item = Item>) -> Vec<u8> {
    items.into_iter().collect::<Archive>().finish()
}

/// A layer of files in directories that it does not name, with a link to a file of
/// another layer.
fn leaning() -> Vec<u8> {
    tar([
        Item::file("usr/lib/two", "two"),
        Item::hard_link("usr/link", "usr/lib/one"),
    ])
}

fn base(mode: u32) -> Vec<u8> {
    tar([
        Item::dir("usr").mode(mode),
        Item::dir("usr/lib"),
        Item::file("usr/lib/one", format!("of {mode:o}")),
    ])
}

fn image_of(layers: &[&[u8]]) -> Parts {
    let mut parts = Parts::new();
    let layers: Vec<_> = layers.iter().map(|layer| ("", *layer)).collect();
    let manifest = parts.image("amd64", &layers);
    parts.name(manifest, "unused:1");
    parts
}

/// Mode of `/usr`, and what `/usr/link` holds, in the uppermost layer.
fn seen(image: &Image) -> (u16, String) {
    let top = image.layers.last().unwrap();
    let erofs = Erofs::open(std::fs::File::open(&top.erofs_path).unwrap()).unwrap();
    let usr = erofs
        .lookup(&erofs.root().unwrap(), b"usr")
        .unwrap()
        .unwrap();
    let link = erofs.lookup(&usr, b"link").unwrap().unwrap();
    let mut text = String::new();
    erofs
        .content(&link)
        .unwrap()
        .read_to_string(&mut text)
        .unwrap();
    (usr.mode & 0o7777, text)
}

#[test]
fn a_layer_that_leans_is_another_one_on_another_base() {
    let bench = Bench::new();
    let mut ids = Vec::new();
    for mode in [0o700, 0o711] {
        let registry = Memory::of(&image_of(&[&base(mode), &leaning()]));
        let name = format!("registry.test/app:{mode:o}");
        let report = registry.pull(&bench, &name, 3).unwrap();
        let image = &report.images[0];
        assert_eq!(
            seen(image),
            (u16::try_from(mode).unwrap(), format!("of {mode:o}"))
        );
        assert_eq!(image.layers[1].diff_id, Digest::of(&leaning()));
        assert_eq!((report.layers_converted, report.layers_reused), (2, 0));
        // And it is the same one on the same base.
        let report = registry.pull(&bench, &name, 3).unwrap();
        assert_eq!((report.layers_converted, report.layers_reused), (0, 2));
        ids.push(image.id);
    }
    // A restart knows both; what one leaves is not the other's.
    let Bench { dir, store } = bench;
    let path = store.dir().to_owned();
    drop(store);
    let store = Store::open(&path).unwrap();
    assert!(store.problems().is_empty(), "{:?}", store.problems());
    store.remove(&ids[0].to_string()).unwrap();
    let other = store.get(&ids[1]).unwrap();
    assert_eq!(seen(&other).0, 0o711);
    store.remove(&ids[1].to_string()).unwrap();
    assert_eq!(std::fs::read_dir(path.join("layers")).unwrap().count(), 0);
    drop(dir);
}

#[test]
fn who_leans_waits_for_what_is_beneath() {
    let bench = Bench::new();
    let (base, top) = (base(0o700), leaning());
    let mut registry = Memory::of(&image_of(&[&base, &top]));
    // The base comes last.
    registry.after.insert(Digest::of(&base), Digest::of(&top));
    let report = registry.pull(&bench, "registry.test/app:1", 2).unwrap();
    assert_eq!(seen(&report.images[0]).1, "of 700");
}

#[test]
fn what_is_beneath_and_fails_is_told_of() {
    let bench = Bench::new();
    let (base, top) = (base(0o700), leaning());
    let mut registry = Memory::of(&image_of(&[&base, &top]));
    registry.after.insert(Digest::of(&base), Digest::of(&top));
    let damaged = registry.blobs.get_mut(&Digest::of(&base)).unwrap();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    let before = bench.files();
    let error = registry.pull(&bench, "registry.test/app:1", 2).unwrap_err();
    assert!(matches!(error, Error::WrongDigest { .. }), "{error}");
    assert_eq!(bench.files(), before);
}

#[test]
fn two_images_that_lean_on_each_others_layers() {
    // Each has a file in a directory that the other one describes.
    let one = tar([Item::dir("a").mode(0o700), Item::file("b/x", "x")]);
    let two = tar([Item::dir("b").mode(0o701), Item::file("a/y", "y")]);
    let bench = Bench::new();
    std::thread::scope(|scope| {
        for (name, layers) in [("one", [&one[..], &two]), ("two", [&two[..], &one])] {
            let (bench, registry) = (&bench, Memory::of(&image_of(&layers)));
            scope.spawn(move || {
                let name = format!("registry.test/{name}:1");
                registry.pull(bench, &name, 2).unwrap();
            });
        }
    });
    assert_eq!(bench.store.list().len(), 2);
    assert!(bench.store.problems().is_empty());
}

#[test]
fn a_layer_that_claims_any_length_is_refused() {
    let bench = Bench::with(Limits {
        layer_bytes: 1 << 20,
        ..Limits::default()
    });
    let mut parts = Parts::new();
    let layer = layer("x");
    let config = json!({
        "architecture": "amd64", "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": [Digest::of(&layer).to_string()]},
    });
    let config = parts.blob(OCI_CONFIG, config.to_string().into_bytes());
    let mut descriptor = parts.blob(OCI_LAYER, layer);
    descriptor["size"] = json!(1u64 << 40);
    let manifest = parts.manifest(config, vec![descriptor]);
    parts.name(manifest, "unused:1");
    let registry = Memory::of(&parts);
    let error = registry.pull(&bench, "registry.test/app:1", 2).unwrap_err();
    assert!(matches!(error, Error::Limit { .. }), "{error}");
}
