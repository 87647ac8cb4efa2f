//! Archives as archivers write them, and malformed ones.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::io::{Seek, SeekFrom, Write};
use std::path::Path;
use std::process::Command;

use bulkhead_erofs::testing::{Archive, Item, checksum, header, record};
use bulkhead_erofs::{ArchiveFault, Error, Limits, Options, convert};
use common::{image_of, tree_of};

fn fault(tar: &[u8]) -> ArchiveFault {
    match image_of(tar) {
        Err(Error::Archive { fault, .. }) => fault,
        other => panic!("not refused: {other:?}"),
    }
}

/// GNU tar's archive of a directory.
fn gnu_tar(dir: &Path, args: &[&str]) -> Vec<u8> {
    let output = Command::new("tar")
        .args(args)
        .args(["-C"])
        .arg(dir)
        .args(["-cf", "-", "."])
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    output.stdout
}

#[test]
fn every_format_of_gnu_tar() {
    let dir = tempfile::tempdir().unwrap();
    let deep = dir.path().join("component-of-a-name/".repeat(8));
    std::fs::create_dir_all(&deep).unwrap();
    std::fs::write(deep.join("n".repeat(90)), b"deep").unwrap();
    std::os::unix::fs::symlink("t".repeat(180), dir.path().join("link")).unwrap();
    std::fs::hard_link(deep.join("n".repeat(90)), dir.path().join("hard")).unwrap();
    let mut trees = Vec::new();
    for format in ["gnu", "oldgnu", "posix"] {
        let tar = gnu_tar(
            dir.path(),
            &["--format", format, "--mtime=2020-02-02 UTC", "--sort=name"],
        );
        trees.push(tree_of(&tar));
    }
    let path = format!("{}{}", "component-of-a-name/".repeat(8), "n".repeat(90));
    assert_eq!(trees[0].get(&path).data, b"deep");
    assert_eq!(trees[0].get("hard").links, 2);
    assert_eq!(trees[0].get("link").data, vec![b't'; 180]);
    assert_eq!(trees[0], trees[1]);
    assert_eq!(trees[0], trees[2]);
}

#[test]
fn sparse_files_of_gnu_tar() {
    let dir = tempfile::tempdir().unwrap();
    // Many extents (more than the header and one block hold), a hole at the
    // end, and a file that is one hole.
    let mut many = std::fs::File::create(dir.path().join("many")).unwrap();
    for i in 0..60u64 {
        many.seek(SeekFrom::Start(i * 65_536 + i)).unwrap();
        many.write_all(format!("part {i}").as_bytes()).unwrap();
    }
    many.set_len(5_000_001).unwrap();
    std::fs::File::create(dir.path().join("hole"))
        .unwrap()
        .set_len(20_000_000)
        .unwrap();
    std::fs::write(dir.path().join("plain"), b"plain").unwrap();
    let expected = std::fs::read(dir.path().join("many")).unwrap();

    for args in [
        &["--format=gnu"][..],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ] {
        let tar = gnu_tar(dir.path(), &[&["-S"], args].concat());
        assert!(tar.len() < 1 << 20, "the archive is sparse: {args:?}");
        let (image, _) = image_of(&tar).unwrap();
        assert!(image.len() < 1 << 20, "the image is sparse: {args:?}");
        let tree = tree_of(&tar);
        assert!(tree.get("many").data == expected, "{args:?}");
        assert_eq!(tree.get("hole").size, 20_000_000, "{args:?}");
        assert!(
            tree.get("hole").data.iter().all(|&byte| byte == 0),
            "{args:?}"
        );
        assert_eq!(tree.get("plain").data, b"plain");
    }
}

#[test]
fn headers_of_old() {
    let mut archive = Archive::new();
    // V7: no magic, no type; a slash at the end is a directory.
    for (name, data) in [("old/", &b""[..]), ("old/file", b"v7")] {
        let mut block = header(&Item::file(name, data), data.len() as u64);
        block[156] = 0;
        block[257..265].fill(0);
        checksum(&mut block);
        archive.block(block).payload(data);
    }
    // ustar with its prefix field.
    let mut block = header(&Item::file("name", b""), 2);
    block[345..351].copy_from_slice(b"prefix");
    checksum(&mut block);
    archive.block(block).payload(b"us");
    let tree = tree_of(&archive.finish());
    assert_eq!(tree.get("old").mode, 0o40644);
    assert_eq!(tree.get("old/file").data, b"v7");
    assert_eq!(tree.get("prefix/name").data, b"us");
}

