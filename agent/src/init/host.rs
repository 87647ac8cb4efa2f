//! Becoming a host pod's agent: an ordinary process in the pod's own namespaces.
//!
//! What a guest gets from its machine, a host pod gets from namespaces that the
//! agent enters before it has a second thread. Its containers are made from them,
//! so whatever the agent does for a guest (host name, interfaces, sysctls, dialling
//! ports) it does here with the same code.
//!
//! The network namespace is the daemon's to make, since the pod's interface has to
//! be put there from outside: the agent is started in it.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
};

use rustix::mount::{MountFlags, MountPropagationFlags, mount_bind, mount_change, mount_remount};

use crate::{
    container::helper,
    error::{Context as _, Result},
    place::{Own, Place},
    sys,
};

/// How a host pod's agent is started.
#[derive(Debug, PartialEq, Eq)]
pub struct Options {
    /// Where its sockets and files are.
    pub dir: PathBuf,
    /// The pod's cgroup, relative to the cgroup v2 mount.
    pub cgroup: PathBuf,
    /// Where writable layers are kept.
    pub scratch: PathBuf,
    /// Which namespaces are the pod's.
    pub own: Own,
}

impl Options {
    /// Reads the command line; `None` when it is none of these.
    #[must_use]
    pub fn parse(args: &[&str]) -> Option<Self> {
        let (mut dir, mut cgroup, mut scratch, mut own) = (None, None, None, Own::default());
        let mut args = args.iter();
        while let Some(flag) = args.next() {
            let value = args.next()?;
            match *flag {
                "--listen-dir" => dir = Some(PathBuf::from(value)),
                "--cgroup" => cgroup = Some(PathBuf::from(value)),
                "--scratch" => scratch = Some(PathBuf::from(value)),
                "--own" => own = Own::parse(value)?,
                _ => return None,
            }
        }
        let dir = dir?;
        Some(Self {
            cgroup: cgroup
                .unwrap_or_else(|| format!("bulkhead-agent-{}", std::process::id()).into()),
            scratch: scratch.unwrap_or_else(|| dir.join("scratch")),
            dir,
            own,
        })
    }

    /// The place that these describe.
    #[must_use]
    pub fn place(&self) -> Place {
        Place::host(&self.dir, self.scratch.clone(), &self.cgroup, self.own)
    }
}

/// Enters the pod's namespaces. The calling process must have one thread.
///
/// # Errors
/// When the kernel refuses.
pub fn enter(options: &Options) -> Result<()> {
    sys::unshare_namespaces(options.own.mounts, options.own.ipc, options.own.uts)
        .context(|| "make the pod's namespaces")?;
    if !options.own.mounts {
        return Ok(());
    }
    // What the host mounts later is seen here; what is mounted here stays here.
    mount_change(
        "/",
        MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC,
    )
    .context(|| "stop mounts from propagating to the host")?;
    protect_program(&options.dir)
}

/// Containers' first processes are this program until their execve, and can open it
/// as /proc/self/exe then (CVE-2019-5736). So helpers, which they are made from, are
/// started by a read-only mount of it.
fn protect_program(dir: &Path) -> Result<()> {
    let program = fs::read_link("/proc/self/exe").context(|| "find this program's file")?;
    let protected = dir.join("bulkhead-agent");
    File::create(&protected).context(|| format!("make {}", protected.display()))?;
    mount_bind(&program, &protected)
        .context(|| format!("bind {} to {}", program.display(), protected.display()))?;
    mount_remount(&protected, MountFlags::BIND | MountFlags::RDONLY, "")
        .context(|| format!("make {} read-only", protected.display()))?;
    helper::use_program(protected);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_read_or_refused_whole() {
        let all = [
            "--listen-dir",
            "/p",
            "--cgroup",
            "a/b",
            "--scratch",
            "/s",
            "--own",
            "mnt,net",
        ];
        let options = Options::parse(&all).unwrap();
        assert_eq!(options.dir, Path::new("/p"));
        assert_eq!(options.cgroup, Path::new("a/b"));
        assert_eq!(options.scratch, Path::new("/s"));
        assert!(options.own.mounts && options.own.network && !options.own.ipc);
        let bare = Options::parse(&["--listen-dir", "/p"]).unwrap();
        assert_eq!(bare.scratch, Path::new("/p/scratch"));
        assert_eq!(bare.own, Own::default());
        for wrong in [
            &["--cgroup", "a"][..],
            &["--listen-dir"],
            &["--listen-dir", "/p", "--own", "all"],
            &["--listen-dir", "/p", "--verbose", "1"],
        ] {
            assert_eq!(Options::parse(wrong), None, "{wrong:?}");
        }
    }
}
