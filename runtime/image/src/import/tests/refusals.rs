//! Damaged, lying and oversized images: each refused with a reason, and gone.

use super::*;
use crate::error::ErrorKind;

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
fn documents_of_many_images_are_bounded_together() {
    let mut parts = Parts::new();
    for name in ["one", "two", "three"] {
        let manifest = parts.image("amd64", &[("", &layer(name))]);
        parts.name(manifest, &format!("registry.test/{name}:1"));
    }
    let archive = parts.archive();
    let with = |documents_bytes| {
        Bench::with(Limits {
            documents_bytes,
            ..Limits::default()
        })
    };
    // A manifest and a configuration take less than a KiB each.
    assert_eq!(with(6 << 10).import(&archive).unwrap().images.len(), 3);
    let error = with(1 << 10).refused(&archive);
    assert!(matches!(error, Error::Limit { limit: 1024, .. }), "{error}");
}
