//! Layers that lean on those beneath them, and the reader that serves them.

// Tests say what they expect by unwrapping it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{self, Cursor, Read};

use bulkhead_erofs::read::{Image, Inode, ReadAt};
use bulkhead_erofs::tar::EntryKind;
use bulkhead_erofs::testing::{Archive, Item};
use bulkhead_erofs::{Beneath, Error, Options, convert_over};
use common::{File, Tree, fsck, image_of};

/// Images of layers, the base first.
#[derive(Default)]
struct Stack(Vec<Vec<u8>>);

impl Beneath for Stack {
    fn images(&self) -> io::Result<Vec<Image<Box<dyn ReadAt>>>> {
        let boxed = |image: &Vec<u8>| Box::new(image.clone()) as Box<dyn ReadAt>;
        self.0
            .iter()
            .map(|image| Image::open(boxed(image)))
            .collect()
    }
}

impl Stack {
    /// Puts a layer on top; whether it leans.
    fn push(&mut self, items: impl IntoIterator<Item = Item>) -> Result<bool, Error> {
        let tar = items.into_iter().collect::<Archive>().finish();
        let mut out = Cursor::new(Vec::new());
        let report = convert_over(&tar[..], &mut out, &Options::default(), self)?;
        fsck(out.get_ref());
        self.0.push(out.into_inner());
        Ok(report.leans)
    }

    fn with(mut self, items: impl IntoIterator<Item = Item>) -> Self {
        self.push(items).unwrap();
        self
    }

    fn top(&self) -> Tree {
        Tree::read(self.0.last().unwrap())
    }
}

fn nobody() -> impl Beneath {
    struct Nobody;
    impl Beneath for Nobody {
        fn images(&self) -> io::Result<Vec<Image<Box<dyn ReadAt>>>> {
            panic!("a layer that needs nobody has asked");
        }
    }
    Nobody
}

fn base() -> Stack {
    Stack::default().with([
        Item::dir("usr").mode(0o751).owner(5, 6).time(1_000, 7),
        Item::dir("usr/lib").mode(0o2755).xattr("user.a", "1"),
        Item::file("usr/lib/one", vec![1; 10_000])
            .owner(1, 2)
            .xattr("user.b", "2"),
        Item::symlink("lib", "usr/lib"),
        Item::file("plain", "a file"),
    ])
}

#[test]
fn who_leans_on_nobody_asks_nobody() {
    let tar = [Item::dir("./"), Item::dir("a"), Item::file("a/b", "c")]
        .into_iter()
        .collect::<Archive>()
        .finish();
    let out = Cursor::new(Vec::new());
    let report = convert_over(&tar[..], out, &Options::default(), &nobody()).unwrap();
    assert!(!report.leans);
}

#[test]
fn directories_without_an_entry_are_as_they_are_beneath() {
    let mut stack = base();
    assert!(
        stack
            .push([Item::file("usr/lib/two", "2"), Item::file("new/x", "x")])
            .unwrap()
    );
    let top = stack.top();
    let below = Tree::read(&stack.0[0]);
    for path in ["usr", "usr/lib"] {
        let (own, lower) = (top.get(path), below.get(path));
        let of = |file: &File| {
            (
                file.mode,
                file.uid,
                file.gid,
                file.mtime,
                file.xattrs.clone(),
            )
        };
        assert_eq!(of(own), of(lower), "{path}");
    }
    assert_eq!(top.get("new").mode, 0o40755);
    // One more, which has it from the first.
    assert!(stack.push([Item::file("usr/lib/three", "3")]).unwrap());
    assert_eq!(stack.top().get("usr").mode, 0o40751);
}

