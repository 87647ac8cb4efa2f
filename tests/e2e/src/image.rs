//! Images for the tests, made from the machine's own static busybox.
//!
//! What a test needs of an image is stated here and built in memory: layers as
//! tars, compressed in different ways, and an OCI image layout around them, in
//! one archive.

use std::{collections::BTreeMap, io::Write as _, path::Path, sync::OnceLock};

use anyhow::{Context as _, Result};
use serde_json::json;
use sha2::{Digest as _, Sha256};

/// The reference under which [`demo`] is imported.
pub const DEMO: &str = "localhost/demo:latest";

/// How a layer is compressed.
#[derive(Clone, Copy, Debug)]
pub enum Compression {
    /// As docker makes them.
    Gzip,
    /// As newer builders make them.
    Zstd,
    /// Not at all.
    Plain,
}

/// One layer under construction.
pub struct Layer {
    tar: tar::Builder<Vec<u8>>,
}

impl Default for Layer {
    fn default() -> Self {
        Self {
            tar: tar::Builder::new(Vec::new()),
        }
    }
}

impl Layer {
    fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_size(size);
        header.set_mtime(1_700_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header
    }

    /// Adds a directory.
    pub fn dir(mut self, path: &str, mode: u32) -> Result<Self> {
        let mut header = Self::header(tar::EntryType::Directory, mode, 0);
        self.tar.append_data(&mut header, path, std::io::empty())?;
        Ok(self)
    }

    /// Adds a regular file.
    pub fn file(mut self, path: &str, mode: u32, content: &[u8]) -> Result<Self> {
        let mut header = Self::header(tar::EntryType::Regular, mode, content.len() as u64);
        self.tar.append_data(&mut header, path, content)?;
        Ok(self)
    }

    /// Adds a symbolic link.
    pub fn symlink(mut self, path: &str, target: &str) -> Result<Self> {
        let mut header = Self::header(tar::EntryType::Symlink, 0o777, 0);
        self.tar.append_link(&mut header, path, target)?;
        Ok(self)
    }

    /// The layer's tar.
    pub fn finish(self) -> Result<Vec<u8>> {
        Ok(self.tar.into_inner()?)
    }
}

/// An OCI image archive under construction, at first without layers.
#[derive(Default)]
pub struct Archive {
    blobs: BTreeMap<String, Vec<u8>>,
    layers: Vec<serde_json::Value>,
    diff_ids: Vec<String>,
}

fn digest(bytes: &[u8]) -> String {
    let hash = Sha256::digest(bytes);
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Archive {
    /// Puts a layer on top.
    pub fn layer(mut self, tar: &[u8], compression: Compression) -> Result<Self> {
        let (blob, media_type) = match compression {
            Compression::Plain => (tar.to_vec(), "application/vnd.oci.image.layer.v1.tar"),
            Compression::Gzip => {
                let mut gzip =
                    flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
                gzip.write_all(tar)?;
                (
                    gzip.finish()?,
                    "application/vnd.oci.image.layer.v1.tar+gzip",
                )
            }
            Compression::Zstd => (
                zstd::encode_all(tar, 3)?,
                "application/vnd.oci.image.layer.v1.tar+zstd",
            ),
        };
        let name = digest(&blob);
        self.layers.push(json!({
            "mediaType": media_type, "digest": format!("sha256:{name}"), "size": blob.len(),
        }));
        self.diff_ids.push(format!("sha256:{}", digest(tar)));
        self.blobs.insert(name, blob);
        Ok(self)
    }

    /// The archive's bytes. `config` is the image configuration's `config` object.
    pub fn finish(self, reference: &str, config: serde_json::Value) -> Result<Vec<u8>> {
        self.build(config)?.archive(reference)
    }

    /// The image as it is in a registry.
    pub fn build(mut self, config: serde_json::Value) -> Result<Built> {
        let image = serde_json::to_vec(&json!({
            "architecture": "amd64", "os": "linux", "config": config,
            "rootfs": { "type": "layers", "diff_ids": self.diff_ids },
        }))?;
        let image_digest = digest(&image);
        let manifest = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json",
                "digest": format!("sha256:{image_digest}"), "size": image.len(),
            },
            "layers": self.layers,
        }))?;
        self.blobs.insert(image_digest, image);
        Ok(Built {
            manifest,
            blobs: self.blobs,
        })
    }
}

/// An image: its manifest, and its blobs by their digests in hex.
#[derive(Clone)]
pub struct Built {
    /// The manifest's bytes.
    pub manifest: Vec<u8>,
    /// Configuration and layers.
    pub blobs: BTreeMap<String, Vec<u8>>,
}

/// The media type of a [`Built::manifest`].
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

