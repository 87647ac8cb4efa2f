//! fsck.erofs extracts what tar would have: compared file by file.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod common;

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::Command;

use common::{erofs_utils, image_of};

#[derive(Debug, PartialEq)]
struct Entry {
    mode: u32,
    mtime: (i64, i64),
    content: Vec<u8>,
}

fn tree(root: &Path) -> BTreeMap<String, Entry> {
    let mut entries = BTreeMap::new();
    let mut todo = vec![root.to_owned()];
    while let Some(path) = todo.pop() {
        let meta = std::fs::symlink_metadata(&path).unwrap();
        let content = if meta.is_symlink() {
            std::fs::read_link(&path)
                .unwrap()
                .into_os_string()
                .into_encoded_bytes()
        } else if meta.is_dir() {
            todo.extend(
                std::fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
            Vec::new()
        } else {
            std::fs::read(&path).unwrap()
        };
        let name = path
            .strip_prefix(root)
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned();
        // Extraction does not set times of links.
        let mtime = if meta.is_symlink() {
            (0, 0)
        } else {
            (meta.mtime(), meta.mtime_nsec())
        };
        entries.insert(
            name,
            Entry {
                mode: meta.mode(),
                mtime,
                content,
            },
        );
    }
    entries
}

#[test]
fn a_real_tree_comes_out_as_it_went_in() {
    let dir = tempfile::tempdir().unwrap();
    let source = dir.path().join("source");
    // Something with many small files, links and a few large ones.
    std::fs::create_dir_all(source.join("etc")).unwrap();
    for i in 0u16..300 {
        let path = source.join(format!("etc/file-{i}"));
        std::fs::write(
            &path,
            vec![b'a' + i.to_le_bytes()[0] % 26; usize::from(i).pow(2)],
        )
        .unwrap();
        std::fs::set_permissions(
            &path,
            std::fs::Permissions::from_mode(0o600 + u32::from(i % 0o100)),
        )
        .unwrap();
    }
    std::os::unix::fs::symlink("file-1", source.join("etc/link")).unwrap();
    std::fs::hard_link(source.join("etc/file-299"), source.join("again")).unwrap();

    let tar = Command::new("tar")
        .args(["--format=posix", "-C"])
        .arg(&source)
        .args(["-cf", "-", "."])
        .output()
        .unwrap();
    assert!(tar.status.success());
    let image = dir.path().join("image");
    std::fs::write(&image, image_of(&tar.stdout).unwrap().0).unwrap();

    let target = dir.path().join("target");
    let extract = format!("--extract={}", target.display());
    let (ok, said) = erofs_utils(
        "fsck.erofs",
        &[&extract, "--preserve-perms", image.to_str().unwrap()],
    );
    assert!(ok, "{said}");
    assert_eq!(tree(&target), tree(&source));

    let (ok, said) = erofs_utils("dump.erofs", &["-s", "-S", image.to_str().unwrap()]);
    assert!(ok, "{said}");
    assert!(
        said.contains("Filesystem inode count:                       303"),
        "{said}"
    );
    let (ok, said) = erofs_utils(
        "dump.erofs",
        &["--ls", "--path=/etc", image.to_str().unwrap()],
    );
    assert!(ok && said.contains("file-299"), "{said}");
}