#[test]
fn what_hides_the_lower_directory_ends_its_attributes() {
    let mut stack = base();
    stack
        .push([
            Item::file("usr/.wh..wh..opq", ""),
            Item::file("usr/lib/two", "2"),
        ])
        .unwrap();
    assert_eq!(stack.top().get("usr/lib").mode, 0o40755);
    // One that is opaque is the lower one still.
    assert_eq!(stack.top().get("usr").mode, 0o40751);
    let mut stack = base();
    stack
        .push([Item::file(".wh.usr", ""), Item::file("usr/lib/two", "2")])
        .unwrap();
    assert_eq!(stack.top().get("usr").mode, 0o40755);
    // A whiteout in between.
    let mut stack = base().with([Item::file(".wh.usr", "")]);
    stack.push([Item::file("usr/lib/two", "2")]).unwrap();
    assert_eq!(stack.top().get("usr").mode, 0o40755);
}

#[test]
fn entries_go_where_links_beneath_lead() {
    let mut stack = base();
    assert!(
        stack
            .push([
                Item::file("lib/two", "2"),
                Item::dir("lib/sub"),
                Item::file("lib/.wh.one", "")
            ])
            .unwrap()
    );
    let top = stack.top();
    assert_eq!(
        top.paths(),
        [
            "usr",
            "usr/lib",
            "usr/lib/one",
            "usr/lib/sub",
            "usr/lib/two"
        ]
    );
    assert_eq!(top.get("usr/lib").mode, 0o42755);
    assert_eq!(top.get("usr/lib/one").device, 0);

    // What is there already merges: the later counts.
    let mut stack = base();
    stack
        .push([
            Item::file("usr/lib/two", "early"),
            Item::file("usr/lib/sub/a", "a"),
            Item::file("lib/two", "late"),
            Item::file("lib/sub/b", "b"),
        ])
        .unwrap();
    let top = stack.top();
    assert_eq!(top.get("usr/lib/two").data, b"late");
    assert_eq!(
        top.paths(),
        [
            "usr",
            "usr/lib",
            "usr/lib/sub",
            "usr/lib/sub/a",
            "usr/lib/sub/b",
            "usr/lib/two"
        ]
    );

    // A directory of its own is one.
    let mut stack = base();
    assert!(
        !stack
            .push([Item::dir("lib"), Item::file("lib/two", "2")])
            .unwrap()
    );
    assert_eq!(stack.top().paths(), ["lib", "lib/two"]);
}

#[test]
fn links_beneath_that_lead_in_circles_are_refused() {
    let mut stack = Stack::default().with([Item::symlink("a", "b"), Item::symlink("b", "a")]);
    let error = stack.push([Item::file("a/x", "x")]).unwrap_err();
    assert!(error.to_string().contains("symbolic links"), "{error}");
    // Out of the root there is nothing.
    let mut stack = Stack::default().with([Item::symlink("a", "../../../etc")]);
    stack.push([Item::file("a/x", "x")]).unwrap();
    assert_eq!(stack.top().paths(), ["etc", "etc/x"]);
}

#[test]
fn hard_links_to_files_beneath() {
    let mut stack = base().with([Item::file("other", "o")]);
    assert!(
        stack
            .push([
                Item::hard_link("bin/one", "usr/lib/one"),
                Item::hard_link("bin/again", "lib/one"),
                Item::hard_link("link", "lib"),
            ])
            .unwrap()
    );
    let top = stack.top();
    let (one, below) = (top.get("usr/lib/one").clone(), Tree::read(&stack.0[0]));
    assert_eq!(one.data, vec![1; 10_000]);
    assert_eq!((one.links, one.uid, one.gid), (3, 1, 2));
    assert_eq!(one.xattrs, below.get("usr/lib/one").xattrs);
    for path in ["bin/one", "bin/again"] {
        assert_eq!(top.get(path).nid, one.nid, "{path}");
    }
    assert_eq!(top.get("link").data, b"usr/lib");
    assert_eq!(top.get("lib").nid, top.get("link").nid);
    assert_eq!(top.get("usr").mode, 0o40751);
}

