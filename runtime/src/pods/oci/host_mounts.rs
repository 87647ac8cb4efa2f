//! Paths of the host, which only containers of host pods can have.
//!
//! Looks at the host's files; not for a thread that must not block.

use std::{
    ffi::OsString,
    fs,
    os::unix::ffi::OsStringExt as _,
    path::{Component, Path, PathBuf},
};

use bulkhead_cri_api::v1::{ContainerConfig, Mount as Wanted, MountPropagation};
use oci_spec::runtime::Mount;

use crate::error::{Error, Result};

/// Largest mount table that is read, bytes.
const MOUNT_TABLE_MAX: u64 = 64 << 20;

/// Bind mounts of the host's paths.
pub(super) fn mounts(config: &ContainerConfig) -> Result<Vec<Mount>> {
    config
        .mounts
        .iter()
        .map(|wanted| {
            let mount = mount(wanted)?;
            check_source(wanted)?;
            Ok(mount)
        })
        .collect()
}

/// One of them. Pure.
fn mount(wanted: &Wanted) -> Result<Mount> {
    let destination = destination(&wanted.container_path)?;
    let named = |what: &str| {
        Err(Error::invalid(format!(
            "mount of {:?} on {:?}: {what}",
            wanted.host_path, wanted.container_path
        )))
    };
    if !Path::new(&wanted.host_path).is_absolute() || wanted.host_path.contains('\0') {
        return named("host_path must be an absolute path");
    }
    if !wanted.uid_mappings.is_empty() || !wanted.gid_mappings.is_empty() {
        return named("user namespaces, and so id mappings, are not there in this version");
    }
    if !wanted.mount_options.is_empty() {
        return named("mount_options are not there in this version, as Status announces");
    }
    let Ok(propagation) = MountPropagation::try_from(wanted.propagation) else {
        return named("unknown propagation");
    };
    if wanted.recursive_read_only
        && (!wanted.readonly || propagation != MountPropagation::PropagationPrivate)
    {
        return named("recursive_read_only needs readonly, and private propagation");
    }
    let propagation = match propagation {
        MountPropagation::PropagationPrivate => "rprivate",
        MountPropagation::PropagationHostToContainer => "rslave",
        MountPropagation::PropagationBidirectional => "rshared",
    };
    let mut options = vec!["rbind", propagation];
    options.push(if wanted.readonly { "ro" } else { "rw" });
    if wanted.recursive_read_only {
        options.push("rro");
    }
    let mut mount = Mount::default();
    mount
        .set_destination(destination)
        .set_typ(Some("bind".to_owned()))
        .set_source(Some(PathBuf::from(&wanted.host_path)))
        .set_options(Some(options.into_iter().map(str::to_owned).collect()));
    Ok(mount)
}

/// Where a mount may go: anywhere but the root and /dev, in which device nodes are
/// made: those would be the host's then.
fn destination(path: &str) -> Result<PathBuf> {
    let place = Path::new(path);
    let plain = place
        .components()
        .skip(1)
        .all(|part| matches!(part, Component::Normal(_)));
    if !place.is_absolute() || !plain || path.contains('\0') {
        return Err(Error::invalid(format!(
            "container_path {path:?} of a mount must be an absolute path without \"..\""
        )));
    }
    // Without slashes at its end.
    let place: PathBuf = place.components().collect();
    if place == Path::new("/") {
        return Err(Error::invalid("a mount on / would hide the image"));
    }
    if place == Path::new("/dev") {
        return Err(Error::invalid(
            "a mount on /dev would have the container's devices made in it, which are the host's \
             then; mount single paths below it, or make the container privileged: it has all the \
             host's devices",
        ));
    }
    Ok(place)
}

/// The source must be there, and of a mount that can propagate as asked.
fn check_source(wanted: &Wanted) -> Result<()> {
    let named = |reason: String| {
        Error::invalid(format!(
            "mount of the host's {:?}: {reason}",
            wanted.host_path
        ))
    };
    let source = fs::canonicalize(&wanted.host_path).map_err(|error| named(error.to_string()))?;
    let (fields, hint): (&[&str], _) = match wanted.propagation() {
        MountPropagation::PropagationPrivate => return Ok(()),
        MountPropagation::PropagationHostToContainer => (&["shared:", "master:"], "--make-rslave"),
        MountPropagation::PropagationBidirectional => (&["shared:"], "--make-rshared"),
    };
    let mut table = Vec::new();
    fs::File::open("/proc/1/mountinfo")
        .map(|file| std::io::Read::take(file, MOUNT_TABLE_MAX))
        .and_then(|mut file| std::io::Read::read_to_end(&mut file, &mut table))
        .map_err(|error| Error::internal(format!("read the host's mount table: {error}")))?;
    // A mount point that is no text can't be one that is asked for.
    let table = String::from_utf8_lossy(&table);
    let (point, optional) = mount_of(&table, &source)
        .ok_or_else(|| named("it is on no mount of the host's mount table".to_owned()))?;
    let propagates = optional
        .split(' ')
        .any(|field| fields.iter().any(|wanted| field.starts_with(wanted)));
    if propagates {
        return Ok(());
    }
    Err(Error::precondition(format!(
        "mount of the host's {:?}: it is on the mount {point:?}, which does not propagate as \
         the container asks for; run `mount {hint} {point:?}` on the node",
        wanted.host_path
    )))
}