impl Built {
    /// As references have it.
    pub fn manifest_digest(&self) -> String {
        format!("sha256:{}", digest(&self.manifest))
    }

    /// The image as an OCI archive.
    pub fn archive(&self, reference: &str) -> Result<Vec<u8>> {
        let mut outer = Layer::default();
        for (name, content) in self.layout(reference)? {
            outer = outer.file(&name, 0o644, &content)?;
        }
        outer.finish()
    }

    /// Writes the image as an OCI layout.
    pub fn write_layout(&self, directory: &Path, reference: &str) -> Result<()> {
        std::fs::create_dir_all(directory.join("blobs/sha256"))?;
        for (name, content) in self.layout(reference)? {
            std::fs::write(directory.join(name), content)?;
        }
        Ok(())
    }

    /// The files of an OCI layout.
    fn layout(&self, reference: &str) -> Result<Vec<(String, Vec<u8>)>> {
        let index = serde_json::to_vec(&json!({
            "schemaVersion": 2,
            "manifests": [{
                "mediaType": MANIFEST, "digest": self.manifest_digest(),
                "size": self.manifest.len(),
                "platform": { "architecture": "amd64", "os": "linux" },
                // The second is what containerd takes a whole reference from.
                "annotations": {
                    "org.opencontainers.image.ref.name": reference,
                    "io.containerd.image.name": reference,
                },
            }],
        }))?;
        let mut files = vec![
            (
                "oci-layout".to_owned(),
                br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec(),
            ),
            ("index.json".to_owned(), index),
        ];
        let manifest = (digest(&self.manifest), self.manifest.clone());
        let blobs = self.blobs.clone().into_iter().chain([manifest]);
        files.extend(blobs.map(|(name, blob)| (format!("blobs/sha256/{name}"), blob)));
        Ok(files)
    }
}

/// A root file system of the machine's static busybox, open for more.
pub fn busybox() -> Result<Layer> {
    let busybox = std::fs::read("/bin/busybox")
        .context("reading /bin/busybox (Debian package busybox-static)")?;
    let applets = std::process::Command::new("/bin/busybox")
        .arg("--list")
        .output()
        .context("listing busybox's applets")?;
    let mut base = Layer::default()
        .dir("bin", 0o755)?
        .file("bin/busybox", 0o755, &busybox)?;
    for applet in String::from_utf8(applets.stdout)?.lines() {
        if applet != "busybox" {
            base = base.symlink(&format!("bin/{applet}"), "busybox")?;
        }
    }
    base.dir("dev", 0o755)?
        .dir("proc", 0o755)?
        .dir("sys", 0o755)?
        .dir("root", 0o700)?
        .dir("tmp", 0o1777)
}

/// The image most tests run: busybox over three layers, the second of which
/// holds files that the third changes and removes.
pub fn demo() -> Result<&'static [u8]> {
    // Every case wants it, and to compress it takes a second in an emulated machine.
    static DEMO: OnceLock<Vec<u8>> = OnceLock::new();
    if let Some(made) = DEMO.get() {
        return Ok(made);
    }
    let made = make_demo()?;
    Ok(DEMO.get_or_init(|| made))
}

fn make_demo() -> Result<Vec<u8>> {
    let base = busybox()?.finish()?;
    let users = Layer::default()
        .dir("etc", 0o755)?
        .file(
            "etc/passwd",
            0o644,
            b"root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000:web:/www:/bin/sh\n",
        )?
        .file(
            "etc/group",
            0o644,
            b"root:x:0:\nweb:x:1000:\nextra:x:2000:web\n",
        )?
        .dir("www", 0o755)?
        .file("www/index.html", 0o644, b"the second layer's page\n")?
        .file("www/removed.html", 0o644, b"must not be seen\n")?
        .dir("opaque", 0o755)?
        .file("opaque/hidden", 0o644, b"must not be seen\n")?
        .finish()?;
    let site = Layer::default()
        .dir("www", 0o755)?
        .file("www/index.html", 0o644, b"hello from a pod\n")?
        .file("www/.wh.removed.html", 0o644, b"")?
        .dir("opaque", 0o755)?
        .file("opaque/.wh..wh..opq", 0o644, b"")?
        .file("opaque/seen", 0o644, b"top\n")?
        .finish()?;
    Archive::default()
        .layer(&base, Compression::Gzip)?
        .layer(&users, Compression::Plain)?
        .layer(&site, Compression::Zstd)?
        .finish(
            DEMO,
            json!({
                "Env": ["PATH=/bin", "GREETING=hello"],
                "Entrypoint": ["/bin/sh", "-c"],
                "Cmd": ["echo $GREETING"],
                "WorkingDir": "/www",
            }),
        )
}
