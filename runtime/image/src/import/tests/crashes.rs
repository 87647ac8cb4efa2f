//! A crash at any step, damage on disk, restarts.

use std::fs::File;
use std::os::unix::fs::PermissionsExt as _;

use super::pulls::Memory;
use super::*;

/// What is lost at a crash.
#[derive(Clone, Copy)]
enum Crash {
    /// The process.
    Killed,
    /// And all that was not synced.
    PowerLost,
}

/// Does `body` with a store, and checks what a crash at each of its steps
/// leaves. Returns the steps.
fn crash_at_each_step(bench: &Bench, crash: Crash, body: impl FnOnce()) -> Vec<&'static str> {
    let steps = std::rc::Rc::new(std::cell::RefCell::new(Vec::new()));
    let (dir, seen) = (bench.store.dir().to_owned(), steps.clone());
    let archive = bench.write("again.tar", &simple().archive());
    crate::steps::Disk::follow(&dir);
    crate::steps::watching(
        move |step| {
            seen.borrow_mut().push(step);
            let copy = match crash {
                Crash::Killed => copy_of(&dir),
                Crash::PowerLost => {
                    let copy = tempfile::tempdir().unwrap();
                    crate::steps::Disk::after_power_loss(copy.path());
                    // A commit that returned is durable: what the database itself makes
                    // of a crash amid one is its own tests' concern.
                    let database = "images.redb";
                    std::fs::copy(dir.join(database), copy.path().join(database)).unwrap();
                    copy
                }
            };
            // What a crash amid a write leaves.
            std::fs::create_dir_all(copy.path().join("tmp")).unwrap();
            std::fs::write(copy.path().join("tmp/left-over"), b"x").unwrap();
            sound(copy.path(), step, &archive);
        },
        body,
    );
    steps.take()
}

/// A store is whole, takes the image in, and can be emptied.
fn sound(dir: &Path, step: &str, archive: &Path) {
    let store = Store::open(dir).unwrap();
    let problems = store.problems();
    assert!(problems.is_empty(), "after {step}: {problems:?}");
    let count = |sub: &str| std::fs::read_dir(dir.join(sub)).unwrap().count();
    assert_eq!(count("tmp"), 0);
    for image in store.list() {
        for layer in &image.layers {
            bulkhead_erofs::read::Image::open(File::open(&layer.erofs_path).unwrap()).unwrap();
        }
    }
    store
        .import(archive, &ImportOptions::default(), &|_| {})
        .unwrap();
    for image in store.list() {
        store.remove(&image.id.to_string()).unwrap();
    }
    store.collect().unwrap();
    assert_eq!(
        (count("layers"), count("blobs/sha256")),
        (0, 0),
        "after {step}"
    );
}

const OF_AN_IMPORT: [&str; 5] = [
    "layer written",
    "layer renamed",
    "layer recorded",
    "blob written",
    "image recorded",
];

fn all_of(steps: &[&str], wanted: &[&str]) {
    for step in wanted {
        assert!(steps.contains(step), "{step} in {steps:?}");
    }
}

#[test]
fn a_crash_at_any_step_leaves_a_sound_store() {
    for crash in [Crash::Killed, Crash::PowerLost] {
        let bench = Bench::new();
        let archive = simple().archive();
        let steps = crash_at_each_step(&bench, crash, || drop(bench.import(&archive).unwrap()));
        all_of(&steps, &OF_AN_IMPORT);
        let steps = crash_at_each_step(&bench, crash, || {
            drop(bench.store.remove("registry.test/app:v1").unwrap());
        });
        all_of(&steps, &["image forgotten", "layer forgotten"]);
    }
}

#[test]
fn a_crash_at_any_step_of_a_pull() {
    for crash in [Crash::Killed, Crash::PowerLost] {
        let bench = Bench::new();
        let registry = Memory::of(&simple());
        let steps = crash_at_each_step(&bench, crash, || {
            drop(registry.pull(&bench, "registry.test/app:v1", 1).unwrap());
        });
        all_of(&steps, &OF_AN_IMPORT);
    }
}

