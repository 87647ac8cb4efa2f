//! The system calls of confinement, each with its reason.

#![allow(unsafe_code)] // libc calls that take no memory of ours but C strings

use std::{ffi::CString, io, os::unix::ffi::OsStrExt, path::Path, ptr};

/// The result of a system call that returns -1 on failure.
fn check(result: impl Into<i64>) -> io::Result<()> {
    if result.into() == -1 {
        Err(io::Error::last_os_error())
    } else {
        Ok(())
    }
}

pub(super) fn limit_descriptors(most: u64) -> io::Result<()> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel fills the structure.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    limit.rlim_max = limit.rlim_max.min(most);
    limit.rlim_cur = limit.rlim_max;
    // SAFETY: the kernel reads the structure.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) })
}

pub(super) fn no_core_dumps() -> io::Result<()> {
    let none = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the kernel reads the structure.
    check(unsafe { libc::setrlimit(libc::RLIMIT_CORE, &none) })
}

/// Network: abstract unix sockets of the host are out of reach. IPC: System V objects
/// too. Mount: for `change_root`. UTS: completeness; it costs nothing.
pub(super) fn unshare() -> io::Result<()> {
    let namespaces =
        libc::CLONE_NEWNS | libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
    // SAFETY: takes flags; the process has one thread.
    check(unsafe { libc::unshare(namespaces) })
}

/// Makes `directory` the root of the mount namespace, and detaches the rest.
pub(super) fn change_root(directory: &Path) -> io::Result<()> {
    let path = CString::new(directory.as_os_str().as_bytes())?;
    let dot = c".".as_ptr();
    let mount = |source: *const libc::c_char, target: *const libc::c_char, flags| {
        // SAFETY: NUL terminated strings that outlive the call.
        check(unsafe { libc::mount(source, target, ptr::null(), flags, ptr::null()) })
    };
    // Nothing done here may reach the host's namespace.
    mount(ptr::null(), c"/".as_ptr(), libc::MS_REC | libc::MS_PRIVATE)?;
    // pivot_root wants a mount point. Nothing in it is a device, a program or setuid.
    mount(path.as_ptr(), path.as_ptr(), libc::MS_BIND)?;
    mount(
        ptr::null(),
        path.as_ptr(),
        libc::MS_REMOUNT | libc::MS_BIND | libc::MS_NODEV | libc::MS_NOEXEC | libc::MS_NOSUID,
    )?;
    // SAFETY: a NUL terminated string.
    check(unsafe { libc::chdir(path.as_ptr()) })?;
    // With "." twice the old root is stacked on top of the new one (pivot_root(2)).
    // SAFETY: NUL terminated strings.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, dot, dot) })?;
    // SAFETY: a NUL terminated string.
    check(unsafe { libc::umount2(dot, libc::MNT_DETACH) })?;
    // SAFETY: a NUL terminated string.
    check(unsafe { libc::chdir(c"/".as_ptr()) })
}

/// No capability can be had again, by whatever means.
pub(super) fn drop_capability_bounds() -> io::Result<()> {
    // The kernel knows 41 (Linux 6.12); it says EINVAL for the first it does not.
    for capability in 0..64u64 {
        // SAFETY: takes numbers.
        let result = unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
        match check(result) {
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => break,
            other => other?,
        }
    }
    // SAFETY: takes numbers.
    check(unsafe {
        libc::prctl(
            libc::PR_CAP_AMBIENT,
            libc::PR_CAP_AMBIENT_CLEAR_ALL,
            0,
            0,
            0,
        )
    })
}

/// Groups first: afterwards there is no right to change them. Leaving uid 0 clears
/// the permitted and effective capabilities and makes the process undumpable.
pub(super) fn become_user(uid: u32, gid: u32) -> io::Result<()> {
    // SAFETY: an empty list.
    check(unsafe { libc::setgroups(0, ptr::null()) })?;
    // SAFETY: takes numbers.
    check(unsafe { libc::setresgid(gid, gid, gid) })?;
    // SAFETY: takes numbers.
    check(unsafe { libc::setresuid(uid, uid, uid) })?;
    // SAFETY: takes numbers.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) })
}

pub(super) fn no_new_privileges() -> io::Result<()> {
    // SAFETY: takes numbers.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })
}
