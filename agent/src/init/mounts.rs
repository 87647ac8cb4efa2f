//! The file systems of a fresh guest.
//!
//! None of them is needed to say "ready", so this runs after it, while the
//! daemon's first request is still on its way.

use std::{fs, path::Path};

use rustix::mount::{MountFlags, mount, mount_bind, mount_move};

use crate::{
    error::{Context as _, Result},
    place::CGROUP_MOUNT,
};

/// Source, target, type, flags, data.
type Mount = (
    &'static str,
    &'static str,
    &'static str,
    MountFlags,
    &'static str,
);

const SAFE: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC);

const MOUNTS: &[Mount] = &[
    ("proc", "/proc", "proc", SAFE, ""),
    ("sysfs", "/sys", "sysfs", SAFE, ""),
    ("dev", "/dev", "devtmpfs", MountFlags::NOSUID, "mode=0755"),
    (
        "devpts",
        "/dev/pts",
        "devpts",
        MountFlags::NOSUID.union(MountFlags::NOEXEC),
        "gid=5,mode=0620,ptmxmode=0666",
    ),
    // Containers' directories and the layers' mount points are in here.
    (
        "run",
        "/run",
        "tmpfs",
        MountFlags::NOSUID.union(MountFlags::NODEV),
        "mode=0755",
    ),
    (
        "tmp",
        "/tmp",
        "tmpfs",
        MountFlags::NOSUID.union(MountFlags::NODEV),
        "mode=1777",
    ),
    (
        "cgroup",
        CGROUP_MOUNT,
        "cgroup2",
        SAFE,
        "nsdelegate,memory_recursiveprot",
    ),
];

/// Puts a mount over the initramfs and makes it the root.
///
/// pivot_root(2) cannot leave the kernel's initial root, and every container is
/// entered by it. A bind mount of the same tree can be left.
///
/// # Errors
/// When the kernel refuses.
pub fn take_root() -> Result<()> {
    let staging = "/run";
    fs::create_dir_all(staging).context(|| format!("make {staging}"))?;
    mount_bind("/", staging).context(|| "bind the initramfs")?;
    std::env::set_current_dir(staging).context(|| format!("enter {staging}"))?;
    mount_move(".", "/").context(|| "move the root")?;
    rustix::process::chroot(".").context(|| "enter the root")?;
    std::env::set_current_dir("/").context(|| "enter /")
}

/// Mounts everything a guest has from the start.
///
/// # Errors
/// The first mount that failed. A guest without it is of no use.
pub fn mount_all() -> Result<()> {
    for (source, target, kind, flags, data) in MOUNTS {
        fs::create_dir_all(target).context(|| format!("make {target}"))?;
        let data = std::ffi::CString::new(*data).unwrap_or_default();
        mount(*source, *target, *kind, *flags, data.as_c_str())
            .context(|| format!("mount {kind} on {target}"))?;
    }
    fs::create_dir_all("/dev/shm").context(|| "make /dev/shm")?;
    let pid_max = Path::new("/proc/sys/kernel/pid_max");
    // Pids are then not reused while the reaper still holds one's exit.
    fs::write(pid_max, "4194304").context(|| "raise pid_max")?;
    Ok(())
}