#[test]
fn pax_outranks_the_header_and_gnu_names_outrank_pax() {
    let mut archive = Archive::new();
    let mut item = Item::file("header", b"12345")
        .pax("path", "pax")
        .pax("size", "5")
        .pax("uid", "77");
    item.size = Some(0);
    // The header's size is wrong; PAX says how much really follows.
    archive.add(item);
    let mut long = Item::file("././@LongLink", b"long\0");
    long.kind = b'L';
    archive.raw(&long);
    archive.add(Item::file("short", b"").pax("path", "pax2"));
    // Global headers say nothing.
    let mut global = Item::file("g", record(b"path", b"global"));
    global.kind = b'g';
    archive.raw(&global).add(Item::file("after", b""));
    let tree = tree_of(&archive.finish());
    assert_eq!(tree.paths(), ["after", "long", "pax"]);
    assert_eq!(
        (tree.get("pax").data.as_slice(), tree.get("pax").uid),
        (&b"12345"[..], 77)
    );
}

#[test]
fn links_and_devices_have_no_payload() {
    // A hard link that claims a size, as some archivers write: the next header
    // follows at once.
    let mut archive = Archive::new();
    archive.add(Item::file("a", b"content"));
    let mut link = Item::hard_link("b", "a");
    link.size = Some(7);
    archive.raw(&link).add(Item::file("c", b""));
    assert_eq!(tree_of(&archive.finish()).paths(), ["a", "b", "c"]);
}

#[test]
fn cut_off_anywhere_it_is_refused_or_ends_between_entries() {
    let mut archive = Archive::new();
    archive.add(Item::dir("d"));
    archive.add(Item::file("d/long", vec![7; 3000]).xattr("user.a", "b"));
    archive.add(Item::symlink("s", "t".repeat(150)));
    let tar = archive.finish();
    let mut complete = 0;
    for length in (0..tar.len()).step_by(64) {
        match image_of(&tar[..length]) {
            Ok(_) => complete += 1,
            Err(Error::Archive {
                fault: ArchiveFault::Truncated | ArchiveFault::Dangling,
                ..
            }) => {}
            Err(other) => panic!("{length}: {other}"),
        }
    }
    // At 0, after each of the three entries, and in the trailer's middle.
    assert_eq!(complete, 5);
}

#[test]
fn malformed_archives() {
    assert_eq!(fault(&[b'x'; 1024]), ArchiveFault::Checksum);
    assert_eq!(fault(&[b'x'; 100]), ArchiveFault::Truncated);

    let mut archive = Archive::new();
    archive.block([0; 512]).add(Item::dir("d"));
    assert_eq!(fault(&archive.finish()), ArchiveFault::LoneZeroBlock);

    let mut unknown = Item::file("f", b"");
    for kind in [b'V', b'M', b'N', b'D', b'A', 0xff] {
        unknown.kind = kind;
        assert_eq!(
            fault(&Archive::new().raw(&unknown).finish()),
            ArchiveFault::Type(kind)
        );
    }

    let mut lying = Item::file("f", b"short");
    lying.size = Some(1 << 30);
    assert!(matches!(
        fault(&Archive::new().raw(&lying).finish()),
        ArchiveFault::Truncated
    ));
    let (mut large, limits) = (
        lying.clone(),
        Limits {
            data_bytes: 1 << 20,
            ..Limits::default()
        },
    );
    large.size = Some(2 << 20);
    let tar = Archive::new().raw(&large).finish();
    let options = Options {
        limits,
        ..Options::default()
    };
    assert!(
        convert(&tar[..], std::io::Cursor::new(Vec::new()), &options)
            .unwrap_err()
            .is_limit()
    );

    let mut negative = header(&Item::file("f", b""), 0);
    negative[124..136].fill(0xff);
    checksum(&mut negative);
    assert_eq!(
        fault(&Archive::new().block(negative).finish()),
        ArchiveFault::Number("size")
    );

    let mut pax = Item::file("x", b"not a record");
    pax.kind = b'x';
    assert_eq!(fault(&Archive::new().raw(&pax).finish()), ArchiveFault::Pax);
    pax.data = record(b"path", b"dangling");
    assert_eq!(
        fault(&Archive::new().raw(&pax).finish()),
        ArchiveFault::Dangling
    );
    pax.size = Some((1 << 20) + 1);
    assert!(
        image_of(&Archive::new().raw(&pax).finish())
            .unwrap_err()
            .is_limit()
    );
    assert!(matches!(
        image_of(
            &Archive::new()
                .add(Item::file("f", b"").pax("path", "a\0b"))
                .finish()
        ),
        Err(Error::Entry {
            fault: bulkhead_erofs::EntryFault::Nul,
            ..
        })
    ));
}

