//! Archives from images: the same file system again, and the same bytes each time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::io;
use std::process::Command;

use bulkhead_erofs::read::Image;
use bulkhead_erofs::tar::EntryKind;
use bulkhead_erofs::testing::{Archive, Item};
use bulkhead_erofs::{Error, Limits, export};
use common::{File, Tree, image_of, tree_of};

fn exported(image: Vec<u8>, limits: &Limits) -> Result<Vec<u8>, Error> {
    export(&Image::open(image).unwrap(), Vec::new(), limits)
}

/// All but where things are in the image; for names of one file, the first of them.
fn compared(tree: Tree) -> BTreeMap<String, (File, String)> {
    let mut first = BTreeMap::new();
    let one = |(path, mut file): (String, File)| {
        let name: &String = first.entry(file.nid).or_insert_with(|| path.clone());
        let name = name.clone();
        file.nid = 0;
        if file.mode & 0xf000 == 0x4000 {
            // Directories are bytes of their own, inode numbers in them.
            file.data.clear();
        }
        (path, (file, name))
    };
    tree.files.into_iter().map(one).collect()
}

fn everything() -> Vec<u8> {
    let deep = (0..40).fold(String::new(), |path, n| format!("{path}directory-{n}/"));
    let items = [
        Item::dir("./").mode(0o700).owner(7, 8).time(9, 10),
        Item::dir("d").mode(0o1777).owner(1, 2).time(3, 4),
        Item::dir("d/hidden"),
        Item::file("d/hidden/.wh..wh..opq", ""),
        Item::file("d/.wh.gone", ""),
        Item::file("d/.wh.-", ""),
        Item::file("d/suid", vec![7; 100_000])
            .mode(0o6755)
            .xattr("user.a=b", "no")
            .xattr("user.x", "y\nz")
            .xattr("security.capability", [1; 20])
            .xattr("system.posix_acl_access", [2; 28]),
        Item::hard_link("a-link", "d/suid"),
        Item::hard_link("z-link", "d/suid"),
        Item::symlink("link", "d/../somewhere/that/is/not"),
        Item::symlink("long", "x/".repeat(1000)),
        Item::hard_link("link-again", "link"),
        Item::new(EntryKind::CharDevice, "null").device(1, 3),
        Item::new(EntryKind::BlockDevice, "disk").device(259, 100_000),
        Item::new(EntryKind::Fifo, "pipe").time(-5, 1),
        Item::file([0xff, 0xfe, b' ', b'\n'], "odd"),
        Item::file(format!("{deep}file"), "deep").owner(u32::MAX.into(), 1 << 31),
        Item::file("empty", ""),
        Item::file("zeros", vec![0; 50_000]),
        Item::file("sparse", "x")
            .pax("GNU.sparse.map", "100000,1")
            .pax("GNU.sparse.size", "200000"),
    ];
    items.into_iter().collect::<Archive>().finish()
}

#[test]
fn an_image_of_the_archive_is_the_image_again() {
    let archive = everything();
    let (image, _) = image_of(&archive).unwrap();
    let again = exported(image.clone(), &Limits::default()).unwrap();
    let (first, second) = (compared(Tree::read(&image)), compared(tree_of(&again)));
    for (path, file) in &first {
        assert_eq!(second.get(path), Some(file), "{path:?}");
    }
    assert_eq!(first.len(), second.len());
    // And that one's archive is the same bytes.
    let (image, _) = image_of(&again).unwrap();
    assert!(exported(image, &Limits::default()).unwrap() == again);
}

