//! The images that critest pulls, made from busybox and the testbox, in a registry on
//! the loopback that stands in for every other one.
//!
//! Only those whose contents matter have any: most are pulled, looked at and
//! removed, and hold a file that makes their digests differ.

use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use bulkhead_test_registry::{Content, Server};

use crate::{
    image::{Archive, Built, Compression, Layer, MANIFEST, busybox},
    node::Node,
};

const E2E: &str = "registry.k8s.io/e2e-test-images";
const TOOLS: &str = "gcr.io/k8s-staging-cri-tools";

const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
    www-data:x:33:33:www-data:/var/www:/bin/sh\n\
    default-user:x:1000:1000:default:/home/default-user:/bin/sh\n\
    nobody:x:65534:65534:nobody:/home:/bin/false\n";
const GROUP: &[u8] = b"root:x:0:\nwww-data:x:33:\nusers:x:100:\ndefault-user:x:1000:\n\
    nogroup:x:65534:\n";
/// Puts the user of number 1000 into one more group.
const GROUP_IN_IMAGE: &[u8] = b"group-defined-in-image:x:50000:default-user\n";

/// Builds all of them and sees to it that the node gets them from the server that is
/// returned, whatever registry their names are of.
///
/// # Errors
/// A program that they are made from is not there.
pub(super) async fn serve(node: &Node, testbox: &Path, shell: &Path) -> Result<Server> {
    let read = |path: &Path, by: &str| {
        std::fs::read(path).with_context(|| format!("reading {} ({by} makes it)", path.display()))
    };
    let parts = Parts {
        shell: read(shell, "tests/conformance/shell.sh")?,
        testbox: read(testbox, "tests/host/build.sh")?,
    };
    let content = content(&all(&parts)?)?;
    let server = Server::plain(move |asked| content.answer(asked)).await;
    let hosts = node.hosts_dir().join("_default");
    std::fs::create_dir_all(&hosts)?;
    std::fs::write(
        hosts.join("hosts.toml"),
        format!("no_fallback = true\n[host.\"http://{}\"]\n", server.address),
    )?;
    Ok(server)
}

fn content(images: &[(String, Built)]) -> Result<Content> {
    let mut content = Content::default();
    for (name, image) in images {
        let parts = name.split_once('/').and_then(|(_, it)| it.rsplit_once(':'));
        let (path, tag) = parts.with_context(|| format!("{name} is no registry/path:tag"))?;
        for name in [tag, &image.manifest_digest()] {
            content = content.manifest(path, name, MANIFEST, &image.manifest);
        }
        for (digest, bytes) in &image.blobs {
            content = content.blob(path, &format!("sha256:{digest}"), bytes);
        }
    }
    Ok(content)
}

