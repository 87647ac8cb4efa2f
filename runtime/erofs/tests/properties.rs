//! Any sequence of entries against a model, and the same bytes each time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;

use bulkhead_erofs::read::Image;
use bulkhead_erofs::tar::EntryKind;
use bulkhead_erofs::testing::{Archive, Item};
use bulkhead_erofs::{Limits, convert, export, fuzz};
use common::{Tree, image_of};
use proptest::prelude::*;

/// What the model knows of a path.
#[derive(Debug, Clone, PartialEq)]
enum Model {
    Dir { mode: u16, opaque: bool },
    File { mode: u16, data: Vec<u8> },
    Link(Vec<u8>),
    Whiteout,
}

#[derive(Debug, Clone)]
enum Op {
    Dir(String, u16),
    File(String, u16, Vec<u8>),
    Symlink(String, String),
    Whiteout(String, String),
    Opaque(String),
}

fn name() -> impl Strategy<Value = String> {
    prop::sample::select(vec!["a", "b", "c", "longer-name", "."]).prop_map(str::to_owned)
}

fn path() -> impl Strategy<Value = String> {
    prop::collection::vec(name(), 1..4).prop_map(|parts| parts.join("/"))
}

fn op() -> impl Strategy<Value = Op> {
    let mode = 0u16..0o10000;
    prop_oneof![
        3 => (path(), mode.clone()).prop_map(|(path, mode)| Op::Dir(path, mode)),
        4 => (path(), mode, prop::collection::vec(any::<u8>(), 0..9000))
            .prop_map(|(path, mode, data)| Op::File(path, mode, data)),
        1 => (path(), "[a-z/.]{1,30}").prop_map(|(path, target)| Op::Symlink(path, target)),
        2 => (path(), name()).prop_map(|(path, name)| Op::Whiteout(path, name)),
        1 => path().prop_map(Op::Opaque),
    ]
}

fn clean(path: &str) -> Option<String> {
    let parts: Vec<&str> = path.split('/').filter(|part| *part != ".").collect();
    (!parts.is_empty()).then(|| parts.join("/"))
}

/// The model: a map of paths. `None` if the sequence must be refused, or steps
/// through a link (which the model does not know).
fn apply(ops: &[Op]) -> Option<BTreeMap<String, Model>> {
    let mut tree = BTreeMap::from([(
        String::new(),
        Model::Dir {
            mode: 0o755,
            opaque: false,
        },
    )]);
    for op in ops {
        let (path, entry) = match op {
            Op::Dir(path, mode) => (
                clean(path),
                Some(Model::Dir {
                    mode: *mode,
                    opaque: false,
                }),
            ),
            Op::File(path, mode, data) => (
                Some(clean(path)?),
                Some(Model::File {
                    mode: *mode,
                    data: data.clone(),
                }),
            ),
            Op::Symlink(path, target) => {
                (Some(clean(path)?), Some(Model::Link(target.clone().into())))
            }
            Op::Whiteout(dir, name) if name == "." => (clean(dir), None),
            Op::Whiteout(dir, name) => {
                let dir = clean(dir).unwrap_or_default();
                (Some(join(&dir, name)), Some(Model::Whiteout))
            }
            Op::Opaque(dir) => (Some(join(&clean(dir).unwrap_or_default(), "x")), None),
        };
        if matches!(op, Op::Whiteout(_, name) if name == ".") {
            return None;
        }
        let path = path.unwrap_or_default();
        // Parents come to be.
        for (at, _) in path.match_indices('/') {
            let parent = &path[..at];
            let implied = |opaque| Model::Dir {
                mode: 0o755,
                opaque,
            };
            match tree.get(parent) {
                None => drop(tree.insert(parent.to_owned(), implied(false))),
                Some(Model::Whiteout) => drop(tree.insert(parent.to_owned(), implied(true))),
                Some(Model::Dir { .. }) => {}
                Some(_) => return None,
            }
        }
        let Some(entry) = entry else {
            let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
            let Some(Model::Dir { opaque, .. }) = tree.get_mut(dir) else {
                return None;
            };
            *opaque = true;
            continue;
        };
        let old = tree.get(&path).cloned();
        let new = match (old, entry) {
            (Some(Model::Dir { mode, .. }), Model::Whiteout) => Model::Dir { mode, opaque: true },
            (Some(other), Model::Whiteout) => other,
            (Some(Model::Dir { opaque, .. }), Model::Dir { mode, .. }) => {
                Model::Dir { mode, opaque }
            }
            (Some(Model::Whiteout), Model::Dir { mode, .. }) => Model::Dir { mode, opaque: true },
            (Some(Model::Dir { .. }), entry) => {
                let below = format!("{path}/");
                tree.retain(|other, _| !other.starts_with(&below));
                entry
            }
            (_, entry) => entry,
        };
        tree.insert(path, new);
    }
    Some(tree)
}

