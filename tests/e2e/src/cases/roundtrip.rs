//! What a container sees of its image is what unpacking the image gives.
//!
//! umoci unpacks each image to a file system of its own on the node; a container of it
//! runs in a virtual machine; and one program tells both trees, name by name.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{ffi::OsStrExt as _, fs::MetadataExt as _},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context as _, Result, ensure};
use bulkhead_cri_api::v1 as cri;
use bulkhead_erofs::{
    tar::EntryKind,
    testing::{Archive as Tar, Item},
};
use nix::mount::MntFlags;
use serde_json::json;

use super::{clean, look};
use bulkhead_e2e::{
    image::{Archive, Built, Compression, busybox},
    node::{Node, PATIENCE, Programs},
    pod::{Pod, container_config},
};

/// What is not the image's in a container.
const LEFT_OUT: [&str; 6] = [
    "dev",
    "proc",
    "sys",
    "etc/hosts",
    "etc/hostname",
    "etc/resolv.conf",
];
/// The packages of the image with Python, and what they need.
const PYTHON: [&str; 6] = [
    "libc6",
    "zlib1g",
    "libexpat1",
    "libpython3.11-minimal",
    "libpython3.11-stdlib",
    "python3.11-minimal",
];
const PYTHON_SAYS: &str = "import json, sys; print(json.dumps(sys.version_info[:2]))";
/// Layers of the odd image, and what is done in each.
const LAYERS: u32 = 60;
const STEPS: u32 = 12;
const SEED: u64 = 0x6a09_e667_f3bc_c908;
/// Of the file system that umoci unpacks to, in bytes; most of it is a hole.
const DISK: u64 = 1 << 30;

pub(crate) async fn as_umoci_unpacks(programs: &Programs) -> Result<()> {
    let mut node = Node::new(programs, "roundtrip", "")?;
    node.start().await?;
    let world = look(&node)?;
    let mut pod = Pod::run(&node, "roundtrip").await?;
    let disk = Disk::new(&node.path("disk"))?;
    for (name, image) in [
        ("busybox", image_of_busybox(programs)?),
        ("python", image_of_python(programs)?),
        ("sixty", odd_image(programs)?),
    ] {
        let reference = format!("localhost/{name}:latest");
        let archive = image.archive(&reference)?;
        node.import(&archive, &format!("{name}.tar")).await?;
        let directory = disk.path().join(name);
        image.write_layout(&directory.join("layout"), "latest")?;
        let expected =
            unpacked(programs, &directory).with_context(|| format!("unpacking {name}"))?;
        let mut command = vec!["/bin/tree".to_owned(), "/".to_owned()];
        command.extend(LEFT_OUT.map(str::to_owned));
        let seen = run(&mut pod, &reference, name, command).await?;
        compare(name, &expected, &seen)?;
        // What the node gives out is that image, too.
        let directory = disk.path().join(format!("{name}-exported"));
        export(&node, &reference, &directory).await?;
        let exported = unpacked(programs, &directory)
            .with_context(|| format!("unpacking the exported {name}"))?;
        compare(&format!("{name}, exported"), &expected, &exported)?;
        println!("    {name}: {} names are the same", seen.lines().count());
    }
    let says = ["/usr/bin/python3.11", "-c", PYTHON_SAYS].map(str::to_owned);
    let said = run(&mut pod, "localhost/python:latest", "says", says.to_vec()).await?;
    ensure!(said == "[3, 11]\n", "{said}");
    pod.remove().await?;
    drop(disk);
    for name in ["busybox", "python", "sixty"] {
        node.cli(&["image", "rm", &format!("localhost/{name}:latest")])
            .await?;
    }
    clean(node, &world).await
}

/// The output of a command in a container of an image.
async fn run(pod: &mut Pod, image: &str, name: &str, command: Vec<String>) -> Result<String> {
    let config = cri::ContainerConfig {
        image: Some(cri::ImageSpec {
            image: image.to_owned(),
            ..Default::default()
        }),
        command,
        args: Vec::new(),
        ..container_config(name, "")
    };
    let id = pod.create(config).await?;
    pod.start(&id).await?;
    let status = pod.exited(&id, PATIENCE).await?;
    let stderr = pod.output(name, "stderr")?;
    ensure!(status.exit_code == 0, "{name}: {status:?}\n{stderr}");
    pod.output(name, "stdout")
}

