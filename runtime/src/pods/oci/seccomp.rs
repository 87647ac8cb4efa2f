//! The default seccomp profile: `RuntimeDefault`.
//!
//! An allow-list: what programs need, grouped by what it is for; calls that only
//! somebody with a capability may use come with that capability. Everything else
//! fails with EPERM, so that a program can say what went wrong. A few fail with
//! ENOSYS, because libraries fall back to an older call when they see that.
//!
//! What is left out on purpose, although no capability guards it: `bpf` and
//! `userfaultfd` and `io_uring_*` and `keyctl` (each with a history of kernel
//! holes far larger than its use), `clone` and `unshare` with new namespaces,
//! AF_ALG and AF_VSOCK sockets (the latter lead to the pod's own agent), and
//! personalities other than the usual ones.

use oci_spec::runtime::{
    Arch, Capabilities, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg,
    LinuxSeccompArgBuilder, LinuxSeccompOperator as Is, LinuxSyscall,
};

use crate::error::{Error, Result};

const EPERM: u32 = 1;
const ENOSYS: u32 = 38;

#[rustfmt::skip] // A table of names reads better than a column.
const FILES: &[&str] = &[
    "access", "cachestat", "chdir", "chmod", "chown", "chown32", "close", "close_range",
    "copy_file_range", "creat", "dup", "dup2", "dup3", "faccessat", "faccessat2", "fadvise64",
    "fadvise64_64", "fallocate", "fchdir", "fchmod", "fchmodat", "fchmodat2", "fchown",
    "fchown32", "fchownat", "fcntl", "fcntl64", "fdatasync", "fgetxattr", "flistxattr", "flock",
    "fremovexattr", "fsetxattr", "fstat", "fstat64", "fstatat64", "fstatfs", "fstatfs64", "fsync",
    "ftruncate", "ftruncate64", "futimesat", "getcwd", "getdents", "getdents64", "getxattr",
    "inotify_add_watch", "inotify_init", "inotify_init1", "inotify_rm_watch", "lchown",
    "lchown32", "lgetxattr", "link", "linkat", "listxattr", "llistxattr", "_llseek",
    "lremovexattr", "lseek", "lsetxattr", "lstat", "lstat64", "mkdir", "mkdirat", "mknod",
    "mknodat", "name_to_handle_at", "newfstatat", "open", "openat", "openat2", "pread64",
    "preadv", "preadv2", "pwrite64", "pwritev", "pwritev2", "read", "readahead", "readlink",
    "readlinkat", "readv", "removexattr", "rename", "renameat", "renameat2", "rmdir", "sendfile",
    "sendfile64", "setxattr", "splice", "stat", "stat64", "statfs", "statfs64", "statx",
    "symlink", "symlinkat", "sync", "sync_file_range", "syncfs", "tee", "truncate", "truncate64",
    "umask", "unlink", "unlinkat", "utime", "utimensat", "utimensat_time64", "utimes", "vmsplice",
    "write", "writev", "landlock_add_rule", "landlock_create_ruleset", "landlock_restrict_self",
];

#[rustfmt::skip] // A table of names reads better than a column.
const WAITING: &[&str] = &[
    "epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old", "epoll_pwait", "epoll_pwait2",
    "epoll_wait", "epoll_wait_old", "eventfd", "eventfd2", "io_cancel", "io_destroy",
    "io_getevents", "io_pgetevents", "io_pgetevents_time64", "io_setup", "io_submit",
    "_newselect", "pipe", "pipe2", "poll", "ppoll", "ppoll_time64", "pselect6", "pselect6_time64",
    "select", "signalfd", "signalfd4",
];

#[rustfmt::skip] // A table of names reads better than a column.
const MEMORY: &[&str] = &[
    "brk", "get_mempolicy", "madvise", "map_shadow_stack", "membarrier", "memfd_create",
    "memfd_secret", "mincore", "mlock", "mlock2", "mlockall", "mmap", "mmap2", "mprotect",
    "mremap", "mseal", "msync", "munlock", "munlockall", "munmap", "pkey_alloc", "pkey_free",
    "pkey_mprotect", "process_madvise", "process_mrelease", "remap_file_pages",
];

