//! Bodies of fuzz targets: what must hold for any input at all.

use std::io::{self, Cursor, Read};
use std::sync::OnceLock;

use crate::read::{DIRECTORY, Image};
use crate::testing::{Archive, Item};
use crate::{Limits, Options, convert, export};

/// Converts any bytes as an archive. It must neither panic nor exceed small
/// limits, and what it accepts must come out the same twice.
pub fn archive(input: &[u8]) {
    let options = Options {
        limits: small(),
        uuid: [0; 16],
    };
    let mut first = Cursor::new(Vec::new());
    if let Ok(report) = convert(input, &mut first, &options) {
        let first = first.into_inner();
        assert_eq!(first.len() as u64, report.image_bytes);
        let mut second = Cursor::new(Vec::new());
        assert_eq!(convert(input, &mut second, &options).ok(), Some(report));
        assert!(first == second.into_inner(), "two conversions differ");
        again(first);
    }
}

/// The archive of an image is one of an equal image, and so has the same archive.
fn again(image: Vec<u8>) {
    let archive = |image| {
        let image = Image::open(image).ok();
        assert!(image.is_some(), "an image that can't be read was written");
        // Sparse files are larger in an archive than in an image.
        export(&image?, Vec::new(), &small()).ok()
    };
    let Some(first) = archive(image) else { return };
    let mut image = Cursor::new(Vec::new());
    let taken = convert(first.as_slice(), &mut image, &Options::default());
    assert!(taken.is_ok(), "given out and not taken in: {taken:?}");
    assert!(archive(image.into_inner()) == Some(first), "another tree");
}

fn small() -> Limits {
    Limits {
        metadata_bytes: 1 << 20,
        entries: 10_000,
        data_bytes: 16 << 20,
        ..Limits::default()
    }
}

/// Reads all of an image in which bytes were changed: two for the place, one for the
/// value. It must neither panic nor go round in circles.
pub fn image(input: &[u8]) {
    static WHOLE: OnceLock<Vec<u8>> = OnceLock::new();
    let mut bytes = WHOLE.get_or_init(whole).clone();
    for change in input.chunks_exact(3) {
        let [low, high, value] = *change else { return };
        // The tables are at the end; what is before them is content.
        let place = usize::from(u16::from_le_bytes([low, high])) % bytes.len();
        if let Some(byte) = bytes.get_mut(place) {
            *byte = value;
        }
    }
    let _ = read(bytes);
}

fn whole() -> Vec<u8> {
    let tar = [
        Item::dir("a"),
        Item::file("a/b", vec![7; 5000]).xattr("user.x", "y"),
        Item::symlink("c", "a/b"),
        Item::hard_link("d", "a/b"),
    ];
    let many = (0..60).map(|n| Item::file(format!("a/name-{n:0100}"), ""));
    let tar = tar.into_iter().chain(many).collect::<Archive>().finish();
    let mut image = Cursor::new(Vec::new());
    // An image of less than 64 KiB.
    let _ = convert(&tar[..], &mut image, &Options::default());
    image.into_inner()
}

fn read(bytes: Vec<u8>) -> io::Result<()> {
    let image = Image::open(bytes)?;
    let _ = export(&image, io::sink(), &small());
    let mut todo = vec![image.root()?];
    for _ in 0..1000 {
        let Some(inode) = todo.pop() else { break };
        if inode.file_type() != DIRECTORY {
            let _ = image.target(&inode);
            io::copy(&mut image.content(&inode)?.take(1 << 20), &mut io::sink())?;
            continue;
        }
        let _ = image.lookup(&inode, b"b")?;
        image.each(&inode, |name, slot| {
            if !matches!(name, b"." | b"..") {
                todo.extend(image.inode(slot).ok());
            }
            Ok(todo.len() < 10_000)
        })?;
    }
    Ok(())
}