/// Has the node write an image to `directory/layout`.
async fn export(node: &Node, image: &str, directory: &Path) -> Result<()> {
    let layout = directory.join("layout");
    fs::create_dir_all(&layout)?;
    let archive = directory.join("archive.tar");
    let file = archive.display().to_string();
    node.cli(&["image", "export", "--output", &file, image])
        .await?;
    let status = Command::new("tar")
        .args([Path::new("-xf"), &archive, Path::new("-C"), &layout])
        .status()?;
    ensure!(status.success(), "tar -x of {file}: {status}");
    Ok(fs::remove_file(&archive)?)
}

/// What umoci makes of the image in `directory/layout`, in words.
fn unpacked(programs: &Programs, directory: &Path) -> Result<String> {
    let layout = directory.join("layout");
    let bundle = directory.join("bundle");
    let done = Command::new("umoci")
        .args(["unpack", "--image"])
        .arg(format!("{}:latest", layout.display()))
        .arg(&bundle)
        .output()
        .context("running umoci (Debian package umoci)")?;
    ensure!(
        done.status.success(),
        "umoci: {}",
        String::from_utf8_lossy(&done.stderr)
    );
    // By the name under which it is another program.
    let tree = directory.join("tree");
    std::os::unix::fs::symlink(&programs.testbox, &tree)?;
    let told = Command::new(&tree)
        .arg(bundle.join("rootfs"))
        .args(LEFT_OUT)
        .output()?;
    ensure!(
        told.status.success(),
        "tree: {}",
        String::from_utf8_lossy(&told.stderr)
    );
    Ok(String::from_utf8(told.stdout)?)
}

fn compare(name: &str, expected: &str, seen: &str) -> Result<()> {
    let expected: Vec<&str> = expected.lines().collect();
    let seen: Vec<&str> = seen.lines().collect();
    ensure!(expected.len() > 50, "{name}: {} names", expected.len());
    let missing: Vec<_> = expected.iter().filter(|it| !seen.contains(it)).collect();
    let surplus: Vec<_> = seen.iter().filter(|it| !expected.contains(it)).collect();
    ensure!(
        missing.is_empty() && surplus.is_empty(),
        "{name}: umoci has and the container has not: {missing:#?}\n\
         the container has and umoci has not: {surplus:#?}"
    );
    Ok(())
}

/// A file system with extended attributes, as the node's own may not be.
struct Disk(PathBuf);

impl Disk {
    fn new(path: &Path) -> Result<Self> {
        fs::create_dir_all(path)?;
        let file = path.with_extension("ext4");
        fs::File::create(&file)?.set_len(DISK)?;
        let made = Command::new("mkfs.ext4").arg("-q").arg(&file).status()?;
        ensure!(made.success(), "mkfs.ext4: {made}");
        let mounted = Command::new("mount")
            .args(["-o", "loop"])
            .args([&file, path])
            .status()?;
        ensure!(mounted.success(), "mount: {mounted}");
        Ok(Self(path.to_owned()))
    }

    fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // A loop device of mount(8)'s ends with its mount.
        let _ = nix::mount::umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

/// The layer that every image ends with: what tells of it, and what a container's own
/// files are put over.
fn ending(programs: &Programs) -> Result<Vec<u8>> {
    let testbox = fs::read(&programs.testbox)?;
    let mut tar = Tar::new();
    for directory in ["dev", "proc", "sys", "etc", "bin"] {
        tar.add(Item::dir(directory));
    }
    for file in ["etc/hosts", "etc/hostname", "etc/resolv.conf"] {
        tar.add(Item::file(file, ""));
    }
    tar.add(Item::file("bin/tree", testbox).mode(0o755));
    Ok(tar.finish())
}

fn image_of_busybox(programs: &Programs) -> Result<Built> {
    Archive::default()
        .layer(&busybox()?.finish()?, Compression::Gzip)?
        .layer(&ending(programs)?, Compression::Plain)?
        .build(json!({}))
}

/// Directories that link elsewhere, as Debian has them; and each package's files in a
/// layer of its own, by the names that the package has for them: through these links.
fn image_of_python(programs: &Programs) -> Result<Built> {
    let mut base = Tar::new();
    for directory in ["usr", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64"] {
        base.add(Item::dir(directory));
    }
    for link in ["bin", "sbin", "lib", "lib64"] {
        base.add(Item::symlink(link, format!("usr/{link}")));
    }
    for directory in ["etc", "dev", "proc", "sys"] {
        base.add(Item::dir(directory));
    }
    let mut archive = Archive::default().layer(&base.finish(), Compression::Gzip)?;
    for package in PYTHON {
        let files = Command::new("dpkg").args(["-L", package]).output()?;
        ensure!(files.status.success(), "dpkg -L {package}");
        let mut tar = Tar::new();
        for path in String::from_utf8(files.stdout)?.lines() {
            let path = Path::new(path);
            // Documentation may have been left out at the installation.
            let Ok(meta) = fs::symlink_metadata(path) else {
                continue;
            };
            let Some(name) = path.to_str().map(|it| it.trim_start_matches('/')) else {
                continue;
            };
            // The base has said what these are.
            if matches!(name, "." | "" | "lib" | "lib64" | "bin" | "sbin") {
                continue;
            }
            let item = if meta.is_dir() {
                // The way to a file is the base's, and through links: it has no entry.
                if name.starts_with("lib") {
                    continue;
                }
                Item::dir(name)
            } else if meta.is_symlink() {
                Item::symlink(name, fs::read_link(path)?.as_os_str().as_bytes())
            } else {
                Item::file(name, fs::read(path)?)
            };
            let nanoseconds = u32::try_from(meta.mtime_nsec()).unwrap_or(0);
            tar.add(
                item.mode(meta.mode() & 0o7777)
                    .owner(meta.uid().into(), meta.gid().into())
                    .time(meta.mtime(), nanoseconds),
            );
        }
        archive = archive.layer(&tar.finish(), Compression::Gzip)?;
    }
    let mut last = Tar::new();
    for file in ["etc/hosts", "etc/hostname", "etc/resolv.conf"] {
        last.add(Item::file(file, ""));
    }
    last.add(Item::file("bin/tree", fs::read(&programs.testbox)?).mode(0o755));
    archive
        .layer(&last.finish(), Compression::Plain)?
        .build(json!({}))
}

/// Sixty layers in which everything happens that can happen in layers.
fn odd_image(programs: &Programs) -> Result<Built> {
    let mut odd = Odd {
        random: Random(SEED),
        alive: BTreeMap::new(),
    };
    let mut archive = Archive::default().layer(&ending(programs)?, Compression::Gzip)?;
    for number in 0..LAYERS - 1 {
        // umoci knows no other.
        let kinds = [Compression::Gzip, Compression::Plain];
        let compression = kinds[number as usize % kinds.len()];
        archive = archive.layer(&odd.layer(number), compression)?;
    }
    archive.build(json!({}))
}

/// A linear congruential generator (Knuth's MMIX).
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u32) -> u32 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(self.0 >> 33).unwrap_or(0) % bound
    }
}

/// What a name is now.
#[derive(Clone, Copy, PartialEq)]
enum Alive {
    Directory,
    /// A regular file with one name.
    File,
    Other,
}

/// What the layers so far have left.
struct Odd {
    random: Random,
    alive: BTreeMap<String, Alive>,
}

impl Odd {
    fn layer(&mut self, number: u32) -> Vec<u8> {
        let mut tar = Tar::new();
        // What layers take away comes first, as whoever makes layers has it.
        for _ in 0..3 {
            self.remove(&mut tar);
        }
        let mut own = Vec::new();
        for step in 0..STEPS {
            let directory = self.directory(&mut tar);
            let path = format!("{directory}/n{}", self.random.below(8));
            self.add(&mut tar, &path, number * STEPS + step, &mut own);
        }
        tar.finish()
    }

    /// A directory to put something into: known from below and not named in this layer,
    /// or named.
    fn directory(&mut self, tar: &mut Tar) -> String {
        let mut path = format!("d{}", self.random.below(4));
        if self.random.below(2) == 0 {
            path = format!("{path}/s{}", self.random.below(3));
        }
        let mut whole = String::new();
        for part in path.split('/') {
            whole = match whole.as_str() {
                "" => part.to_owned(),
                parent => format!("{parent}/{part}"),
            };
            let known = self.alive.get(&whole) == Some(&Alive::Directory);
            if known && self.random.below(3) > 0 {
                continue;
            }
            if !known {
                self.forget(&whole);
            }
            let item = Item::dir(whole.clone());
            let item = self.attributes(item, &[0o755, 0o700, 0o1777, 0o2775]);
            tar.add(item);
            self.alive.insert(whole.clone(), Alive::Directory);
        }
        whole
    }