#[test]
fn malformed_sparse_maps() {
    let item = |map: &str, size: &str| {
        Item::file("f", b"12345")
            .pax("GNU.sparse.map", map)
            .pax("GNU.sparse.size", size)
    };
    for (map, size) in [
        ("0,5", "4"),
        ("0,4", "10"),
        ("5,5,0,0", "10"),
        ("0", "10"),
        ("18446744073709551615,5", "10"),
        ("a,5", "10"),
    ] {
        let fault = fault(&Archive::new().add(item(map, size)).finish());
        assert_eq!(fault, ArchiveFault::Sparse, "{map}");
    }
    let tree = tree_of(&Archive::new().add(item("3,5", "5000")).finish());
    let mut expected = vec![0; 5000];
    expected[3..8].copy_from_slice(b"12345");
    assert_eq!(tree.get("f").data, expected);
    // A map that never ends in a header of GNU's old format.
    let mut block = header(&Item::file("f", b""), 0);
    block[156] = b'S';
    block[257..265].copy_from_slice(b"ustar  \0");
    block[482] = 1;
    checksum(&mut block);
    assert_eq!(
        fault(&Archive::new().block(block).payload(&[1; 2048]).unfinished()),
        ArchiveFault::Sparse
    );
}

#[test]
fn huge_sparse_files_cost_nothing() {
    // 200 TiB with three bytes in it: three chunks of 4 GiB, nearly all of them
    // holes of the output too.
    let size: u64 = 200 << 40;
    let map = format!("0,1,{},1,{},1", size / 2, size - 1);
    let item = Item::file("f", b"abc")
        .pax("GNU.sparse.map", map)
        .pax("GNU.sparse.size", size.to_string());
    let tar = Archive::new().add(item).finish();
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    let file = std::fs::File::create(&path).unwrap();
    let report = convert(&tar[..], &file, &Options::default()).unwrap();
    let meta = file.metadata().unwrap();
    assert_eq!(meta.len(), report.image_bytes);
    assert!(std::os::unix::fs::MetadataExt::blocks(&meta) * 512 < 2 << 20);
    common::fsck_file(&path);
    let limits = Limits {
        data_bytes: 1 << 30,
        ..Limits::default()
    };
    let file = std::fs::File::create(&path).unwrap();
    let options = Options {
        limits,
        ..Options::default()
    };
    assert!(convert(&tar[..], &file, &options).unwrap_err().is_limit());
}

#[test]
fn bounds_on_entries_and_memory() {
    let limits = Limits {
        entries: 100,
        metadata_bytes: 1 << 16,
        ..Limits::default()
    };
    let options = Options {
        limits,
        ..Options::default()
    };
    let sink = || std::io::Cursor::new(Vec::new());
    let many: Archive = (0..101).map(|_| Item::file("same", b"")).collect();
    assert!(
        convert(&many.finish()[..], sink(), &options)
            .unwrap_err()
            .is_limit()
    );
    let long: Archive = (0..90)
        .map(|i| Item::symlink(format!("{i}"), "t".repeat(1000)))
        .collect();
    assert!(
        convert(&long.finish()[..], sink(), &options)
            .unwrap_err()
            .is_limit()
    );
    let attributes: Archive = (0..90)
        .map(|i| Item::file(format!("{i}"), b"").xattr("user.a", format!("{i:01000}")))
        .collect();
    assert!(
        convert(&attributes.finish()[..], sink(), &options)
            .unwrap_err()
            .is_limit()
    );
}

#[test]
fn walks_through_links_are_bounded() {
    // Each entry walks 2,000 parts through one link.
    let mut archive = Archive::new();
    archive.add(Item::symlink("s", "a/../".repeat(800) + "a"));
    for i in 0..20_000 {
        archive.raw(&Item::file(format!("s/{i}"), b""));
    }
    assert!(image_of(&archive.finish()).unwrap_err().is_limit());
}

#[test]
fn a_full_disk_is_reported_as_such() {
    struct Full(std::io::Cursor<Vec<u8>>);
    impl Write for Full {
        fn write(&mut self, buf: &[u8]) -> std::io::Result<usize> {
            if self.0.position() + buf.len() as u64 > 1 << 20 {
                return Err(std::io::ErrorKind::StorageFull.into());
            }
            self.0.write(buf)
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    impl Seek for Full {
        fn seek(&mut self, to: SeekFrom) -> std::io::Result<u64> {
            self.0.seek(to)
        }
    }
    let tar = Archive::new()
        .add(Item::file("f", vec![1; 4 << 20]))
        .finish();
    let error = convert(
        &tar[..],
        Full(std::io::Cursor::new(Vec::new())),
        &Options::default(),
    )
    .unwrap_err();
    assert_eq!(
        error.io_error().unwrap().kind(),
        std::io::ErrorKind::StorageFull
    );
}