/// The mount that a path is on, and its optional fields (proc_pid_mountinfo(5)).
fn mount_of<'a>(table: &'a str, path: &Path) -> Option<(PathBuf, &'a str)> {
    let mut best: Option<(PathBuf, &str)> = None;
    for line in table.lines() {
        let mut words = line.splitn(7, ' ');
        let (Some(point), Some(rest)) = (words.nth(4), words.nth(1)) else {
            continue;
        };
        let optional = rest.split(" - ").next().unwrap_or("");
        let optional = optional.strip_prefix("- ").map_or(optional, |_| "");
        let point = unescaped(point);
        // A later mount at the same place hides an earlier one.
        let longer = best
            .as_ref()
            .is_none_or(|(best, _)| point.as_os_str().len() >= best.as_os_str().len());
        if path.starts_with(&point) && longer {
            best = Some((point, optional));
        }
    }
    best
}

/// A mount point as it is: the table has white space and backslashes in octal.
fn unescaped(point: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(point.len());
    let mut rest = point.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let octal = after
            .get(..3)
            .filter(|digits| first == b'\\' && digits.iter().all(|it| (b'0'..=b'7').contains(it)))
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        bytes.push(octal.unwrap_or(first));
        rest = after
            .get(if octal.is_some() { 3 } else { 0 }..)
            .unwrap_or(&[]);
    }
    OsString::from_vec(bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(host: &str, inside: &str) -> Wanted {
        Wanted {
            host_path: host.to_owned(),
            container_path: inside.to_owned(),
            ..Default::default()
        }
    }

    fn options(mount: &Mount) -> String {
        mount.options().as_ref().unwrap().join(",")
    }

    #[test]
    fn mounts_are_as_read_only_and_propagating_as_asked() {
        let mut it = wanted("/srv", "/data/");
        let made = mount(&it).unwrap();
        assert_eq!(made.destination(), Path::new("/data"));
        assert_eq!(options(&made), "rbind,rprivate,rw");
        it.readonly = true;
        it.recursive_read_only = true;
        assert_eq!(options(&mount(&it).unwrap()), "rbind,rprivate,ro,rro");
        it.set_propagation(MountPropagation::PropagationHostToContainer);
        assert!(mount(&it).is_err());
        it.recursive_read_only = false;
        assert_eq!(options(&mount(&it).unwrap()), "rbind,rslave,ro");
        it.set_propagation(MountPropagation::PropagationBidirectional);
        it.readonly = false;
        assert_eq!(options(&mount(&it).unwrap()), "rbind,rshared,rw");
        it.set_propagation(MountPropagation::PropagationPrivate);
        it.recursive_read_only = true;
        assert!(mount(&it).is_err());
    }

    #[test]
    fn mounts_that_would_break_out_or_break_the_container_are_refused() {
        for (host, inside) in [
            ("/srv", "/"),
            ("/dev", "/dev"),
            ("/srv", "/dev/"),
            ("/srv", "data"),
            ("/srv", "/a/../dev"),
            ("srv", "/data"),
            ("", "/data"),
            ("/s\0", "/data"),
        ] {
            assert!(mount(&wanted(host, inside)).is_err(), "{host} on {inside}");
        }
        mount(&wanted("/dev/disk", "/dev/disk")).unwrap();
        let gone = wanted("/nonexistent/bulkhead", "/data");
        assert!(
            check_source(&gone)
                .unwrap_err()
                .to_string()
                .contains("/nonexistent/bulkhead")
        );
    }

    #[test]
    fn the_mount_of_a_path_is_the_last_that_holds_it() {
        let table = "21 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n\
                     22 21 0:5 / /run rw master:3 propagate_from:2 - tmpfs tmpfs rw\n\
                     23 22 0:6 / /run/x rw - tmpfs tmpfs rw\n\
                     24 23 0:7 / /run/x rw shared:9 - tmpfs tmpfs rw\n";
        let of = |path| {
            let (point, optional) = mount_of(table, Path::new(path)).unwrap();
            (point.to_str().unwrap().to_owned(), optional)
        };
        let at = |point: &str, optional| (point.to_owned(), optional);
        assert_eq!(of("/srv"), at("/", "shared:1"));
        assert_eq!(of("/running"), at("/", "shared:1"));
        assert_eq!(of("/run/a"), at("/run", "master:3 propagate_from:2"));
        assert_eq!(of("/run/x/y"), at("/run/x", "shared:9"));
        let hidden = "23 22 0:6 / /run/x rw - tmpfs tmpfs rw\n";
        assert_eq!(
            mount_of(hidden, Path::new("/run/x")),
            Some(("/run/x".into(), ""))
        );
        let spaced = r"25 1 0:8 / /my\040disk\134x rw shared:4 - tmpfs tmpfs rw";
        assert_eq!(
            mount_of(spaced, Path::new(r"/my disk\x/y")),
            Some((r"/my disk\x".into(), "shared:4"))
        );
        assert_eq!(mount_of("", Path::new("/")), None);
    }
}