fn join(dir: &str, name: &str) -> String {
    if dir.is_empty() {
        name.to_owned()
    } else {
        format!("{dir}/{name}")
    }
}

fn archive(ops: &[Op]) -> Vec<u8> {
    let item = |op: &Op| match op {
        Op::Dir(path, mode) => Item::dir(path).mode(u32::from(*mode)),
        Op::File(path, mode, data) => Item::file(path, data).mode(u32::from(*mode)),
        Op::Symlink(path, target) => Item::symlink(path, target),
        Op::Whiteout(path, name) => Item::file(format!("{path}/.wh.{name}"), b""),
        Op::Opaque(path) => Item::file(format!("{path}/.wh..wh..opq"), b""),
    };
    ops.iter().map(item).collect::<Archive>().finish()
}

fn modelled(tree: &Tree) -> BTreeMap<String, Model> {
    let model = |file: &common::File| match file.mode & 0o170_000 {
        0o40_000 => Model::Dir {
            mode: file.mode & 0o7777,
            opaque: file.xattrs.contains_key("trusted.overlay.opaque"),
        },
        0o100_000 => Model::File {
            mode: file.mode & 0o7777,
            data: file.data.clone(),
        },
        0o120_000 => Model::Link(file.data.clone()),
        0o20_000 => Model::Whiteout,
        other => panic!("{other:o}"),
    };
    tree.files
        .iter()
        .map(|(path, file)| (path.clone(), model(file)))
        .collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn entries_become_the_tree_they_describe(ops in prop::collection::vec(op(), 0..25)) {
        let tar = archive(&ops);
        if let Some(model) = apply(&ops) {
            let (image, _) = image_of(&tar).unwrap();
            prop_assert_eq!(modelled(&Tree::read(&image)), model.clone());
            prop_assert_eq!(&image, &image_of(&tar).unwrap().0);
            let archive = export(&Image::open(image).unwrap(), Vec::new(), &Limits::default());
            let (again, _) = image_of(&archive.unwrap()).unwrap();
            prop_assert_eq!(modelled(&Tree::read(&again)), model);
        }
    }

    #[test]
    fn any_bytes_are_survived(input in prop::collection::vec(any::<u8>(), 0..3000)) {
        fuzz::archive(&input);
    }

    #[test]
    fn damaged_images_are_survived(input in prop::collection::vec(any::<u8>(), 0..300)) {
        fuzz::image(&input);
    }

    /// A valid archive with bytes changed, checksums mended so that it gets past them.
    #[test]
    fn mutilated_archives_are_survived(
        ops in prop::collection::vec(op(), 1..8),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let mut tar = archive(&ops);
        for (at, value) in changes {
            let at = at.index(tar.len());
            tar[at] = value;
            let block = at / 512 * 512;
            if &tar[block + 257..block + 262] == b"ustar" {
                let header = tar[block..block + 512].as_mut_array().unwrap();
                bulkhead_erofs::testing::checksum(header);
            }
        }
        fuzz::archive(&tar);
    }
}

/// The bytes of one image, for ever: when this fails, either undo the change or
/// raise `WRITER_VERSION` and take the new value.
#[test]
fn golden() {
    let archive: Archive = [
        Item::dir("./").time(1, 0),
        Item::dir("bin").owner(1, 2).time(3, 4),
        Item::file("bin/sh", b"#!".repeat(3000))
            .mode(0o4755)
            .xattr("security.capability", b"cap"),
        Item::hard_link("bin/bash", "bin/sh"),
        Item::symlink("sbin", "bin"),
        Item::new(EntryKind::CharDevice, "null").device(1, 3),
        Item::new(EntryKind::Fifo, "pipe"),
        Item::file(".wh.gone", b""),
        Item::file("bin/.wh..wh..opq", b""),
        Item::file("sparse", b"x")
            .pax("GNU.sparse.map", "100000,1")
            .pax("GNU.sparse.size", "200000"),
    ]
    .into_iter()
    .collect();
    let mut out = std::io::Cursor::new(Vec::new());
    convert(&archive.finish()[..], &mut out, &Default::default()).unwrap();
    let image = out.into_inner();
    common::fsck(&image);
    // FNV-1a, enough to notice a change.
    let hash = image.iter().fold(0xcbf2_9ce4_8422_2325u64, |hash, &byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x100_0000_01b3)
    });
    assert_eq!(
        (bulkhead_erofs::WRITER_VERSION, image.len(), hash),
        (2, 20_480, 0xd234_156c_faa0_326b)
    );
}
