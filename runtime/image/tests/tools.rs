//! Images made by skopeo and umoci, in every form that they write.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::process::Command;

use bulkhead_image::{Digest, ImportOptions, Store};

fn run(program: &str, args: &[&str]) {
    let output = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|error| {
            panic!(
                "{program}: {error}: these tests need the packages skopeo, umoci and erofs-utils"
            )
        });
    assert!(
        output.status.success(),
        "{program} {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// An image of two layers, the second with changes and removals.
fn make_layout(dir: &Path) -> String {
    let layout = dir.join("layout").display().to_string();
    let image = format!("{layout}:latest");
    let bundle = dir.join("bundle");
    let root = bundle.join("rootfs");
    run("umoci", &["init", "--layout", &layout]);
    run("umoci", &["new", "--image", &image]);
    run(
        "umoci",
        &[
            "unpack",
            "--rootless",
            "--image",
            &image,
            bundle.to_str().unwrap(),
        ],
    );
    fs::create_dir_all(root.join("etc/dir")).unwrap();
    fs::write(root.join("etc/passwd"), "root:x:0:0::/:/bin/sh\n").unwrap();
    fs::write(root.join("etc/gone"), "gone").unwrap();
    fs::write(root.join("etc/dir/file"), "file").unwrap();
    symlink("passwd", root.join("etc/link")).unwrap();
    run(
        "umoci",
        &[
            "repack",
            "--refresh-bundle",
            "--image",
            &image,
            bundle.to_str().unwrap(),
        ],
    );
    fs::remove_file(root.join("etc/gone")).unwrap();
    fs::remove_dir_all(root.join("etc/dir")).unwrap();
    fs::write(root.join("run.sh"), "#!/bin/sh\n".repeat(1000)).unwrap();
    fs::set_permissions(root.join("run.sh"), fs::Permissions::from_mode(0o755)).unwrap();
    run(
        "umoci",
        &["repack", "--image", &image, bundle.to_str().unwrap()],
    );
    run(
        "umoci",
        &[
            "config",
            "--image",
            &image,
            "--config.entrypoint",
            "/run.sh",
            "--config.cmd",
            "arg",
            "--config.env",
            "A=b",
            "--config.workingdir",
            "/etc",
            "--config.user",
            "1:2",
            "--config.label",
            "k=v",
            "--config.stopsignal",
            "SIGINT",
        ],
    );
    image
}

#[test]
fn every_form_gives_the_same_layers() {
    let dir = tempfile::tempdir().unwrap();
    let image = make_layout(dir.path());
    let oci = format!("oci:{image}");
    let at = |name: &str| dir.path().join(name).display().to_string();
    let copy = |args: &[&str], to: &str| {
        run(
            "skopeo",
            &[&["copy", "--insecure-policy"], args, &[&oci, to]].concat(),
        );
    };
    copy(
        &[],
        &format!("oci-archive:{}:registry.test/app:1", at("oci.tar")),
    );
    copy(
        &[],
        &format!("docker-archive:{}:registry.test/app:1", at("docker.tar")),
    );
    copy(
        &["--dest-compress-format", "zstd", "--dest-compress"],
        &format!("oci:{}:registry.test/app:1", at("zstd")),
    );
    run("gzip", &["-k", &at("docker.tar")]);

    let mut seen: Option<Vec<Digest>> = None;
    for (file, name) in [
        ("layout", "localhost/layout:latest"),
        ("oci.tar", "registry.test/app:1"),
        ("docker.tar", "registry.test/app:1"),
        ("docker.tar.gz", "registry.test/app:1"),
        ("zstd", "registry.test/app:1"),
    ] {
        let store = Store::open(dir.path().join(format!("store-{file}"))).unwrap();
        let report = store
            .import(&dir.path().join(file), &ImportOptions::default(), &|_| {})
            .unwrap();
        let [image] = &report.images[..] else {
            panic!("{report:?}")
        };
        assert_eq!(image.repo_tags, [name], "{file}");
        assert_eq!(image.config.entrypoint, ["/run.sh"], "{file}");
        assert_eq!(image.config.cmd, ["arg"]);
        assert!(image.config.env.contains(&"A=b".to_owned()));
        assert_eq!(image.config.working_dir, "/etc");
        assert_eq!(image.config.user, "1:2");
        assert_eq!(image.config.labels["k"], "v");
        assert_eq!(
            image.config.stop_signal.as_deref(),
            Some("SIGINT"),
            "{file}"
        );
        let layers: Vec<Digest> = image.layers.iter().map(|layer| layer.diff_id).collect();
        assert_eq!(layers.len(), 2, "{file}");
        assert_eq!(
            seen.get_or_insert_with(|| layers.clone()),
            &layers,
            "{file}"
        );
        for layer in &image.layers {
            let check = Command::new("fsck.erofs")
                .arg(&layer.erofs_path)
                .output()
                .unwrap();
            assert!(
                check.status.success(),
                "{}",
                String::from_utf8_lossy(&check.stderr)
            );
        }
        let top = &image.layers[1].erofs_path;
        let list = Command::new("dump.erofs")
            .args(["--ls", "--path=/etc"])
            .arg(top)
            .output()
            .unwrap();
        let list = String::from_utf8_lossy(&list.stdout).into_owned();
        assert!(list.contains("gone") && list.contains("dir"), "{list}");
    }
}

/// The disk fills amid an import: the error says so, and nothing stays.
#[test]
fn a_full_disk() {
    const CHILD: &str = "BULKHEAD_TEST_FULL_DISK";
    if let Ok(dir) = std::env::var(CHILD) {
        let dir = Path::new(&dir);
        let store = Store::open(dir.join("store")).unwrap();
        let error = store
            .import(&dir.join("image.tar"), &ImportOptions::default(), &|_| {})
            .unwrap_err();
        assert_eq!(error.kind(), bulkhead_image::ErrorKind::NoSpace, "{error}");
        assert_eq!(fs::read_dir(dir.join("store/tmp")).unwrap().count(), 0);
        assert_eq!(fs::read_dir(dir.join("store/layers")).unwrap().count(), 0);
        assert_eq!(
            fs::read_dir(dir.join("store/blobs/sha256"))
                .unwrap()
                .count(),
            0
        );
        assert!(store.list().is_empty());
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let layout = make_layout(dir.path());
    // A layer that does not fit: its own file is larger than the limit below.
    let (layout_dir, _) = layout.rsplit_once(':').unwrap();
    let bundle = dir.path().join("big");
    run(
        "umoci",
        &[
            "unpack",
            "--rootless",
            "--image",
            &layout,
            bundle.to_str().unwrap(),
        ],
    );
    fs::write(bundle.join("rootfs/big"), vec![b'x'; 16 << 20]).unwrap();
    run(
        "umoci",
        &["repack", "--image", &layout, bundle.to_str().unwrap()],
    );
    let archive = dir.path().join("image.tar").display().to_string();
    run(
        "skopeo",
        &[
            "copy",
            "--insecure-policy",
            &format!("oci:{layout_dir}:latest"),
            &format!("oci-archive:{archive}:a:1"),
        ],
    );
    // A limit on file sizes stands for the full disk: writing past it fails.
    // The unit is 512 or 1024 bytes, by the shell.
    let status = Command::new("sh")
        .args([
            "-c",
            "trap '' XFSZ; ulimit -f 8192; exec \"$0\" --exact a_full_disk --nocapture",
        ])
        .arg(std::env::current_exe().unwrap())
        .env(CHILD, dir.path())
        .status()
        .unwrap();
    assert!(status.success());
}
