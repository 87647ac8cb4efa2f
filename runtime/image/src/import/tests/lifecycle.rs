//! Images sharing layers, moving tags, held, removed, and all of it at once.

use super::*;

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
