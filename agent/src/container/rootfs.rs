//! A container's root file system: its layers, with a writable one on top.
//!
//! It is mounted by the helper in a mount namespace of its own, which the
//! container's is made from. So the agent's namespace never has it, and it goes
//! away with the container's last process: nothing to unmount, nothing to leak.

use std::{fs, os::fd::AsFd, path::Path};

use rustix::{
    fs::{AtFlags, FileType, statat},
    io::Errno,
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
};

use crate::error::{Context as _, Error, Result};

/// Mount options are one page; what is left of it for the lower layers decides
/// how many there can be. Relative names of a dozen bytes allow over 300.
const PAGE: usize = 4096;

/// Where file systems of the kernel are mounted, in every container.
const MOUNT_POINTS: [&str; 3] = ["dev", "proc", "sys"];

/// Leaves the agent's mount namespace; mounts made from now on stay here.
///
/// # Errors
/// When the kernel refuses.
pub fn enter_own_namespace() -> Result<()> {
    crate::sys::unshare_mounts().context(|| "unshare the mount namespace")?;
    mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )
    .context(|| "stop mounts from propagating to the agent")
}

/// Mounts an overlay of `layers` (names in `layers_dir`, topmost first) on `on`,
/// with `upper/upper` and `upper/work` for what is written. Changes the working
/// directory.
///
/// # Errors
/// When there are too many layers for the kernel's one page of options, or the
/// kernel refuses.
pub fn mount_overlay(layers_dir: &Path, layers: &[String], upper: &Path, on: &Path) -> Result<()> {
    std::env::set_current_dir(layers_dir).context(|| format!("enter {}", layers_dir.display()))?;
    fs::create_dir_all(on).context(|| format!("make {}", on.display()))?;
    let options = options(layers, upper)?;
    mount(
        "overlay",
        on,
        "overlay",
        MountFlags::NODEV,
        options.as_c_str(),
    )
    .context(|| {
        format!(
            "mount the overlay of {} layers (the kernel's log says more; an upper directory \
             cannot itself be on an overlay)",
            layers.len()
        )
    })
}

/// Refuses an image that has something else than a directory where the kernel's file
/// systems go. libcontainer makes device nodes and links by the path of /dev before it
/// enters the root: a link there would lead it out of the container.
///
/// # Errors
/// `FAILED_PRECONDITION`, naming it.
pub fn check_mount_points(root: &impl AsFd) -> Result<()> {
    for name in MOUNT_POINTS {
        let kind = match statat(root, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => continue,
            found => FileType::from_raw_mode(
                found
                    .context(|| format!("look at the image's /{name}"))?
                    .st_mode,
            ),
        };
        if kind != FileType::Directory {
            return Err(Error::precondition(format!(
                "the image's /{name} is no directory ({kind:?}), but the kernel's file system goes \
                 there; use an image in which it is one, or which has none"
            )));
        }
    }
    Ok(())
}

fn options(layers: &[String], upper: &Path) -> Result<std::ffi::CString> {
    // `volatile`: the scratch disk dies with the pod, so nothing in it needs to
    // be flushed for the sake of a crash.
    let text = format!(
        "lowerdir={},upperdir={upper}/upper,workdir={upper}/work,volatile",
        layers.join(":"),
        upper = upper.display()
    );
    if text.len() >= PAGE {
        return Err(Error::invalid(format!(
            "{} layers do not fit the kernel's {PAGE} bytes of mount options",
            layers.len()
        )));
    }
    std::ffi::CString::new(text).map_err(|_| Error::invalid("a path contains a zero byte"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_in_place_of_mount_points_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let root = fs::File::open(dir.path()).unwrap();
        check_mount_points(&root).unwrap();
        fs::create_dir(dir.path().join("dev")).unwrap();
        check_mount_points(&root).unwrap();
        std::os::unix::fs::symlink("/etc", dir.path().join("sys")).unwrap();
        let error = check_mount_points(&root).unwrap_err();
        assert_eq!(error.code(), ttrpc::Code::FAILED_PRECONDITION);
        assert!(error.to_string().contains("/sys"), "{error}");
    }

    #[test]
    fn two_hundred_layers_fit() {
        let layers: Vec<String> = (1..=200).map(|n| format!("layer-{n:04}")).collect();
        let upper = format!("/run/scratch/{}", "c".repeat(64));
        let options = options(&layers, Path::new(&upper)).unwrap();
        let text = options.to_str().unwrap();
        assert!(text.starts_with("lowerdir=layer-0001:layer-0002:"));
        assert!(text.contains(&format!("upperdir={upper}/upper,workdir={upper}/work")));
    }

    #[test]
    fn too_many_layers_are_an_error_before_the_mount() {
        let layers: Vec<String> = (1..=500).map(|n| format!("layer-{n:04}")).collect();
        assert!(options(&layers, Path::new("/run/scratch/c")).is_err());
    }
}
