//! What the tests share: a small reader of EROFS images, written from the
//! format's description, and the programs of erofs-utils.

// Not every test file uses everything.
#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::cast_possible_truncation
)]

use std::collections::BTreeMap;
use std::io::Cursor;
use std::path::Path;
use std::process::Command;

use bulkhead_erofs::{Error, Options, Report, convert};

pub(crate) fn image_of(tar: &[u8]) -> Result<(Vec<u8>, Report), Error> {
    let mut out = Cursor::new(Vec::new());
    let report = convert(tar, &mut out, &Options::default())?;
    Ok((out.into_inner(), report))
}

/// Converts, checks with fsck.erofs and reads back.
pub(crate) fn tree_of(tar: &[u8]) -> Tree {
    let (image, _) = image_of(tar).unwrap();
    fsck(&image);
    Tree::read(&image)
}

/// Runs a program of erofs-utils; a missing one fails the test.
pub(crate) fn erofs_utils(program: &str, args: &[&str]) -> (bool, String) {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| {
            panic!("{program}: {error}: install the package erofs-utils to run these tests")
        });
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

pub(crate) fn fsck(image: &[u8]) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("image");
    std::fs::write(&path, image).unwrap();
    fsck_file(&path);
}

pub(crate) fn fsck_file(path: &Path) {
    let (ok, said) = erofs_utils("fsck.erofs", &["-d3", path.to_str().unwrap()]);
    assert!(ok, "fsck.erofs: {said}");
    assert!(!said.contains("<E>"), "fsck.erofs: {said}");
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct File {
    /// `st_mode`.
    pub(crate) mode: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) mtime: (i64, u32),
    pub(crate) links: u32,
    pub(crate) size: u64,
    /// Content of a file, target of a link.
    pub(crate) data: Vec<u8>,
    /// Device number, as on disk.
    pub(crate) device: u32,
    pub(crate) xattrs: BTreeMap<String, Vec<u8>>,
    /// Inode number.
    pub(crate) nid: u64,
}

#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Tree {
    /// By path; the root is "".
    pub(crate) files: BTreeMap<String, File>,
}

impl Tree {
    pub(crate) fn get(&self, path: &str) -> &File {
        self.files
            .get(path)
            .unwrap_or_else(|| panic!("no {path:?} in {:?}", self.files.keys()))
    }

    pub(crate) fn paths(&self) -> Vec<&str> {
        self.files
            .keys()
            .map(String::as_str)
            .filter(|path| !path.is_empty())
            .collect()
    }

    pub(crate) fn read(image: &[u8]) -> Self {
        let sb = &image[1024..];
        assert_eq!(le32(sb, 0), 0xE0F5_E1E2);
        let reader = Reader {
            image,
            meta: u64::from(le32(sb, 40)) * 4096,
        };
        assert_eq!(image.len() as u64, u64::from(le32(sb, 36)) * 4096);
        let root = u64::from(le16(sb, 14));
        let mut tree = Self {
            files: BTreeMap::new(),
        };
        let mut todo = vec![(String::new(), root, root)];
        while let Some((path, nid, parent)) = todo.pop() {
            let file = reader.inode(nid);
            if file.mode & 0xf000 == 0x4000 {
                for (name, child, _) in reader.entries(&file, nid, parent) {
                    let name = name.escape_ascii().to_string();
                    let below = if path.is_empty() {
                        name
                    } else {
                        format!("{path}/{name}")
                    };
                    todo.push((below, child, nid));
                }
            }
            tree.files.insert(path, file);
        }
        tree
    }
}

struct Reader<'a> {
    image: &'a [u8],
    meta: u64,
}

