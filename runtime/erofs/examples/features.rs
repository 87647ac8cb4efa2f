//! Makes a layer with everything that a layer can hold, and its image:
//! `features DIR` writes DIR/features.tar and DIR/features.erofs. Mount the
//! image and compare it with the archive, as tar extracts it, to test a kernel.
//!
//! What differs by design: `.wh.gone` is a character device 0:0 named `gone`,
//! `opaque/.wh..wh..opq` the attribute `trusted.overlay.opaque` of `opaque`, and
//! the directories that the archive only implies (`deep` and below) have no time.

use std::error::Error;
use std::fs::File;
use std::path::Path;

use bulkhead_erofs::tar::EntryKind;
use bulkhead_erofs::testing::{Archive, Item};
use bulkhead_erofs::{Options, convert};

fn main() -> Result<(), Box<dyn Error>> {
    let dir = std::env::args().nth(1).ok_or("usage: features DIR")?;
    let dir = Path::new(&dir);
    let tar = archive().finish();
    std::fs::write(dir.join("features.tar"), &tar)?;
    let image = File::create(dir.join("features.erofs"))?;
    convert(&tar[..], image, &Options::default())?;
    Ok(())
}

/// Bytes that do not repeat at block size.
fn content(length: usize) -> Vec<u8> {
    (0..=250u8).cycle().take(length).collect()
}

fn archive() -> Archive {
    // File capability cap_net_raw+ep, version 2 (capabilities(7)).
    let capability = [
        1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0,
    ];
    let mut archive = Archive::new();
    archive
        .add(Item::dir("./").mode(0o755).time(1_500_000_000, 1))
        .add(
            Item::dir("dir")
                .mode(0o1777)
                .owner(1, 2)
                .time(1_500_000_001, 999_999_999),
        )
        .add(
            Item::file("dir/setuid", b"#!/bin/sh\n")
                .mode(0o6755)
                .owner(1000, 70_000),
        )
        .add(Item::hard_link("dir/hard", "dir/setuid"))
        .add(
            Item::file("capable", b"x")
                .mode(0o755)
                .xattr("security.capability", capability),
        )
        .add(
            Item::file("attributes", b"")
                .xattr("user.empty", b"")
                .xattr("user.binary", b"\0\x01\xff")
                .xattr("trusted.large", content(2000)),
        )
        .add(Item::dir("attributes.d").xattr("user.dir", "yes"))
        .add(Item::symlink("link", "dir/setuid"))
        .add(Item::symlink("long-link", "l".repeat(3000)))
        .add(
            Item::new(EntryKind::CharDevice, "null")
                .device(1, 3)
                .mode(0o666),
        )
        .add(
            Item::new(EntryKind::BlockDevice, "disk")
                .device(259, 70_000)
                .mode(0o660),
        )
        .add(Item::new(EntryKind::Fifo, "fifo").mode(0o600))
        .add(Item::file("n".repeat(255), b"long name"))
        .add(Item::file(b"not-utf8-\xff\xfe", b"bytes"))
        .add(Item::file("before-1970", b"").time(-86_400, 500_000_000))
        .add(Item::file(".wh.gone", b""))
        .add(Item::dir("opaque"))
        .add(Item::file("opaque/.wh..wh..opq", b""))
        .add(Item::file("zeros", vec![0; 1 << 20]))
        .add(
            Item::file("sparse", content(1024))
                .pax("GNU.sparse.major", "0")
                .pax("GNU.sparse.minor", "1")
                .pax("GNU.sparse.numblocks", "3")
                .pax("GNU.sparse.map", "4608,512,70144,512,1000000,0")
                .pax("GNU.sparse.size", "1000000"),
        );
    for size in [1, 4031, 4032, 4033, 4095, 4096, 4097, 65_536, 1_000_003] {
        archive.add(Item::file(format!("size-{size}"), content(size)));
    }
    archive.add(Item::dir("large"));
    for i in 0..2000 {
        archive.add(Item::file(format!("large/entry-{i:05}"), format!("{i}")));
    }
    archive.add(Item::file("deep/".repeat(100) + "file", b"deep"));
    archive
}
