//! What becomes of a layer's entries: read back, and checked by fsck.erofs.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use bulkhead_erofs::tar::EntryKind;
use bulkhead_erofs::testing::{Archive, Item};
use bulkhead_erofs::{EntryFault, Error};
use common::{image_of, tree_of};

fn archive(items: impl IntoIterator<Item = Item>) -> Vec<u8> {
    items.into_iter().collect::<Archive>().finish()
}

fn refused(items: impl IntoIterator<Item = Item>) -> EntryFault {
    match image_of(&archive(items)) {
        Err(Error::Entry { fault, .. }) => fault,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn an_empty_archive_is_an_empty_root() {
    let tree = tree_of(&archive([]));
    assert_eq!(tree.get("").mode, 0o40755);
    assert!(tree.paths().is_empty());
    // Also without a trailer, and with nothing at all.
    assert_eq!(tree_of(&[]), tree);
}

#[test]
fn every_kind_of_file() {
    let tree = tree_of(&archive([
        Item::dir("./").mode(0o700).owner(5, 6).time(7, 8),
        Item::dir("dir/").mode(0o1777),
        Item::file("dir/file", b"hello")
            .mode(0o4755)
            .owner(1000, 100_000)
            .time(-5, 250_000_000),
        Item::symlink("link", "dir/file"),
        Item::hard_link("hard", "dir/file"),
        Item::new(EntryKind::CharDevice, "null")
            .device(1, 3)
            .mode(0o666),
        Item::new(EntryKind::BlockDevice, "disk").device(259, 70_000),
        Item::new(EntryKind::Fifo, "fifo").mode(0o600),
        Item::file("empty", b""),
    ]));
    let root = tree.get("");
    assert_eq!(
        (root.mode, root.uid, root.gid, root.mtime),
        (0o40700, 5, 6, (7, 8))
    );
    assert_eq!(tree.get("dir").mode, 0o41777);
    let file = tree.get("dir/file");
    assert_eq!((file.mode, file.uid, file.gid), (0o104755, 1000, 100_000));
    assert_eq!(
        (file.mtime, file.links, file.data.as_slice()),
        ((-5, 250_000_000), 2, &b"hello"[..])
    );
    assert_eq!(tree.get("hard"), file);
    assert_eq!(
        (tree.get("link").mode, tree.get("link").data.as_slice()),
        (0o120777, &b"dir/file"[..])
    );
    assert_eq!(
        (tree.get("null").mode, tree.get("null").device),
        (0o20666, 0x103)
    );
    assert_eq!(
        (tree.get("disk").mode, tree.get("disk").device),
        (0o60644, 0x1111_0370)
    );
    assert_eq!(tree.get("fifo").mode, 0o10600);
    assert_eq!((tree.get("empty").size, tree.get("empty").links), (0, 1));
}

#[test]
fn whiteouts_and_opaque_directories() {
    let tree = tree_of(&archive([
        Item::dir("a"),
        Item::file("a/.wh.gone", b""),
        Item::dir("b"),
        Item::file("b/.wh..wh..opq", b"").mode(0),
        Item::file("b/kept", b"x"),
        // A whiteout and a file of one name: the file is of this layer and stays.
        Item::file(".wh.f", b""),
        Item::file("f", b"f"),
        Item::file("g", b"g"),
        Item::file(".wh.g", b""),
        // A whiteout and a directory of one name: nothing of below shows.
        Item::file(".wh.d", b""),
        Item::dir("d"),
        Item::dir("e").xattr("user.k", "v"),
        Item::file(".wh.e", b""),
        Item::file(".wh.i", b""),
        Item::file("i/below", b""),
    ]));
    let gone = tree.get("a/gone");
    assert_eq!((gone.mode & 0o170_000, gone.device), (0o20000, 0));
    for opaque in ["b", "d", "e", "i"] {
        assert_eq!(
            tree.get(opaque).xattrs["trusted.overlay.opaque"],
            b"y",
            "{opaque}"
        );
    }
    assert_eq!(tree.get("e").xattrs["user.k"], b"v");
    assert_eq!(tree.get("f").data, b"f");
    assert_eq!(tree.get("g").data, b"g");
    assert!(tree.get("a").xattrs.is_empty());
    assert_eq!(
        tree.paths(),
        [
            "a", "a/gone", "b", "b/kept", "d", "e", "f", "g", "i", "i/below"
        ]
    );
}

#[test]
fn whiteouts_of_no_name_are_refused() {
    for name in [".wh.", "a/.wh..", ".wh..."] {
        assert_eq!(
            refused([Item::file(name, b"")]),
            EntryFault::Whiteout,
            "{name}"
        );
    }
}

#[test]
fn what_aufs_kept_at_the_root_goes_but_its_links_stay() {
    let tree = tree_of(&archive([
        Item::dir(".wh..wh.plnk"),
        Item::file(".wh..wh.plnk/7.2", b"seven"),
        Item::file(".wh..wh.aufs", b""),
        Item::hard_link("seven", ".wh..wh.plnk/7.2"),
    ]));
    assert_eq!(tree.paths(), ["seven"]);
    assert_eq!(
        (tree.get("seven").data.as_slice(), tree.get("seven").links),
        (&b"seven"[..], 1)
    );
}

#[test]
fn names_are_contained() {
    let tree = tree_of(&archive(
        [
            Item::file("/abs/file", b"1"),
            Item::file("../../up", b"2"),
            Item::file("a/../b/./c//d", b"3"),
            Item::file("..", b"").mode(0o4777),
        ]
        .into_iter()
        .take(3),
    ));
    assert_eq!(tree.paths(), ["abs", "abs/file", "b", "b/c", "b/c/d", "up"]);
    assert_eq!(
        refused([Item::file("a/..", b"")]),
        EntryFault::RootNotDirectory
    );
}

#[test]
fn symbolic_links_above_are_followed_within_the_root() {
    let tree = tree_of(&archive([
        Item::symlink("lib", "usr/lib"),
        Item::file("lib/a", b"a"),
        Item::symlink("out", "../../../etc"),
        Item::file("out/b", b"b"),
        Item::symlink("abs", "/usr/./lib/"),
        Item::file("abs/c", b"c"),
        Item::symlink("up", "usr/lib/../share"),
        Item::file("up/d", b"d"),
    ]));
    for (path, data) in [
        ("usr/lib/a", b"a"),
        ("etc/b", b"b"),
        ("usr/lib/c", b"c"),
        ("usr/share/d", b"d"),
    ] {
        assert_eq!(tree.get(path).data, data, "{path}");
    }
    assert_eq!(tree.get("lib").mode & 0o170_000, 0o120_000);
}

#[test]
fn circular_links_above_are_refused() {
    let items = [
        Item::symlink("a", "b"),
        Item::symlink("b", "a"),
        Item::file("a/x", b""),
    ];
    assert_eq!(refused(items), EntryFault::LinkLoop);
    assert_eq!(
        refused([Item::symlink("a", "a/a"), Item::file("a/x", b"")]),
        EntryFault::LinkLoop
    );
}

#[test]
fn a_file_above_is_refused() {
    assert!(matches!(
        refused([Item::file("f", b""), Item::file("f/x", b"")]),
        EntryFault::NotADirectory(_)
    ));
}

#[test]
fn the_last_of_a_name_wins() {
    let tree = tree_of(&archive([
        Item::file("f", b"old"),
        Item::file("f", b"new").mode(0o600),
        Item::dir("d"),
        Item::file("d/below", b""),
        Item::file("d", b"now a file"),
        Item::file("e", b"was a file"),
        Item::dir("e"),
        Item::dir("m"),
        Item::file("m/stays", b""),
        Item::dir("m").mode(0o711),
        Item::symlink("s", "m"),
        Item::dir("s"),
        // The link keeps what it named when the name goes elsewhere.
        Item::file("t", b"target"),
        Item::hard_link("l", "t"),
        Item::file("t", b"other"),
    ]));
    assert_eq!(
        (tree.get("f").data.as_slice(), tree.get("f").mode),
        (&b"new"[..], 0o100_600)
    );
    assert_eq!(tree.get("d").data, b"now a file");
    assert_eq!(tree.get("e").mode, 0o40755);
    assert_eq!(tree.get("m").mode, 0o40711);
    assert!(tree.files.contains_key("m/stays"));
    assert_eq!(tree.get("s").mode, 0o40755);
    assert_eq!(
        (tree.get("l").data.as_slice(), tree.get("l").links),
        (&b"target"[..], 1)
    );
    assert_eq!(tree.get("t").data, b"other");
    assert!(!tree.files.contains_key("d/below"));
}

#[test]
fn parents_may_come_late_or_never() {
    let tar = archive([
        Item::file("never/was/there", b"x"),
        Item::file("late/file", b"y"),
        Item::dir("late").mode(0o750).owner(9, 9),
    ]);
    let tree = tree_of(&tar);
    assert_eq!(
        (tree.get("never").mode, tree.get("never").uid),
        (0o40755, 0)
    );
    assert_eq!((tree.get("late").mode, tree.get("late").uid), (0o40750, 9));
    assert_eq!(tree.get("late/file").data, b"y");
    // never, never/was, and the root.
    assert_eq!(image_of(&tar).unwrap().1.implied_directories, 3);
}

#[test]
fn hard_links() {
    let tree = tree_of(&archive([
        Item::hard_link("early", "dir/target"),
        Item::hard_link("chain", "early"),
        Item::dir("dir"),
        Item::file("dir/target", b"t"),
        Item::hard_link("dir/late", "/dir/../dir/target"),
        Item::hard_link("dir/target", "dir/target"),
        Item::symlink("sym", "nowhere"),
        Item::hard_link("sym2", "sym"),
    ]));
    for name in ["early", "chain", "dir/target", "dir/late"] {
        assert_eq!(
            (tree.get(name).data.as_slice(), tree.get(name).links),
            (&b"t"[..], 4),
            "{name}"
        );
    }
    assert_eq!(
        (tree.get("sym2").data.as_slice(), tree.get("sym2").links),
        (&b"nowhere"[..], 2)
    );

    assert!(matches!(
        refused([Item::hard_link("a", "b")]),
        EntryFault::LinkMissing(_)
    ));
    assert!(matches!(
        refused([Item::dir("d"), Item::hard_link("a", "d")]),
        EntryFault::LinkToDirectory(_)
    ));
    assert!(matches!(
        refused([Item::hard_link("a", "d"), Item::dir("d")]),
        EntryFault::LinkToDirectory(_)
    ));
    assert_eq!(
        refused([Item::hard_link("a", "b"), Item::hard_link("b", "a")]),
        EntryFault::LinkLoop
    );
    assert_eq!(refused([Item::hard_link("a", "a")]), EntryFault::LinkLoop);
    assert_eq!(refused([Item::hard_link("a", "")]), EntryFault::LinkTarget);
}

#[test]
fn extended_attributes() {
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let tar = archive([
        Item::file("ping", b"elf")
            .xattr("security.capability", capability)
            .xattr("user.empty", b"is set twice")
            .xattr("user.empty", b""),
        Item::file("same", b"")
            .xattr("user.empty", b"")
            .xattr("security.capability", capability),
        Item::dir("d")
            .xattr("trusted.t", b"\0\xff")
            .xattr("system.posix_acl_default", b"acl"),
        Item::symlink("l", "x")
            .xattr("trusted.overlay.redirect", "/etc")
            .xattr("btrfs.y", "z"),
        Item::file("big", vec![b'x'; 5000]).xattr("user.big", vec![b'v'; 60_000]),
    ]);
    let tree = tree_of(&tar);
    let ping = &tree.get("ping").xattrs;
    assert_eq!(ping["security.capability"], capability);
    assert_eq!(ping["user.empty"], b"");
    assert_eq!(&tree.get("same").xattrs, ping);
    assert_eq!(tree.get("d").xattrs["trusted.t"], b"\0\xff");
    assert_eq!(tree.get("d").xattrs["system.posix_acl_default"], b"acl");
    assert!(tree.get("l").xattrs.is_empty());
    assert_eq!(tree.get("big").xattrs["user.big"].len(), 60_000);
    assert_eq!(tree.get("big").data.len(), 5000);
    assert_eq!(image_of(&tar).unwrap().1.dropped_xattrs, 2);
    assert!(matches!(
        refused([Item::file("f", b"").xattr("user.x", vec![0; 70_000])]),
        EntryFault::Xattr(_)
    ));
}

#[test]
fn names_and_links_up_to_their_limits() {
    let name = "n".repeat(255);
    let deep = ["d"; 200].join("/");
    let tree = tree_of(&archive([
        Item::file(&name, b"1"),
        Item::file(format!("{deep}/f"), b"2"),
        Item::symlink("medium", "m".repeat(2000)),
        Item::symlink("long", "l".repeat(4095)),
        Item::file([b"not\xffutf8 \"\n".as_slice(), b"\x01"].concat(), b"3"),
    ]));
    assert_eq!(tree.get(&name).data, b"1");
    assert_eq!(tree.get(&format!("{deep}/f")).data, b"2");
    assert_eq!(tree.get("medium").data.len(), 2000);
    assert_eq!(tree.get("long").data, vec![b'l'; 4095]);
    assert_eq!(tree.get("not\\xffutf8 \\\"\\n\\x01").data, b"3");

    assert_eq!(
        refused([Item::file("n".repeat(256), b"")]),
        EntryFault::NameTooLong
    );
    assert_eq!(
        refused([Item::file("a/".repeat(2100), b"")]),
        EntryFault::NameTooLong
    );
    assert_eq!(
        refused([Item::symlink("s", "l".repeat(4096))]),
        EntryFault::LinkTarget
    );
    assert_eq!(refused([Item::symlink("s", "")]), EntryFault::LinkTarget);
    assert!(
        image_of(&archive([Item::dir("d/".repeat(600))]))
            .unwrap_err()
            .is_limit()
    );
}

#[test]
fn numbers_out_of_range_are_refused() {
    assert_eq!(
        refused([Item::file("f", b"").owner(1 << 32, 0)]),
        EntryFault::Owner
    );
    assert_eq!(
        refused([Item::file("f", b"").pax("gid", "-1")]),
        EntryFault::Owner
    );
    let device = Item::new(EntryKind::CharDevice, "c").device(4096, 0);
    assert_eq!(refused([device]), EntryFault::Device(4096, 0));
    let tree = tree_of(&archive([
        Item::file("f", b"").owner(u64::from(u32::MAX) - 1, 3_000_000)
    ]));
    assert_eq!(
        (tree.get("f").uid, tree.get("f").gid),
        (u32::MAX - 1, 3_000_000)
    );
}

#[test]
fn content_of_all_sizes_around_blocks() {
    let sizes = [
        1, 63, 4031, 4032, 4033, 4095, 4096, 4097, 8192, 262_143, 262_144, 262_145, 700_001,
    ];
    let content = |size: usize| (1..=251).cycle().take(size).collect::<Vec<u8>>();
    let items = sizes.map(|size| Item::file(format!("f{size}"), content(size)));
    let tree = tree_of(&archive(items));
    for size in sizes {
        assert!(
            tree.get(&format!("f{size}")).data == content(size),
            "{size}"
        );
    }
}

#[test]
fn zeros_take_no_space_and_keep_their_place() {
    let tar = archive([
        Item::file("zeros", vec![0; 3 << 20]),
        Item::file("after", b"x"),
        Item::file("last", vec![0; 1 << 20]),
    ]);
    let dir = tempfile::tempdir().unwrap();
    let file = std::fs::File::create(dir.path().join("image")).unwrap();
    let report = bulkhead_erofs::convert(&tar[..], &file, &Default::default()).unwrap();
    let meta = file.metadata().unwrap();
    assert_eq!(meta.len(), report.image_bytes);
    assert!(std::os::unix::fs::MetadataExt::blocks(&meta) * 512 < 1 << 20);
    let tree = common::Tree::read(&std::fs::read(dir.path().join("image")).unwrap());
    assert!(tree.get("zeros").data == vec![0; 3 << 20]);
    assert_eq!(tree.get("after").data, b"x");
}

#[test]
fn directories_of_any_size() {
    for count in [1, 100, 200, 240, 5000, 100_000] {
        let items = (0..count).map(|i| Item::file(format!("d/name-{:05}", i * 7919 % count), b""));
        let tree = tree_of(&archive(items));
        assert_eq!(tree.paths().len(), count + 1, "{count}");
    }
}

#[test]
fn dots_sort_among_names() {
    let tree = tree_of(&archive(
        ["!", "-", ".\x01", ".a", "...", "0"].map(|name| Item::file(name, b"")),
    ));
    assert_eq!(tree.paths().len(), 6);
}