#[test]
fn hard_links_to_what_is_gone_are_refused() {
    let refused = |stack: &mut Stack, items: Vec<Item>, words: &str| {
        let error = stack.push(items).unwrap_err().to_string();
        assert!(error.contains(words), "{error}");
    };
    let link = |to: &str| Item::hard_link("link", to);
    let neither = "neither this layer nor one beneath";
    refused(&mut base(), vec![link("none")], neither);
    refused(&mut base(), vec![link("plain/x")], neither);
    refused(&mut base(), vec![link("usr")], "which is a directory");
    refused(
        &mut base().with([Item::file(".wh.plain", "")]),
        vec![link("plain")],
        neither,
    );
    refused(
        &mut base(),
        vec![Item::file(".wh.plain", ""), link("plain")],
        neither,
    );
    let mut opaque = base().with([Item::file("usr/.wh..wh..opq", "")]);
    refused(&mut opaque, vec![link("usr/lib/one")], neither);
}

/// A layer leans as soon as it asks: on another base the answer may be another one.
#[test]
fn who_asks_leans_whatever_the_answer() {
    let mut stack = Stack::default().with([Item::dir("b")]);
    assert!(stack.push([Item::file("a/x", "x")]).unwrap());
    // Also where there is nobody to ask.
    let mut alone = Stack::default();
    assert!(alone.push([Item::file("a/x", "x")]).unwrap());
    assert!(
        !alone
            .push([Item::file("x", "x"), Item::dir("c"), Item::file("c/x", "x")])
            .unwrap()
    );
}

#[test]
fn whiteouts_and_opaque_directories_move_with_the_others() {
    let base = || {
        Stack::default().with([
            Item::dir("usr"),
            Item::dir("usr/lib"),
            Item::symlink("lib", "usr/lib"),
            Item::dir("usr/lib/d"),
            Item::file("usr/lib/f", "f"),
        ])
    };
    let is_opaque = |stack: &Stack, path: &str| {
        let top = stack.top();
        top.get(path).xattrs.contains_key("trusted.overlay.opaque")
    };
    let mut stack = base();
    stack
        .push([
            Item::file("lib/d/.wh..wh..opq", ""),
            Item::dir("usr/lib/d").mode(0o700),
        ])
        .unwrap();
    assert!(is_opaque(&stack, "usr/lib/d"));
    assert_eq!(stack.top().get("usr/lib/d").mode, 0o40700);
    // A whiteout speaks of lower layers, whichever comes first.
    for items in [
        vec![Item::file("usr/lib/f", "new"), Item::file("lib/.wh.f", "")],
        vec![Item::file("lib/.wh.f", ""), Item::file("usr/lib/f", "new")],
    ] {
        let mut stack = base();
        stack.push(items).unwrap();
        assert_eq!(stack.top().get("usr/lib/f").data, b"new");
    }
    for items in [
        vec![Item::dir("usr/lib/d"), Item::file("lib/.wh.d", "")],
        vec![Item::file("usr/lib/.wh.d", ""), Item::dir("lib/d")],
    ] {
        let mut stack = base();
        stack.push(items).unwrap();
        assert!(is_opaque(&stack, "usr/lib/d"));
    }
}

#[test]
fn links_that_lead_to_links() {
    let mut stack = Stack::default().with([
        Item::dir("usr"),
        Item::dir("usr/lib64").mode(0o711),
        Item::dir("usr/lib64/sub").mode(0o700),
        Item::symlink("lib", "lib64"),
        Item::symlink("lib64", "usr/lib64"),
    ]);
    stack
        .push([Item::file("lib/sub/x", "x"), Item::file("lib64/y", "y")])
        .unwrap();
    let top = stack.top();
    assert_eq!(
        top.paths(),
        [
            "usr",
            "usr/lib64",
            "usr/lib64/sub",
            "usr/lib64/sub/x",
            "usr/lib64/y"
        ]
    );
    assert_eq!(top.get("usr/lib64/sub").mode, 0o40700);
    assert_eq!(top.get("usr/lib64").mode, 0o40711);
}

#[test]
fn a_link_to_a_name_that_is_too_long_is_refused() {
    let mut stack = Stack::default().with([Item::symlink("a", "x".repeat(4000))]);
    let error = stack.push([Item::file("a/f", "f")]).unwrap_err();
    assert!(error.to_string().contains("255 bytes"), "{error}");
}