impl Reader<'_> {
    fn inode(&self, nid: u64) -> File {
        let at = (self.meta + nid * 32) as usize;
        let raw = &self.image[at..];
        let format = le16(raw, 0);
        assert_eq!(format & 1, 1, "extended inode");
        let units = usize::from(le16(raw, 2));
        let xattr_size = if units == 0 { 0 } else { 12 + (units - 1) * 4 };
        let mode = le16(raw, 4);
        let size = le64(raw, 8);
        let union = le32(raw, 16);
        let body = at + 64 + xattr_size;
        let mut file = File {
            mode,
            uid: le32(raw, 24),
            gid: le32(raw, 28),
            mtime: (le64(raw, 32).cast_signed(), le32(raw, 40)),
            links: le32(raw, 44),
            size,
            nid,
            ..File::default()
        };
        if xattr_size > 0 {
            file.xattrs = xattrs(&self.image[at + 64 + 12..body]);
        }
        match mode & 0xf000 {
            0x2000 | 0x6000 => file.device = union,
            0x4000 | 0x8000 | 0xa000 if size > 0 => {
                file.data = self.content(format >> 1 & 7, union, size as usize, body);
            }
            _ => {}
        }
        file
    }

    fn content(&self, layout: u16, union: u32, size: usize, body: usize) -> Vec<u8> {
        let start = union as usize * 4096;
        match layout {
            0 => self.image[start..start + size].to_vec(),
            2 => {
                let whole = size / 4096 * 4096;
                let tail = size - whole;
                assert_eq!(
                    body / 4096,
                    (body + tail - 1) / 4096,
                    "tail crosses a block"
                );
                let blocks = if whole > 0 {
                    &self.image[start..start + whole]
                } else {
                    &[]
                };
                [blocks, &self.image[body..body + tail]].concat()
            }
            4 => {
                assert_eq!(union & !0x1f, 0);
                let chunk = 4096usize << union;
                let mut data = Vec::new();
                for (index, table) in (0..size.div_ceil(chunk)).zip(self.image[body..].chunks(4)) {
                    let length = chunk.min(size - index * chunk);
                    match le32(table, 0) {
                        u32::MAX => data.resize(data.len() + length, 0),
                        block => {
                            let at = block as usize * 4096;
                            data.extend_from_slice(&self.image[at..at + length]);
                        }
                    }
                }
                data
            }
            other => panic!("layout {other}"),
        }
    }

    fn entries(&self, dir: &File, nid: u64, parent: u64) -> Vec<(Vec<u8>, u64, u8)> {
        let mut all = Vec::new();
        for block in dir.data.chunks(4096) {
            let count = usize::from(le16(block, 8)) / 12;
            assert!(count > 0);
            for i in 0..count {
                let from = usize::from(le16(block, i * 12 + 8));
                let to = if i + 1 < count {
                    usize::from(le16(block, (i + 1) * 12 + 8))
                } else {
                    block
                        .iter()
                        .skip(from)
                        .position(|&b| b == 0)
                        .map_or(block.len(), |n| from + n)
                };
                all.push((
                    block[from..to].to_vec(),
                    le64(block, i * 12),
                    block[i * 12 + 10],
                ));
            }
        }
        assert!(
            all.is_sorted_by(|a, b| a.0 < b.0),
            "names are sorted and distinct"
        );
        for (name, child, kind) in &all {
            let types = [0, 0x8000, 0x4000, 0x2000, 0x6000, 0x1000, 0xc000, 0xa000];
            assert_eq!(
                self.inode(*child).mode & 0xf000,
                types[usize::from(*kind)],
                "{name:?}"
            );
        }
        let dot = all.iter().find(|entry| entry.0 == b".").unwrap();
        let dots = all.iter().find(|entry| entry.0 == b"..").unwrap();
        assert_eq!((dot.1, dots.1), (nid, parent));
        all.retain(|entry| entry.0 != b"." && entry.0 != b"..");
        let below = all.iter().filter(|entry| entry.2 == 2).count();
        assert_eq!(dir.links as usize, below + 2);
        all
    }
}

fn xattrs(mut bytes: &[u8]) -> BTreeMap<String, Vec<u8>> {
    let mut all = BTreeMap::new();
    while !bytes.is_empty() {
        let (name_len, value_len) = (usize::from(bytes[0]), usize::from(le16(bytes, 2)));
        let prefix = match bytes[1] {
            1 => "user.",
            2 => "system.posix_acl_access",
            3 => "system.posix_acl_default",
            4 => "trusted.",
            6 => "security.",
            other => panic!("xattr index {other}"),
        };
        let name = format!("{prefix}{}", bytes[4..4 + name_len].escape_ascii());
        let value = bytes[4 + name_len..4 + name_len + value_len].to_vec();
        assert!(all.insert(name, value).is_none());
        bytes = &bytes[(4 + name_len + value_len).next_multiple_of(4)..];
    }
    all
}

fn le16(bytes: &[u8], at: usize) -> u16 {
    u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap())
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}
