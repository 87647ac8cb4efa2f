//! What was imported, given out and taken in elsewhere.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;

use bulkhead_erofs::export;
use bulkhead_erofs::read::Image as Erofs;

use super::*;

fn exported(bench: &Bench, images: &[&str]) -> Result<Vec<u8>> {
    let images: Vec<String> = images.iter().map(ToString::to_string).collect();
    let (mut out, total) = (Vec::new(), std::cell::Cell::new(0));
    let report = |done, of| {
        assert!(done <= of);
        total.set(of);
        Ok(())
    };
    bench.store.export(&images, &mut out, &report)?;
    assert_eq!(out.len() as u64, total.get());
    Ok(out)
}

/// What containers of an image see, and are.
fn seen(image: &Image) -> (Vec<Vec<u8>>, ImageConfig) {
    let tree = |layer: &crate::Layer| {
        let image = Erofs::open(File::open(&layer.erofs_path).unwrap()).unwrap();
        export(&image, Vec::new(), &Default::default()).unwrap()
    };
    let config = ImageConfig {
        diff_ids: Vec::new(),
        ..image.config.clone()
    };
    (image.layers.iter().map(tree).collect(), config)
}

#[test]
fn images_come_back_as_they_went() {
    let from = Bench::new();
    from.import(&simple().archive()).unwrap();
    let mut other = Parts::new();
    // Shares a layer with the first, and has one twice.
    let (one, four) = (layer("one"), layer("four"));
    let manifest = other.image("amd64", &[("+gzip", &one), ("", &four), ("", &one)]);
    other.name(manifest, "registry.test/other:v2");
    from.import(&other.archive()).unwrap();

    let archive = exported(&from, &["registry.test/app:v1", "registry.test/other:v2"]).unwrap();
    let to = Bench::new();
    let report = to.import(&archive).unwrap();
    assert_eq!(report.images.len(), 2);
    assert_eq!(report.layers_converted, 4, "one, two, three, four");
    for name in ["registry.test/app:v1", "registry.test/other:v2"] {
        let (before, after) = (from.store.resolve(name), to.store.resolve(name));
        let (before, after) = (before.unwrap(), after.unwrap());
        assert_eq!(seen(&before), seen(&after), "{name}");
        assert_eq!(before.repo_tags, after.repo_tags);
    }
    // The same from there: an export is as good as what it was made from.
    let again = exported(&to, &["registry.test/app:v1", "registry.test/other:v2"]).unwrap();
    assert!(archive == again, "another archive");
}

#[test]
fn an_image_that_is_named_twice_is_there_once() {
    let bench = Bench::new();
    let image = bench.import(&simple().archive()).unwrap().images.remove(0);
    let id = image.id.to_string();
    let once = exported(&bench, &["registry.test/app:v1"]).unwrap();
    let twice = exported(&bench, &["registry.test/app:v1", &id]).unwrap();
    assert!(once == twice);
    let error = exported(&bench, &["registry.test/none:1"]).unwrap_err();
    assert!(matches!(error, Error::NotFound(_)), "{error}");
}

#[test]
fn docker_finds_what_it_looks_for() {
    let bench = Bench::new();
    bench.import(&simple().archive()).unwrap();
    let archive = exported(&bench, &["registry.test/app:v1"]).unwrap();
    // As an older Docker, which knows of no OCI layouts.
    let mut files = BTreeMap::new();
    let mut tar = bulkhead_erofs::tar::TarReader::new(archive.as_slice());
    while let Some(entry) = tar.next_entry().unwrap() {
        let mut content = Vec::new();
        io::Read::read_to_end(&mut tar, &mut content).unwrap();
        files.insert(String::from_utf8(entry.path).unwrap(), content);
    }
    for gone in ["oci-layout", "index.json"] {
        assert!(files.remove(gone).is_some());
    }
    let files = files.into_iter().map(|(name, data)| Item::file(name, data));
    let to = Bench::new();
    let report = to.import(&files.collect::<Archive>().finish()).unwrap();
    assert_eq!(report.images[0].repo_tags, ["registry.test/app:v1"]);
    let before = bench.store.resolve("registry.test/app:v1").unwrap();
    assert_eq!(seen(&before), seen(&report.images[0]));
}