/// The reader sees what the tests' own, which was written from the format's
/// description, sees.
#[test]
fn the_reader_sees_what_is_there() {
    let names = (0..500).map(|n| Item::file(format!("many/name-{n:0100}"), format!("{n}")));
    let items = [
        Item::dir("a").mode(0o1777).owner(7, 8).time(-5, 9),
        Item::file(
            "a/big",
            (0..100_000u32)
                .map(|n| n.to_le_bytes()[0])
                .collect::<Vec<_>>(),
        ),
        Item::file("a/empty", ""),
        Item::symlink("short", "a/big"),
        Item::symlink("long", "x/".repeat(2000)),
        Item::new(EntryKind::CharDevice, "null").device(1, 3),
        Item::new(EntryKind::Fifo, "fifo"),
        Item::file("x", "x")
            .xattr("user.k", "v")
            .xattr("trusted.t", vec![0; 5000]),
        Item::hard_link("y", "x"),
        Item::file("sparse", "data")
            .pax("GNU.sparse.map", "70000,4")
            .pax("GNU.sparse.size", "200000"),
    ];
    let tar = items.into_iter().chain(names).collect::<Archive>().finish();
    let (bytes, _) = image_of(&tar).unwrap();
    let tree = Tree::read(&bytes);
    let image = Image::open(bytes).unwrap();
    let find = |path: &str| {
        let mut inode = image.root().unwrap();
        for part in path.split('/').filter(|part| !part.is_empty()) {
            inode = image.lookup(&inode, part.as_bytes()).unwrap().unwrap();
        }
        inode
    };
    for (path, file) in &tree.files {
        let inode = find(path);
        let own = (
            inode.mode,
            inode.uid,
            inode.gid,
            inode.mtime,
            inode.links,
            inode.size,
        );
        let other = (
            file.mode, file.uid, file.gid, file.mtime, file.links, file.size,
        );
        assert_eq!(
            (own, inode.slot, inode.device),
            (other, file.nid, file.device),
            "{path}"
        );
        let mut data = Vec::new();
        if !matches!(inode.file_type(), 0x2000 | 0x1000) {
            image
                .content(&inode)
                .unwrap()
                .read_to_end(&mut data)
                .unwrap();
        }
        assert!(data == file.data, "{path}");
    }
    assert!(image.lookup(&find("a"), b"none").unwrap().is_none());
    let none: &dyn Fn(&Inode) -> bool = &|inode| image.lookup(inode, b"x").is_err();
    assert!(none(&find("x")), "a file is no directory");
}

/// Damage is an error, and nothing worse.
#[test]
fn damage_is_told() {
    let tar = [
        Item::dir("a"),
        Item::file("a/b", vec![9; 9000]),
        Item::symlink("l", "a"),
    ]
    .into_iter()
    .collect::<Archive>()
    .finish();
    let (whole, _) = image_of(&tar).unwrap();
    let read_all = |bytes: Vec<u8>| -> io::Result<()> {
        let image = Image::open(bytes)?;
        let mut todo = vec![image.root()?];
        let mut seen = 0;
        while let Some(inode) = todo.pop() {
            seen += 1;
            if inode.file_type() == 0x4000 && seen < 100 {
                image.each(&inode, |name, slot| {
                    if name != b"." && name != b".." {
                        todo.push(image.inode(slot)?);
                    }
                    Ok(true)
                })?;
            } else {
                io::copy(&mut image.content(&inode)?.take(1 << 20), &mut io::sink())?;
            }
        }
        Ok(())
    };
    read_all(whole.clone()).unwrap();
    let mut refused = 0;
    for at in (1024..1152).chain(whole.len() - 4096..whole.len() - 3500) {
        for value in [0, 0x7f, 0xff] {
            let mut bytes = whole.clone();
            bytes[at] = value;
            refused += usize::from(read_all(bytes).is_err());
        }
    }
    assert!(refused > 100, "{refused}");
    assert!(read_all(Vec::new()).is_err());
    assert!(read_all(whole[..whole.len() - 4096].to_vec()).is_err());
}