    fn add(&mut self, tar: &mut Tar, path: &str, number: u32, own: &mut Vec<String>) {
        self.forget(path);
        own.retain(|name| name != path && !name.starts_with(&format!("{path}/")));
        let modes = [0o644, 0o755, 0o600, 0o4755, 0o2711];
        let (item, alive) = match self.random.below(10) {
            0 => (Item::dir(path), Alive::Directory),
            1 => (Item::symlink(path, format!("../n{number}")), Alive::Other),
            2 => (Item::new(EntryKind::Fifo, path), Alive::Other),
            3 => {
                let (kind, minor) = match self.random.below(2) {
                    0 => (EntryKind::CharDevice, 3),
                    _ => (EntryKind::BlockDevice, 70_000),
                };
                (Item::new(kind, path).device(7, minor), Alive::Other)
            }
            // To a file of this layer.
            4 if !own.is_empty() => {
                let target =
                    &own[self.random.below(u32::try_from(own.len()).unwrap_or(1)) as usize];
                tar.add(Item::hard_link(path, target.as_str()));
                self.alive.insert(target.clone(), Alive::Other);
                self.alive.insert(path.to_owned(), Alive::Other);
                return;
            }
            // To one of a lower layer.
            5 => {
                let files: Vec<_> = self
                    .alive
                    .iter()
                    .filter(|(name, it)| **it == Alive::File && !own.contains(name))
                    .map(|(name, _)| name.clone())
                    .collect();
                let Ok(count @ 1..) = u32::try_from(files.len()) else {
                    return;
                };
                let target = &files[self.random.below(count) as usize];
                tar.add(Item::hard_link(path, target.as_str()));
                self.alive.insert(target.clone(), Alive::Other);
                self.alive.insert(path.to_owned(), Alive::Other);
                return;
            }
            _ => {
                let size = self.random.below(9) * 1500;
                let byte = number.to_le_bytes()[0];
                let mut item = Item::file(path, vec![byte; size as usize]);
                match self.random.below(4) {
                    0 => item = item.xattr("user.note", format!("{number}")),
                    // cap_net_bind_service=ep (Linux, struct vfs_cap_data, revision 2).
                    1 => {
                        let mut capability = vec![1, 0, 0, 2, 0, 4, 0, 0];
                        capability.resize(20, 0);
                        item = item.xattr("security.capability", capability);
                    }
                    _ => {}
                }
                own.push(path.to_owned());
                (item, Alive::File)
            }
        };
        let item = match alive {
            Alive::Directory => self.attributes(item, &[0o755, 0o711]),
            _ => self.attributes(item, &modes),
        };
        tar.add(item);
        self.alive.insert(path.to_owned(), alive);
    }

    /// Takes away one name, or all that lower layers have in a directory.
    fn remove(&mut self, tar: &mut Tar) {
        let names: Vec<_> = self.alive.keys().cloned().collect();
        let Ok(count @ 1..) = u32::try_from(names.len()) else {
            return;
        };
        let name = &names[self.random.below(count) as usize];
        let opaque = self.alive.get(name) == Some(&Alive::Directory) && self.random.below(3) > 0;
        if opaque {
            tar.add(Item::file(format!("{name}/.wh..wh..opq"), ""));
            let inside = format!("{name}/");
            self.alive.retain(|path, _| !path.starts_with(&inside));
        } else {
            let whiteout = match name.rsplit_once('/') {
                Some((parent, name)) => format!("{parent}/.wh.{name}"),
                None => format!(".wh.{name}"),
            };
            tar.add(Item::file(whiteout, ""));
            let name = name.clone();
            self.forget(&name);
        }
    }

    fn forget(&mut self, path: &str) {
        let inside = format!("{path}/");
        self.alive
            .retain(|name, _| name != path && !name.starts_with(&inside));
    }

    fn attributes(&mut self, item: Item, modes: &[u32]) -> Item {
        let mode = modes[self.random.below(u32::try_from(modes.len()).unwrap_or(1)) as usize];
        let mode = if item.link.is_empty() { mode } else { 0o777 };
        let owner = |random: &mut Random| u64::from(random.below(4) * 1000);
        let (uid, gid) = (owner(&mut self.random), owner(&mut self.random));
        let seconds = i64::from(1_000_000_000 + self.random.below(600_000_000));
        let nanoseconds = self.random.below(1000) * 1_000_000;
        item.mode(mode).owner(uid, gid).time(seconds, nanoseconds)
    }
}
