//! Devices of the host, which only containers of host pods can have.
//!
//! Looks at the host's files; not for a thread that must not block.

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Component, Path, PathBuf},
};

use bulkhead_cri_api::v1::{ContainerConfig, Device};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceType};

use crate::error::{Error, Result};

/// Most device nodes of one container.
const DEVICES_MAX: usize = 4096;
/// Deepest directory of devices that is looked into.
const DEVICES_DEPTH: usize = 8;

/// Nodes and rules of the devices that a container asks for.
pub(super) fn devices(
    config: &ContainerConfig,
) -> Result<(Vec<LinuxDevice>, Vec<LinuxDeviceCgroup>)> {
    let (mut nodes, mut rules) = (Vec::new(), Vec::new());
    for wanted in &config.devices {
        for node in nodes_of(wanted)? {
            let mut rule = LinuxDeviceCgroup::default();
            rule.set_allow(true)
                .set_typ(Some(node.typ()))
                .set_major(Some(node.major()))
                .set_minor(Some(node.minor()))
                .set_access(Some(access(wanted)?));
            rules.push(rule);
            nodes.push(node);
        }
        if nodes.len() > DEVICES_MAX {
            return Err(Error::invalid(format!("more than {DEVICES_MAX} devices")));
        }
    }
    Ok((nodes, rules))
}

fn access(wanted: &Device) -> Result<String> {
    let letters = match wanted.permissions.as_str() {
        "" => "rwm",
        letters => letters,
    };
    if !letters.bytes().all(|letter| b"rwm".contains(&letter)) {
        return Err(Error::invalid(format!(
            "permissions {letters:?} of device {:?} are made of r, w and m",
            wanted.host_path
        )));
    }
    Ok(letters.to_owned())
}

/// A device, or all below a directory of them.
fn nodes_of(wanted: &Device) -> Result<Vec<LinuxDevice>> {
    let named = |reason: String| Error::invalid(format!("device {:?}: {reason}", wanted.host_path));
    let path = match wanted.container_path.as_str() {
        "" => wanted.host_path.as_str(),
        path => path,
    };
    let inside = Path::new(path);
    let plain = inside
        .components()
        .skip(1)
        .all(|part| matches!(part, Component::Normal(_)));
    if !inside.starts_with("/dev") || inside == Path::new("/dev") || !plain {
        return Err(named(format!("container_path {path:?} must be below /dev")));
    }
    let source = fs::canonicalize(&wanted.host_path).map_err(|error| named(error.to_string()))?;
    let mut found = Vec::new();
    let mut places = vec![(source, inside.to_owned(), 0)];
    while let Some((source, inside, depth)) = places.pop() {
        let metadata = fs::symlink_metadata(&source).map_err(|error| named(error.to_string()))?;
        if let Some(node) = node(inside.clone(), &metadata)? {
            found.push(node);
        } else if metadata.is_dir() && depth < DEVICES_DEPTH {
            let entries = fs::read_dir(&source).map_err(|error| named(error.to_string()))?;
            for entry in entries.flatten() {
                let inside = inside.join(entry.file_name());
                places.push((entry.path(), inside, depth + 1));
            }
        } else if depth == 0 {
            return Err(named("it is no device".to_owned()));
        }
        if found.len() > DEVICES_MAX {
            return Err(named(format!("more than {DEVICES_MAX} devices below it")));
        }
    }
    Ok(found)
}

fn node(inside: PathBuf, metadata: &fs::Metadata) -> Result<Option<LinuxDevice>> {
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
        .path(inside)
        .typ(kind)
        .major(i64::from(rustix::fs::major(number)))
        .minor(i64::from(rustix::fs::minor(number)))
        .file_mode(metadata.mode() & 0o7777)
        .uid(metadata.uid())
        .gid(metadata.gid())
        .build()
        .map(Some)
        .map_err(|error| Error::internal(format!("describe a device: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn devices_are_the_hosts_nodes() {
        let device = |host: &str, inside: &str, permissions: &str| {
            let config = ContainerConfig {
                devices: vec![Device {
                    host_path: host.to_owned(),
                    container_path: inside.to_owned(),
                    permissions: permissions.to_owned(),
                }],
                ..Default::default()
            };
            devices(&config)
        };
        let (nodes, rules) = device("/dev/null", "/dev/nothing", "rw").unwrap();
        assert_eq!(nodes[0].path(), Path::new("/dev/nothing"));
        assert_eq!((nodes[0].major(), nodes[0].minor()), (1, 3));
        assert_eq!(rules[0].access().as_deref(), Some("rw"));
        let (_, rules) = device("/dev/null", "", "").unwrap();
        assert_eq!(rules[0].access().as_deref(), Some("rwm"));
        assert!(device("/dev/null", "/etc/x", "").is_err());
        assert!(device("/dev/null", "", "rx").is_err());
        assert!(device("/etc/passwd", "/dev/x", "").is_err());
        assert!(device("/dev/nonexistent", "", "").is_err());
    }
}