#[test]
fn layers_that_lean_on_others_stand_alone() {
    let below = [Item::dir("d").owner(5, 6), Item::file("d/a", "content")];
    let below = below.into_iter().collect::<Archive>().finish();
    // `d` is not named, and its file belongs to the layer beneath.
    let above = [Item::hard_link("d/b", "d/a")];
    let above = above.into_iter().collect::<Archive>().finish();
    let mut parts = Parts::new();
    let manifest = parts.image("amd64", &[("", &below), ("", &above)]);
    parts.name(manifest, "registry.test/app:v1");
    let (from, to) = (Bench::new(), Bench::new());
    let before = from.import(&parts.archive()).unwrap().images.remove(0);
    let archive = exported(&from, &["registry.test/app:v1"]).unwrap();
    let after = to.import(&archive).unwrap().images.remove(0);
    assert_eq!(seen(&before), seen(&after));
}

#[test]
fn who_no_longer_wants_it_ends_it() {
    let bench = Bench::new();
    bench.import(&simple().archive()).unwrap();
    let name = ["registry.test/app:v1".to_owned()];
    for after in [0, 1, 5, 12] {
        let calls = std::cell::Cell::new(0);
        let error = bench.store.export(&name, &mut io::sink(), &|_, _| {
            calls.set(calls.get() + 1);
            match calls.get() > after {
                true => Err(io::ErrorKind::BrokenPipe.into()),
                false => Ok(()),
            }
        });
        match error {
            Err(Error::Io { source, .. }) => assert_eq!(source.kind(), io::ErrorKind::BrokenPipe),
            other => panic!("{after}: {other:?}"),
        }
        assert_eq!(calls.get(), after + 1);
    }
    // Nothing is held any more.
    bench.store.remove(&name[0]).unwrap();
    assert!(
        bench
            .files()
            .iter()
            .all(|path| path.ends_with("images.redb"))
    );
}

#[test]
fn images_that_say_little_of_themselves_go_too() {
    // Without a platform, and without a name.
    let mut parts = Parts::new();
    let tar = layer("one");
    let config = json!({"rootfs": {"type": "layers", "diff_ids": [Digest::of(&tar)]}});
    let config = parts.blob(OCI_CONFIG, config.to_string().into_bytes());
    let tar = parts.blob(OCI_LAYER, tar);
    let manifest = parts.manifest(config, vec![tar]);
    parts.index.push(manifest);
    let (from, to) = (Bench::new(), Bench::new());
    let before = from.import(&parts.archive()).unwrap().images.remove(0);
    let archive = exported(&from, &[&before.id.to_string()]).unwrap();
    let after = to.import(&archive).unwrap().images.remove(0);
    assert_eq!(seen(&before), seen(&after));
    assert_eq!(after.repo_tags, Vec::<String>::new());
}

#[test]
fn images_without_names_stay_apart() {
    let bench = Bench::new();
    let ids = ["one", "two"].map(|name| {
        let mut parts = Parts::new();
        let manifest = parts.image("amd64", &[("", &layer(name))]);
        parts.index.push(manifest);
        bench.import(&parts.archive()).unwrap().images[0]
            .id
            .to_string()
    });
    let archive = exported(&bench, &[&ids[0], &ids[1]]).unwrap();
    let report = Bench::new().import(&archive).unwrap();
    assert_eq!(report.images.len(), 2);
}

#[test]
fn what_has_decayed_is_not_given_out() {
    for layer in [true, false] {
        let bench = Bench::new();
        let image = bench.import(&simple().archive()).unwrap().images.remove(0);
        let path = match layer {
            true => image.layers[1].erofs_path.clone(),
            false => bench.store.dir().join("blobs/sha256").join(image.id.hex()),
        };
        let mut bytes = std::fs::read(&path).unwrap();
        // Content, or a word that means nothing here.
        let at = match layer {
            true => bytes.len() / 2,
            false => bytes.iter().position(|byte| *byte == b'P').unwrap(),
        };
        bytes[at] ^= 1;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
        std::fs::set_permissions(&path, mode).unwrap();
        std::fs::write(&path, bytes).unwrap();
        let error = exported(&bench, &["registry.test/app:v1"]).unwrap_err();
        assert!(matches!(error, Error::Inconsistent(_)), "{error}");
        let name = path.file_name().unwrap().to_str().unwrap();
        assert!(error.to_string().contains(name), "{error}");
    }
}