/// Every image, by its reference.
fn all(parts: &Parts) -> Result<Vec<(String, Built)>> {
    let base = busybox()?.finish()?;
    let system = system(parts, GROUP)?;
    let with_group = system_with_group(parts)?;
    let testbox = &parts.testbox;
    let mut images = Vec::new();
    let mut add = |reference: String, layers: &[&[u8]], config: Value| -> Result<()> {
        let mut archive = Archive::default();
        for layer in layers {
            archive = archive.layer(layer, Compression::Gzip)?;
        }
        images.push((reference, archive.build(config)?));
        Ok(())
    };
    let shell = json!({ "Env": ["PATH=/bin"], "Cmd": ["sh"] });
    add(format!("{E2E}/busybox:1.29-2"), &[&base, &system], shell)?;
    let server = json!({ "Env": ["PATH=/bin"], "Cmd": ["nginx"] });
    add(format!("{E2E}/nginx:1.14-2"), &[&base, &system], server)?;
    let server = json!({
        "Env": ["PATH=/bin"],
        "Cmd": ["sh", "-c", "echo httpd serves; exec nginx"],
    });
    add(format!("{E2E}/httpd:2.4.39-4"), &[&base, &system], server)?;
    let server = json!({ "Env": ["PATH=/bin"], "Cmd": ["nginx", "12003"] });
    add(
        format!("{TOOLS}/hostnet-nginx-amd64:latest"),
        &[&base, &system],
        server,
    )?;
    let set_user_id = Layer::default()
        .dir("bin", 0o755)?
        .file("bin/nonewprivs", 0o4755, testbox)?
        .finish()?;
    let program = json!({ "Cmd": ["/bin/nonewprivs"] });
    add(
        format!("{E2E}/nonewprivs:1.3"),
        &[&base, &system, &set_user_id],
        program,
    )?;
    add(
        format!("{TOOLS}/test-image-predefined-group:latest"),
        &[&base, &with_group],
        json!({ "Env": ["PATH=/bin"], "Cmd": ["sh"], "User": "1000" }),
    )?;
    for (name, user) in [
        ("uid", "1002"),
        ("username", "www-data"),
        ("uid-group", "1003:www-data"),
        ("username-group", "www-data:100"),
    ] {
        add(
            format!("{TOOLS}/test-image-user-{name}:latest"),
            &[&marker(name)?],
            json!({ "User": user }),
        )?;
    }
    let pause = Layer::default().file("pause", 0o755, testbox)?.finish()?;
    let waits = json!({ "Entrypoint": ["/pause"] });
    for name in [
        "latest:latest",
        "1:latest",
        "2:latest",
        "3:latest",
        "tag:test",
        "tag:all",
    ] {
        let reference = format!("{TOOLS}/test-image-{name}");
        add(reference, &[&pause, &marker(name)?], waits.clone())?;
    }
    for tag in 1..=3 {
        let reference = format!("{TOOLS}/test-image-tags:{tag}");
        add(reference, &[&pause, &marker("tags")?], waits.clone())?;
    }
    for registry in ["registry.k8s.io", "k8s.gcr.io"] {
        let reference = format!("{registry}/pause:3.9");
        add(reference, &[&pause], waits.clone())?;
    }
    Ok(images)
}

/// What the shell is linked with, at the same place in an image.
const LIBRARIES: [&str; 3] = [
    "lib/x86_64-linux-gnu/libc.so.6",
    "lib/x86_64-linux-gnu/libresolv.so.2",
    "lib64/ld-linux-x86-64.so.2",
];

/// The programs that images are made from, beside busybox.
struct Parts {
    /// A shell that runs what is at /bin/ls as `ls` (tests/conformance/shell.sh).
    shell: Vec<u8>,
    testbox: Vec<u8>,
}

/// What programs expect around them, and those that busybox lacks.
fn system(parts: &Parts, group: &[u8]) -> Result<Vec<u8>> {
    let mut layer = Layer::default()
        .dir("bin", 0o755)?
        .dir("lib", 0o755)?
        .dir("lib/x86_64-linux-gnu", 0o755)?
        .dir("lib64", 0o755)?;
    for inside in LIBRARIES {
        let path = Path::new("/").join(inside);
        let file = std::fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        layer = layer.file(inside, 0o755, &file)?;
    }
    layer
        .file("bin/sh", 0o755, &parts.shell)?
        .file("bin/testbox", 0o755, &parts.testbox)?
        .file("bin/nginx", 0o755, &parts.testbox)?
        .symlink("bin/pgrep", "testbox")?
        .symlink("bin/ipcs", "testbox")?
        .symlink("bin/top", "testbox")?
        .dir("etc", 0o755)?
        .file("etc/passwd", 0o644, PASSWD)?
        .file("etc/group", 0o644, group)?
        .dir("home", 0o755)?
        .dir("var", 0o755)?
        .dir("var/run", 0o755)?
        .finish()
}

fn system_with_group(parts: &Parts) -> Result<Vec<u8>> {
    system(parts, &[GROUP, GROUP_IN_IMAGE].concat())
}

/// A layer that is nothing but different from others.
fn marker(name: &str) -> Result<Vec<u8>> {
    Layer::default()
        .file("marker", 0o644, name.as_bytes())?
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_is_there_once() {
        let parts = Parts {
            shell: b"no shell".to_vec(),
            testbox: b"not a program".to_vec(),
        };
        let images = all(&parts).unwrap();
        let mut references: Vec<_> = images.iter().map(|(reference, _)| reference).collect();
        references.sort();
        references.dedup();
        assert_eq!(references.len(), images.len());
        assert!(references.iter().all(|it| it.contains(':')));
        content(&images).unwrap();
    }
}