#[test]
fn other_programs_read_the_archive() {
    let (image, _) = image_of(&everything()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("layer.tar");
    std::fs::write(&path, exported(image, &Limits::default()).unwrap()).unwrap();
    let listed = Command::new("tar").arg("-tvf").arg(&path).output().unwrap();
    let said = String::from_utf8_lossy(&listed.stdout);
    assert!(
        listed.status.success() && listed.stderr.is_empty(),
        "tar: {}",
        String::from_utf8_lossy(&listed.stderr)
    );
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    for part in [
        "drwx------ 7/8",
        "drwxrwxrwt 1/2",
        "-rwsr-sr-x 0/0 100000",
        " d/suid link to a-link",
        " link-again link to link",
        "brw-r--r-- 0/0 259,100000",
        "d/hidden/.wh..wh..opq",
        "d/.wh.gone",
        "4294967295/2147483648",
    ] {
        assert!(said.contains(part), "no {part:?} in {said}");
    }
}

#[test]
fn bounds() {
    let (image, _) = image_of(&everything()).unwrap();
    let limited = |limits: Limits| match exported(image.clone(), &limits) {
        Err(Error::Limit { what, .. }) => what,
        other => panic!("{other:?}"),
    };
    let with = |change: fn(&mut Limits)| {
        let mut limits = Limits::default();
        change(&mut limits);
        limited(limits)
    };
    assert_eq!(with(|it| it.entries = 20), "the number of entries");
    assert_eq!(
        with(|it| it.data_bytes = 99_999),
        "the content of the files"
    );
    assert_eq!(with(|it| it.path_bytes = 100), "the length of a path");
    assert_eq!(with(|it| it.depth = 10), "the depth of the tree");
    assert_eq!(with(|it| it.metadata_bytes = 100), "the memory for names");
}

#[test]
fn who_cannot_take_it_is_told() {
    struct Full(usize);
    impl io::Write for Full {
        fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
            self.0 = self
                .0
                .checked_sub(buf.len())
                .ok_or(io::ErrorKind::StorageFull)?;
            Ok(buf.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let (image, _) = image_of(&everything()).unwrap();
    let image = Image::open(image).unwrap();
    let whole = export(&image, Vec::new(), &Limits::default())
        .unwrap()
        .len();
    for room in [0, 511, 1000, 60_000, whole - 1] {
        match export(&image, Full(room), &Limits::default()) {
            Err(Error::Write(error)) => assert_eq!(error.kind(), io::ErrorKind::StorageFull),
            other => panic!("{room}: {:?}", other.map(|full| full.0)),
        }
    }
    assert!(export(&image, Full(whole), &Limits::default()).is_ok());
}

/// An image, and that of its archive.
fn twice(items: Vec<Item>) -> (Tree, Tree) {
    let (image, _) = image_of(&items.into_iter().collect::<Archive>().finish()).unwrap();
    let again = exported(image.clone(), &Limits::default()).unwrap();
    (Tree::read(&image), tree_of(&again))
}

#[test]
fn directories_that_are_named_like_whiteouts() {
    // Parents that no entry of their own names: such an entry would be a whiteout.
    let (first, second) = twice(vec![
        Item::dir("etc"),
        Item::file(".wh.etc/passwd", "x"),
        Item::file("a/.wh..wh..opq/f", "y"),
        Item::file("a/.wh./g", "z"),
        Item::dir("x").mode(0o700),
        Item::file(".wh.x/.wh.y", ""),
    ]);
    let paths: Vec<String> = first.paths().into_iter().map(str::to_owned).collect();
    for path in [".wh.etc/passwd", "a/.wh..wh..opq/f", "a/.wh./g"] {
        assert!(paths.iter().any(|it| it == path), "{path} in {paths:?}");
    }
    assert_eq!(compared(first), compared(second));
}

#[test]
fn the_limits_of_exports_are_those_of_imports() {
    let long = |total: usize| {
        let mut path = String::new();
        while path.len() + 256 < total {
            path.push_str(&"d".repeat(254));
            path.push('/');
        }
        let rest = total - path.len();
        path + &"e".repeat(rest)
    };
    let mut deep = "d/".repeat(512);
    deep.push_str("last");
    let (first, second) = twice(vec![
        Item::dir(long(4096)),
        Item::file(long(4095).replace('e', "f"), "x"),
        Item::dir(deep),
        Item::new(EntryKind::CharDevice, "c".repeat(253)).device(0, 0),
    ]);
    assert_eq!(compared(first), compared(second));
    // Shorter ones are said as others understand them.
    let short = "c".repeat(251);
    let (_, second) = twice(vec![Item::new(EntryKind::CharDevice, &short).device(0, 0)]);
    assert_eq!(second.get(&short).mode & 0o170_000, 0o20_000);
    // Longer than any path that is taken in: by way of a link.
    let odd = [
        Item::dir(long(4000)),
        Item::symlink("short", long(4000)),
        Item::file(format!("short/{}", "n".repeat(200)), ""),
    ];
    let (image, _) = image_of(&odd.into_iter().collect::<Archive>().finish()).unwrap();
    match exported(image, &Limits::default()) {
        Err(Error::Limit { what, limit, .. }) => {
            assert_eq!((what, limit), ("the length of a path", 4096));
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_root_that_nothing_was_said_of_stays_unsaid() {
    let names = |items: Vec<Item>| {
        let (image, _) = image_of(&items.into_iter().collect::<Archive>().finish()).unwrap();
        let archive = exported(image, &Limits::default()).unwrap();
        let mut tar = bulkhead_erofs::tar::TarReader::new(archive.as_slice());
        let mut names = Vec::new();
        while let Some(entry) = tar.next_entry().unwrap() {
            names.push(String::from_utf8(entry.path).unwrap());
        }
        names
    };
    assert_eq!(names(vec![Item::file("a", "")]), ["a"]);
    let opaque = vec![Item::file(".wh..wh..opq", ""), Item::file("a", "")];
    assert_eq!(names(opaque), [".wh..wh..opq", "a"]);
    let said = vec![Item::dir("./").owner(1000, 0), Item::file("a", "")];
    assert_eq!(names(said), ["./", "a"]);
}