#[rustfmt::skip] // A table of names reads better than a column.
const PROCESSES: &[&str] = &[
    "alarm", "arch_prctl", "capget", "capset", "execve", "execveat", "exit", "exit_group", "fork",
    "futex", "futex_requeue", "futex_time64", "futex_wait", "futex_waitv", "futex_wake",
    "get_robust_list", "get_thread_area", "getcpu", "getegid", "getegid32", "geteuid",
    "geteuid32", "getgid", "getgid32", "getgroups", "getgroups32", "getitimer", "getpgid",
    "getpgrp", "getpid", "getppid", "getpriority", "getresgid", "getresgid32", "getresuid",
    "getresuid32", "getrlimit", "getrusage", "getsid", "gettid", "getuid", "getuid32",
    "ioprio_get", "ioprio_set", "kill", "modify_ldt", "nice", "pause", "pidfd_open",
    "pidfd_send_signal", "prctl", "prlimit64", "ptrace", "restart_syscall", "rseq",
    "rt_sigaction", "rt_sigpending", "rt_sigprocmask", "rt_sigqueueinfo", "rt_sigreturn",
    "rt_sigsuspend", "rt_sigtimedwait", "rt_sigtimedwait_time64", "rt_tgsigqueueinfo",
    "sched_get_priority_max", "sched_get_priority_min", "sched_getaffinity", "sched_getattr",
    "sched_getparam", "sched_getscheduler", "sched_rr_get_interval",
    "sched_rr_get_interval_time64", "sched_setaffinity", "sched_setattr", "sched_setparam",
    "sched_setscheduler", "sched_yield", "seccomp", "set_robust_list", "set_thread_area",
    "set_tid_address", "setfsgid", "setfsgid32", "setfsuid", "setfsuid32", "setgid", "setgid32",
    "setgroups", "setgroups32", "setitimer", "setpgid", "setpriority", "setregid", "setregid32",
    "setresgid", "setresgid32", "setresuid", "setresuid32", "setreuid", "setreuid32", "setrlimit",
    "setsid", "setuid", "setuid32", "sgetmask", "sigaction", "sigaltstack", "signal",
    "sigpending", "sigprocmask", "sigreturn", "sigsuspend", "ssetmask", "tgkill", "tkill",
    "ugetrlimit", "vfork", "wait4", "waitid", "waitpid", "process_vm_readv", "process_vm_writev",
];

/// `adjtimex` and its kin read the clock's discipline; the kernel lets nobody
/// without CAP_SYS_TIME set it.
#[rustfmt::skip] // A table of names reads better than a column.
const TIME: &[&str] = &[
    "clock_getres", "clock_getres_time64", "clock_gettime", "clock_gettime64", "clock_nanosleep",
    "clock_nanosleep_time64", "gettimeofday", "nanosleep", "time", "timer_create", "timer_delete",
    "timer_getoverrun", "timer_gettime", "timer_gettime64", "timer_settime", "timer_settime64",
    "timerfd_create", "timerfd_gettime", "timerfd_gettime64", "timerfd_settime",
    "timerfd_settime64", "times", "adjtimex", "clock_adjtime", "clock_adjtime64",
];

#[rustfmt::skip] // A table of names reads better than a column.
const NETWORK: &[&str] = &[
    "accept", "accept4", "bind", "connect", "getpeername", "getsockname", "getsockopt", "listen",
    "recv", "recvfrom", "recvmmsg", "recvmmsg_time64", "recvmsg", "send", "sendmmsg", "sendmsg",
    "sendto", "setsockopt", "shutdown", "socketpair",
];

#[rustfmt::skip] // A table of names reads better than a column.
const IPC: &[&str] = &[
    "ipc", "mq_getsetattr", "mq_notify", "mq_open", "mq_timedreceive", "mq_timedreceive_time64",
    "mq_timedsend", "mq_timedsend_time64", "mq_unlink", "msgctl", "msgget", "msgrcv", "msgsnd",
    "semctl", "semget", "semop", "semtimedop", "semtimedop_time64", "shmat", "shmctl", "shmdt",
    "shmget",
];

#[rustfmt::skip] // A table of names reads better than a column.
const SYSTEM: &[&str] = &[
    "getrandom", "ioctl", "lsm_get_self_attr", "lsm_list_modules", "lsm_set_self_attr",
    "olduname", "oldolduname", "sysinfo", "uname",
];

