//! The device nodes of a container that may use every device.
//!
//! A privileged container finds in its /dev what the agent finds in its own: in a
//! microVM that is the guest's, which has no device of the node but its disks. What
//! is plugged in later a container has to make a node for, which it may.

use std::{
    fs::{self, Metadata},
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceBuilder, LinuxDeviceType, Mount};

use crate::error::{Context as _, Error, Result};

/// More nodes than any /dev has.
const MAX_NODES: usize = 4096;
/// Deepest directory that is looked into.
const MAX_DEPTH: usize = 4;
/// What each container has of its own (OCI config-linux, "Default Devices"), and
/// places that are file systems of their own.
const OWN: [&str; 13] = [
    "null",
    "zero",
    "full",
    "random",
    "urandom",
    "tty",
    "console",
    "ptmx",
    "pts",
    "shm",
    "mqueue",
    "hugepages",
    "fd",
];

/// Whether a node would be made in something that is mounted below /dev.
#[must_use]
pub fn is_on(mounts: &[Mount], node: &LinuxDevice) -> bool {
    mounts
        .iter()
        .map(Mount::destination)
        .any(|place| place != Path::new("/dev") && node.path().starts_with(place))
}

/// Every device node below `dev`, as a container is given it below /dev.
///
/// # Errors
/// `dev` can't be read.
pub fn every_device(dev: &Path) -> Result<Vec<LinuxDevice>> {
    let mut devices = Vec::new();
    let mut directories = vec![(dev.to_owned(), 0)];
    while let Some((dir, depth)) = directories.pop() {
        let entries = fs::read_dir(&dir).context(|| format!("read {}", dir.display()))?;
        for entry in entries.flatten() {
            let path = entry.path();
            let name = path.strip_prefix(dev).unwrap_or(&path);
            // A link says nothing that its target doesn't.
            let Ok(metadata) = entry.metadata() else {
                continue;
            };
            if OWN.iter().any(|own| Path::new(own) == name) {
                continue;
            }
            if metadata.is_dir() && depth < MAX_DEPTH {
                directories.push((path, depth + 1));
            } else if let Some(device) = device(Path::new("/dev").join(name), &metadata)? {
                devices.push(device);
            }
            if devices.len() > MAX_NODES {
                return Err(Error::precondition(format!(
                    "more than {MAX_NODES} devices in {}",
                    dev.display()
                )));
            }
        }
    }
    Ok(devices)
}

fn device(path: PathBuf, metadata: &Metadata) -> Result<Option<LinuxDevice>> {
    let kind = metadata.file_type();
    let kind = if kind.is_char_device() {
        LinuxDeviceType::C
    } else if kind.is_block_device() {
        LinuxDeviceType::B
    } else {
        return Ok(None);
    };
    let number = metadata.rdev();
    LinuxDeviceBuilder::default()
        .path(path)
        .typ(kind)
        .major(i64::from(rustix::fs::major(number)))
        .minor(i64::from(rustix::fs::minor(number)))
        .file_mode(metadata.mode() & 0o7777)
        .uid(metadata.uid())
        .gid(metadata.gid())
        .build()
        .map(Some)
        .map_err(|why| Error::internal(format!("describe a device: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_mounted_below_dev_gets_no_nodes() {
        let mount = |place: &str| {
            let mut mount = Mount::default();
            mount.set_destination(place.into());
            mount
        };
        let mounts = [mount("/dev"), mount("/dev/disk"), mount("/d")];
        let mut node = LinuxDevice::default();
        node.set_path("/dev/disk/x".into());
        assert!(is_on(&mounts, &node));
        node.set_path("/dev/disks".into());
        assert!(!is_on(&mounts, &node));
    }

    #[test]
    fn only_nodes_that_no_container_has_anyway() {
        // The machine's own: at least these are in every /dev.
        let devices = every_device(Path::new("/dev")).unwrap();
        assert!(devices.iter().all(|it| it.path().starts_with("/dev")));
        for own in ["/dev/null", "/dev/tty", "/dev/pts/0", "/dev/console"] {
            assert!(
                devices.iter().all(|it| it.path() != Path::new(own)),
                "{own}"
            );
        }
        let empty = tempfile::tempdir().unwrap();
        fs::create_dir(empty.path().join("sub")).unwrap();
        fs::write(empty.path().join("sub/file"), "").unwrap();
        assert!(every_device(empty.path()).unwrap().is_empty());
        assert!(every_device(&empty.path().join("none")).is_err());
    }
}
