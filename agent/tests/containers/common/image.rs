//! A small image of two layers: busybox below, files with a purpose above.

use std::{
    fs,
    os::unix::fs::{PermissionsExt as _, symlink},
    path::Path,
};

/// Lowest first.
pub const LAYERS: &[&str] = &["layer-0001", "layer-0002"];

const APPLETS: &[&str] = &[
    "cat", "chmod", "cp", "dd", "echo", "env", "false", "grep", "head", "hostname", "id", "ip",
    "kill", "ls", "md5sum", "mkdir", "mknod", "mount", "nc", "ps", "pwd", "readlink", "seq", "sh",
    "sleep", "stat", "stty", "tail", "test", "touch", "tr", "true", "tty", "umount", "uname", "wc",
    "yes",
];

/// Writes the layers as directories `into/<serial>`.
pub fn write_layers(into: &Path) {
    let low = into.join(LAYERS[0]);
    for dir in [
        "bin", "etc", "tmp", "root", "proc", "sys", "dev", "home/web",
    ] {
        fs::create_dir_all(low.join(dir)).unwrap();
    }
    fs::copy("/bin/busybox", low.join("bin/busybox")).unwrap();
    for applet in APPLETS {
        symlink("busybox", low.join("bin").join(applet)).unwrap();
    }
    let write = |dir: &Path, name: &str, text: &str, mode: u32| {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    let passwd = "root:x:0:0:root:/root:/bin/sh\nweb:x:33:33:www:/home/web:/bin/sh\n";
    write(&low, "etc/passwd", passwd, 0o644);
    write(
        &low,
        "etc/group",
        "root:x:0:\nwww:x:33:\nextra:x:60:web\n",
        0o644,
    );
    write(&low, "etc/version", "lower\n", 0o644);

    let high = into.join(LAYERS[1]);
    write(&high, "etc/version", "upper\n", 0o644);
    write(&high, "bin/not-executable", "#!/bin/sh\n", 0o644);
    write(&high, "bin/not-a-program", "\x01\x02\x03", 0o755);
    fs::copy(probe(), high.join("bin/vsock-probe")).unwrap();
    write(&high, "bin/no-interpreter", "#!/no/such/sh\n", 0o755);
}

/// The example of that name, which cargo builds with the tests.
fn probe() -> std::path::PathBuf {
    let own = std::env::current_exe().unwrap();
    let probe = own.ancestors().nth(2).unwrap().join("examples/vsock_probe");
    super::must_exist(&probe, "cargo build --example vsock_probe");
    probe
}

/// Packs the layers as EROFS files `into/<serial>`.
pub fn pack_layers(directories: &Path, into: &Path) {
    for layer in LAYERS {
        let status = std::process::Command::new("mkfs.erofs")
            .args(["--quiet", "--all-root"])
            .arg(into.join(layer))
            .arg(directories.join(layer))
            .stdout(std::process::Stdio::null())
            .status()
            .unwrap();
        assert!(status.success(), "mkfs.erofs of {layer}");
    }
}