/// Calls that come with a capability.
#[rustfmt::skip] // As above.
const WITH_CAPABILITY: &[(Capability, &[&str])] = &[
    (Capability::DacReadSearch, &["open_by_handle_at"]),
    (Capability::SysAdmin, &[
        "bpf", "clone", "clone3", "fanotify_init", "fanotify_mark", "fsconfig", "fsmount",
        "fsopen", "fspick", "listmount", "lookup_dcookie", "mount", "mount_setattr", "move_mount",
        "open_tree", "perf_event_open", "pivot_root", "quotactl", "quotactl_fd", "setdomainname",
        "sethostname", "setns", "statmount", "syslog", "umount", "umount2", "unshare",
    ]),
    (Capability::SysBoot, &["reboot"]),
    (Capability::SysChroot, &["chroot"]),
    (Capability::SysModule, &["delete_module", "finit_module", "init_module"]),
    (Capability::SysPacct, &["acct"]),
    (Capability::SysPtrace, &["kcmp", "pidfd_getfd"]),
    (Capability::SysRawio, &["ioperm", "iopl"]),
    (Capability::SysTime, &["clock_settime", "clock_settime64", "settimeofday", "stime"]),
    (Capability::SysTtyConfig, &["vhangup"]),
    (Capability::SysNice, &[
        "mbind", "migrate_pages", "move_pages", "set_mempolicy", "set_mempolicy_home_node",
    ]),
    (Capability::Syslog, &["syslog"]),
    (Capability::Bpf, &["bpf"]),
    (Capability::Perfmon, &["perf_event_open"]),
];

/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET (linux/sched.h).
const CLONE_NEW_NAMESPACE: u64 = 0x7e02_0000;

/// Protocol families (bits/socket.h) that containers have no business with.
const AF_ALG: u64 = 38;
const AF_VSOCK: u64 = 40;

/// Values for personality(2): PER_LINUX, UNAME26, PER_LINUX32, both, and "tell me".
const PERSONALITIES: [u64; 5] = [0, 0x0020_0000, 0x0008, 0x0020_0008, 0xffff_ffff];

/// The profile for a process whose bounding set is `capabilities`.
pub(super) fn profile(capabilities: &Capabilities) -> Result<LinuxSeccomp> {
    let mut rules = Vec::new();
    for names in [
        FILES, WAITING, MEMORY, PROCESSES, TIME, NETWORK, IPC, SYSTEM,
    ] {
        rules.push(allow(names, &[]));
    }
    for (capability, names) in WITH_CAPABILITY {
        if capabilities.contains(capability) {
            rules.push(allow(names, &[]));
        }
    }
    if !capabilities.contains(&Capability::SysAdmin) {
        rules.push(allow(&["clone"], &[masked(0, CLONE_NEW_NAMESPACE, 0)?]));
        // Its flags are in memory, where a filter can't look: libraries then use
        // clone.
        rules.push(deny(&["clone3"], ENOSYS));
    }
    rules.push(allow(&["socket"], &[compare(0, Is::ScmpCmpLt, AF_ALG)?]));
    rules.push(allow(
        &["socket"],
        &[compare(0, Is::ScmpCmpEq, AF_ALG + 1)?],
    ));
    rules.push(allow(&["socket"], &[compare(0, Is::ScmpCmpGt, AF_VSOCK)?]));
    for value in PERSONALITIES {
        rules.push(allow(
            &["personality"],
            &[compare(0, Is::ScmpCmpEq, value)?],
        ));
    }
    let mut profile = LinuxSeccomp::default();
    profile
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_default_errno_ret(Some(EPERM))
        .set_architectures(Some(vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86]))
        .set_flags(None)
        .set_syscalls(Some(rules));
    Ok(profile)
}

fn allow(names: &[&str], args: &[LinuxSeccompArg]) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.iter().map(|name| (*name).to_owned()).collect())
        .set_action(LinuxSeccompAction::ScmpActAllow)
        .set_errno_ret(None)
        .set_args(Some(args.to_vec()).filter(|args| !args.is_empty()));
    rule
}

fn deny(names: &[&str], errno: u32) -> LinuxSyscall {
    let mut rule = allow(names, &[]);
    rule.set_action(LinuxSeccompAction::ScmpActErrno)
        .set_errno_ret(Some(errno));
    rule
}

