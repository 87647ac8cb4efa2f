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
    assert_eq!(
        with(|it| it.metadata_bytes = 100),
        "the memory for hard links"
    );
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