#[test]
fn a_crash_at_any_step_of_a_collection() {
    for crash in [Crash::Killed, Crash::PowerLost] {
        let bench = Bench::new();
        let image = bench.import(&simple().archive()).unwrap().images[0].clone();
        // Removed while a pod used it: left to the collection.
        let hold = bench.store.hold(&image.id).unwrap();
        bench.store.remove("registry.test/app:v1").unwrap();
        let copy = copy_of(bench.store.dir());
        drop(hold);
        let store = Store::open(copy.path()).unwrap();
        let bench = Bench { dir: copy, store };
        let steps = crash_at_each_step(&bench, crash, || {
            assert!(bench.store.collect().unwrap() > 0);
        });
        all_of(&steps, &["image forgotten", "layer forgotten"]);
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

/// A layer that two images share is missing: importing one of them mends both.
#[test]
fn one_import_mends_every_image_that_shares_a_layer() {
    let bench = Bench::new();
    let base = layer("base");
    let mut archives = Vec::new();
    for name in ["one", "two"] {
        let mut parts = Parts::new();
        let manifest = parts.image("amd64", &[("+gzip", &base), ("+gzip", &layer(name))]);
        parts.name(manifest, &format!("{name}:1"));
        archives.push(parts.archive());
        bench.import(&parts.archive()).unwrap();
    }
    let shared = bench.store.resolve("one:1").unwrap().layers[0]
        .erofs_path
        .clone();
    let copy = copy_of(bench.store.dir());
    std::fs::remove_file(copy.path().join("layers").join(shared.file_name().unwrap())).unwrap();
    let store = Store::open(copy.path()).unwrap();
    assert_eq!(store.problems().len(), 2);
    let path = bench.write("one.tar", &archives[0]);
    store
        .import(&path, &ImportOptions::default(), &|_| {})
        .unwrap();
    assert!(store.problems().is_empty(), "{:?}", store.problems());
    assert!(store.resolve("two:1").is_ok());
}

/// What a look at everything finds, and what becomes of it.
#[test]
fn decay_is_found_and_taken_out() {
    let bench = Bench::new();
    let archive = simple().archive();
    let image = bench.import(&archive).unwrap().images[0].clone();
    let sound = bench.store.check(false, &|_| ()).unwrap();
    assert_eq!(
        (sound.images, sound.layers, sound.problems.len()),
        (1, 3, 0)
    );
    assert!(sound.bytes_read > image.size_bytes);

    // One bit; the length is as it was.
    let layer = &image.layers[1].erofs_path;
    let mut bytes = std::fs::read(layer).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::set_permissions(layer, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::write(layer, &bytes).unwrap();
    for repair in [false, true] {
        let checked = bench.store.check(repair, &|_| ()).unwrap();
        let [problem] = &checked.problems[..] else {
            panic!("{checked:?}")
        };
        assert!(
            problem.reason.contains("not what was written"),
            "{problem:?}"
        );
        assert_eq!(
            (checked.repaired, checked.images),
            (repair, usize::from(!repair))
        );
    }
    assert_eq!(bench.store.problems().len(), 1);
    // Only what is missing is converted again.
    let report = bench.import(&archive).unwrap();
    assert_eq!((report.layers_converted, report.layers_reused), (1, 2));
    assert!(bench.store.problems().is_empty());
    assert!(
        bench
            .store
            .check(true, &|_| ())
            .unwrap()
            .problems
            .is_empty()
    );
}

/// Without its database, the store has its images still, but for their names.
#[test]
fn a_lost_database_is_made_anew_from_the_files() {
    let bench = Bench::new();
    let archive = simple().archive();
    let id = bench.import(&archive).unwrap().images[0].id;
    let damages: [&dyn Fn(&Path); 3] = [
        &|database| std::fs::remove_file(database).unwrap(),
        &|database| std::fs::write(database, b"no database at all").unwrap(),
        &|database| {
            let whole = std::fs::read(database).unwrap();
            std::fs::write(database, [&whole[..64], &[0xa5; 8192]].concat()).unwrap();
        },
    ];
    for damage in damages {
        let copy = copy_of(bench.store.dir());
        damage(&copy.path().join("images.redb"));
        let store = Store::open(copy.path()).unwrap();
        let [problem] = &store.problems()[..] else {
            panic!("{:?}", store.problems())
        };
        assert!(problem.reason.contains("pull them again"), "{problem:?}");
        let image = store.get(&id).unwrap();
        assert_eq!((image.layers.len(), image.repo_tags.len()), (3, 0));
        let path = bench.write("again.tar", &archive);
        let report = store
            .import(&path, &ImportOptions::default(), &|_| {})
            .unwrap();
        assert_eq!((report.layers_converted, report.layers_reused), (0, 3));
        assert_eq!(store.resolve("registry.test/app:v1").unwrap().id, id);
        assert!(store.check(false, &|_| ()).unwrap().problems.is_empty());
        drop(store);
        // It is told once.
        assert!(Store::open(copy.path()).unwrap().problems().is_empty());
    }
}

/// One layer that can't be read costs that layer, not those beside it.
#[test]
fn a_database_is_made_anew_over_a_layer_that_cannot_be_read() {
    let bench = Bench::new();
    let archive = simple().archive();
    let image = bench.import(&archive).unwrap().images.remove(0);
    let copy = copy_of(bench.store.dir());
    std::fs::remove_file(copy.path().join("images.redb")).unwrap();
    let name = image.layers[1].erofs_path.file_name().unwrap();
    let layer = copy.path().join("layers").join(name);
    std::fs::remove_file(&layer).unwrap();
    std::os::unix::fs::symlink("nowhere", &layer).unwrap();
    let store = Store::open(copy.path()).unwrap();
    assert!(store.get(&image.id).is_none());
    let said = format!("{:?}", store.problems());
    assert!(said.contains(&image.id.to_string()), "{said}");
    store.collect().unwrap();
    let path = bench.write("again.tar", &archive);
    let report = store
        .import(&path, &ImportOptions::default(), &|_| {})
        .unwrap();
    assert_eq!((report.layers_converted, report.layers_reused), (1, 2));
    assert!(store.check(false, &|_| ()).unwrap().problems.is_empty());
}
