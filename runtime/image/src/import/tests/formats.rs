//! Good images in every form that is taken.

use super::*;

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
fn progress_is_told() {
    let bench = Bench::new();
    let path = bench.write("image.tar", &simple().archive());
    let events = std::sync::Mutex::new(Vec::new());
    bench
        .store
        .import(&path, &ImportOptions::default(), &|event| {
            events.lock().unwrap().push(event)
        })
        .unwrap();
    let events = events.into_inner().unwrap();
    assert!(
        matches!(&events[0], Progress::Image { name, layers: 3 } if name == "registry.test/app:v1")
    );
    let done = events
        .iter()
        .filter(|event| matches!(event, Progress::LayerDone { reused: false, .. }));
    assert_eq!(done.count(), 3);
}