fn compare(index: usize, op: Is, value: u64) -> Result<LinuxSeccompArg> {
    argument(
        LinuxSeccompArgBuilder::default()
            .index(index)
            .op(op)
            .value(value),
    )
}

fn masked(index: usize, mask: u64, value: u64) -> Result<LinuxSeccompArg> {
    let op = Is::ScmpCmpMaskedEq;
    argument(
        LinuxSeccompArgBuilder::default()
            .index(index)
            .op(op)
            .value(mask)
            .value_two(value),
    )
}

fn argument(builder: LinuxSeccompArgBuilder) -> Result<LinuxSeccompArg> {
    builder
        .build()
        .map_err(|error| Error::internal(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn allowed(capabilities: &[Capability]) -> BTreeSet<String> {
        profile(&capabilities.iter().copied().collect())
            .unwrap()
            .syscalls()
            .clone()
            .unwrap()
            .iter()
            .filter(|rule| {
                rule.action() == LinuxSeccompAction::ScmpActAllow && rule.args().is_none()
            })
            .flat_map(|rule| rule.names().clone())
            .collect()
    }

    #[test]
    fn what_could_break_out_needs_its_capability() {
        let plain = allowed(&[]);
        for name in [
            "bpf",
            "mount",
            "setns",
            "unshare",
            "clone",
            "clone3",
            "keyctl",
            "add_key",
            "userfaultfd",
            "io_uring_setup",
            "init_module",
            "kexec_load",
            "reboot",
            "open_by_handle_at",
            "swapon",
            "perf_event_open",
            "socket",
            "personality",
            "iopl",
            "syslog",
            "pidfd_getfd",
            "chroot",
        ] {
            assert!(!plain.contains(name), "{name}");
        }
        for name in [
            "read", "execve", "mmap", "futex", "connect", "openat2", "statx", "fork",
        ] {
            assert!(plain.contains(name), "{name}");
        }
        assert!(allowed(&[Capability::SysAdmin]).contains("unshare"));
        assert!(allowed(&[Capability::SysChroot]).contains("chroot"));
        assert!(!allowed(&[Capability::SysChroot]).contains("mount"));
    }

    #[test]
    fn clone3_falls_back_to_clone_without_new_namespaces() {
        let rules = profile(&Capabilities::new())
            .unwrap()
            .syscalls()
            .clone()
            .unwrap();
        let of = |name: &str| {
            rules
                .iter()
                .filter(|rule| rule.names().iter().any(|it| it == name))
                .collect::<Vec<_>>()
        };
        let [clone] = of("clone")[..] else {
            panic!("one rule for clone")
        };
        let [arg] = clone.args().as_ref().unwrap()[..] else {
            panic!("one condition")
        };
        assert_eq!(
            (arg.value(), arg.value_two()),
            (CLONE_NEW_NAMESPACE, Some(0))
        );
        let [clone3] = of("clone3")[..] else {
            panic!("one rule for clone3")
        };
        assert_eq!(clone3.errno_ret(), Some(ENOSYS));
    }

    #[test]
    fn sockets_of_the_kernels_crypto_and_of_the_hypervisor_are_refused() {
        let rules = profile(&Capabilities::new())
            .unwrap()
            .syscalls()
            .clone()
            .unwrap();
        let passes = |family: u64| {
            rules
                .iter()
                .filter(|rule| rule.names() == &["socket"])
                .any(|rule| {
                    rule.args()
                        .as_ref()
                        .unwrap()
                        .iter()
                        .all(|arg| match arg.op() {
                            Is::ScmpCmpLt => family < arg.value(),
                            Is::ScmpCmpEq => family == arg.value(),
                            Is::ScmpCmpGt => family > arg.value(),
                            other => panic!("{other:?}"),
                        })
                })
        };
        for family in [1, 2, 10, 16, 17, 39, 41, 44] {
            assert!(passes(family), "{family}");
        }
        assert!(!passes(AF_ALG) && !passes(AF_VSOCK));
    }

    #[test]
    fn no_call_is_named_twice_without_a_reason() {
        let mut seen = BTreeSet::new();
        for name in [
            FILES, WAITING, MEMORY, PROCESSES, TIME, NETWORK, IPC, SYSTEM,
        ]
        .concat()
        {
            assert!(seen.insert(name), "{name}");
        }
    }
}
