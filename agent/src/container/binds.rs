//! Directories and files of the host in a host pod's containers.
//!
//! libcontainer binds what it is given and leaves the propagation of mounts as it
//! finds it. So each source is prepared by the helper, in its own mount namespace:
//!
//! ```text
//!  host's mount namespace          helper's                       container's
//!  /var/lib/x ── open_tree(2) ──▶  <dir>/mounts/3 ── libcontainer ──▶ /data
//!               as it is now        + propagation      + ro, rro
//! ```
//!
//! The tree is taken from the host's namespace, not from the agent's copy of it, for
//! two reasons: where the host's root is not a shared mount the copy is as old as the
//! agent; and only a mount of the host's own peer group carries mounts of a container
//! back to the host (`rshared`).

use std::{
    fs::{self, File},
    io,
    os::fd::{AsFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use oci_spec::runtime::Mount;
use rustix::{
    fs::CWD,
    mount::{
        MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_change, move_mount, open_tree,
    },
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use serde::{Deserialize, Serialize};

use crate::error::{Context as _, Error, Result};

/// The host's mount namespace: its init's.
const HOST: &str = "/proc/1/ns/mnt";

/// Which way mounts below a bind mount propagate (mount_namespaces(7)).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Propagation {
    /// Neither.
    Private,
    /// From the host to the container.
    Slave,
    /// Both.
    Shared,
}

impl Propagation {
    fn named(option: &str) -> Option<Self> {
        match option {
            "private" | "rprivate" => Some(Self::Private),
            "slave" | "rslave" => Some(Self::Slave),
            "shared" | "rshared" => Some(Self::Shared),
            _ => None,
        }
    }
}

/// A source to be prepared.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostBind {
    /// On the host.
    pub source: PathBuf,
    /// Where it is prepared.
    pub at: PathBuf,
    /// Of the mounts below it.
    pub propagation: Propagation,
}

/// Lets bind mounts come from `staging` instead of the host, and says what has to be
/// prepared there. Pure.
///
/// # Errors
/// `INVALID_ARGUMENT` for a source that is not an absolute path.
pub fn stage(mounts: &mut [Mount], staging: &Path) -> Result<Vec<HostBind>> {
    let mut binds = Vec::new();
    for mount in mounts.iter_mut() {
        let mut options = mount.options().clone().unwrap_or_default();
        let is_bind = mount.typ().as_deref() == Some("bind")
            || options.iter().any(|o| o == "bind" || o == "rbind");
        if !is_bind {
            continue;
        }
        let source = mount.source().clone().unwrap_or_default();
        if !source.is_absolute() {
            return Err(Error::invalid(format!(
                "source {} of the mount on {} is not absolute",
                source.display(),
                mount.destination().display()
            )));
        }
        let propagation = options.iter().rev().find_map(|o| Propagation::named(o));
        options.retain(|option| Propagation::named(option).is_none());
        let bind = HostBind {
            source,
            at: staging.join(binds.len().to_string()),
            propagation: propagation.unwrap_or(Propagation::Private),
        };
        mount.set_source(Some(bind.at.clone()));
        mount.set_options(Some(options));
        binds.push(bind);
    }
    Ok(binds)
}

/// Prepares the sources. The calling process must have one thread and a mount
/// namespace of its own, in which its mounts may stay.
///
/// # Errors
/// `NOT_FOUND` for a source that is not there; the kernel's refusal.
pub fn prepare(binds: &[HostBind]) -> Result<()> {
    if binds.is_empty() {
        return Ok(());
    }
    let trees = clone_trees(binds)?;
    for (bind, tree) in binds.iter().zip(trees) {
        let put = || -> io::Result<()> {
            if let Some(parent) = bind.at.parent() {
                fs::create_dir_all(parent)?;
            }
            if File::from(tree.try_clone()?).metadata()?.is_dir() {
                fs::create_dir_all(&bind.at)?;
            } else {
                File::create(&bind.at)?;
            }
            let empty = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
            move_mount(&tree, "", CWD, &bind.at, empty)?;
            let change = match bind.propagation {
                Propagation::Private => MountPropagationFlags::PRIVATE,
                Propagation::Slave => MountPropagationFlags::DOWNSTREAM,
                Propagation::Shared => return Ok(()),
            };
            Ok(mount_change(&bind.at, change | MountPropagationFlags::REC)?)
        };
        put().context(|| format!("bind the host's {}", bind.source.display()))?;
    }
    Ok(())
}

/// Clones of the host's mounts, as they are now, attached to nothing yet.
fn clone_trees(binds: &[HostBind]) -> Result<Vec<OwnedFd>> {
    let open = |path: &str| File::open(path).context(|| format!("open {path}"));
    let (host, own) = (open(HOST)?, open("/proc/self/ns/mnt")?);
    let enter = |namespace: &File| {
        move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))
    };
    enter(&host).context(|| "enter the host's mount namespace")?;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    let trees = binds
        .iter()
        .map(|bind| {
            open_tree(CWD, &bind.source, flags)
                .context(|| format!("take the host's {}", bind.source.display()))
        })
        .collect();
    enter(&own).context(|| "come back from the host's mount namespace")?;
    trees
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_spec::runtime::MountBuilder;

    fn mount(kind: &str, source: &str, options: &[&str]) -> Mount {
        MountBuilder::default()
            .destination("/data")
            .typ(kind)
            .source(source)
            .options(options.iter().map(|o| (*o).to_owned()).collect::<Vec<_>>())
            .build()
            .unwrap()
    }

    #[test]
    fn bind_mounts_come_from_where_they_are_prepared() {
        let mut mounts = vec![
            mount("proc", "proc", &["nosuid"]),
            mount("bind", "/srv", &["rbind", "rprivate", "ro"]),
            mount("none", "/mnt", &["rbind", "rslave"]),
            mount("bind", "/a", &["bind"]),
        ];
        let binds = stage(&mut mounts, Path::new("/c/mounts")).unwrap();
        let wanted = [
            ("/srv", "/c/mounts/0", Propagation::Private),
            ("/mnt", "/c/mounts/1", Propagation::Slave),
            ("/a", "/c/mounts/2", Propagation::Private),
        ];
        assert_eq!(binds.len(), wanted.len());
        for (bind, (source, at, propagation)) in binds.iter().zip(wanted) {
            assert_eq!(bind.source, Path::new(source));
            assert_eq!(bind.at, Path::new(at));
            assert_eq!(bind.propagation, propagation);
        }
        assert_eq!(mounts[0].source().as_deref(), Some(Path::new("proc")));
        assert_eq!(
            mounts[1].source().as_deref(),
            Some(Path::new("/c/mounts/0"))
        );
        assert_eq!(mounts[1].options().as_ref().unwrap(), &["rbind", "ro"]);
    }

    #[test]
    fn a_source_is_a_path_of_the_host() {
        let mut mounts = vec![mount("bind", "srv", &["rbind"])];
        assert!(stage(&mut mounts, Path::new("/c")).is_err());
    }
}
