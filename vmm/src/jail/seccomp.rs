//! Seccomp filters: a list of system calls for each kind of thread, each with its
//! reason. Anything else kills the process: a thread that is not what it was must
//! not go on.
//!
//! A thread inherits its creator's filter and adds its own, so a worker is confined
//! by [`Kind::Devices`] and its own list together. What a device's worker needs is
//! listed beside the device, in `bulkhead-virtio`.

use std::{collections::BTreeMap, io};

use bulkhead_virtio::{blk, console, net, rng, vsock, worker};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen as Len, SeccompCmpOp as Op, SeccompCondition,
    SeccompFilter, SeccompRule, TargetArch,
};

/// A kind of thread.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The control service, and the end of the process.
    Main,
    /// A vCPU.
    Vcpu,
    /// Starts and stops devices; its filter must include every worker's.
    Devices,
    /// A device's worker, by the kind that it names itself.
    Worker(&'static str),
}

/// A system call, and what it is for.
type Call = (&'static str, &'static str);

/// What every thread of this program does.
const COMMON: &[Call] = &[
    ("futex", "locks and channels"),
    ("read", "eventfds, sockets"),
    ("write", "eventfds, sockets, the log on stderr"),
    ("clock_gettime", "where the vDSO cannot tell the time"),
    ("clock_nanosleep", "waiting with a limit"),
    ("nanosleep", "waiting with a limit, by musl"),
    ("brk", "heap"),
    ("mmap", "heap, stacks; never executable"),
    ("munmap", "heap, stacks"),
    ("mremap", "heap"),
    ("mprotect", "stack guards; never executable"),
    ("madvise", "heap: giving memory back"),
    ("close", "descriptors that are done with"),
    (
        "fcntl",
        "closing in debug builds looks first (F_GETFD); more in some kinds",
    ),
    ("rt_sigreturn", "the end of the kick's handler"),
    ("rt_sigprocmask", "the start and end of threads"),
    ("sigaltstack", "the start and end of threads"),
    ("restart_syscall", "waits that a kick interrupted"),
    ("sched_yield", "contended locks"),
    ("getrandom", "hash table seeds"),
    ("gettid", "locks and log lines"),
    ("getpid", "the kick, and abort"),
    ("tgkill", "the kick; this process only"),
    ("exit", "the end of a thread"),
    ("exit_group", "the end of the process"),
];

/// The control service: sockets that were inherited, and their connections.
const MAIN: &[Call] = &[
    ("accept4", "connections to the control and handover sockets"),
    ("recvfrom", "requests"),
    ("sendto", "replies"),
    ("readv", "requests"),
    ("writev", "replies"),
    ("sendmsg", "replies"),
    ("recvmsg", "descriptors handed over"),
    ("shutdown", "ending connections"),
    ("getsockopt", "errors of connections"),
    ("getpeername", "who connected"),
    ("getsockname", "accepting"),
    ("setsockopt", "accepting"),
    ("epoll_wait", "the event loop"),
    ("epoll_pwait", "the event loop, by musl"),
    ("epoll_ctl", "the event loop"),
    ("ioctl", "non-blocking sockets (FIONBIO)"),
];

/// vCPUs enter the guest and change interrupt routes.
const VCPU: &[Call] = &[("ioctl", "KVM_RUN, interrupt routes, vCPU state")];

/// Starts workers.
const DEVICES: &[Call] = &[
    ("clone", "worker threads"),
    ("clone3", "worker threads"),
    (
        "prctl",
        "thread names, no new privileges, the workers' filters",
    ),
    ("seccomp", "the workers' filters"),
    ("set_robust_list", "the start of threads"),
    ("rseq", "the start of threads"),
    ("set_tid_address", "the start of threads"),
    ("sched_getaffinity", "the size of stacks"),
    ("eventfd2", "kicks and interrupts"),
    ("epoll_create1", "workers' event loops"),
    ("dup", "duplicates of descriptors"),
    ("fstat", "the size of a disk added later"),
    ("statx", "the size of a disk added later"),
    ("lseek", "the size of a block device added later"),
    (
        "ioctl",
        "KVM: notifications and interrupt routes; tap and block device set-up",
    ),
];

/// What a worker does before it has its own filter, and at its end.
const WORKER: &[Call] = &[
    ("prctl", "its name, and its filter"),
    ("seccomp", "its filter"),
    ("set_robust_list", "the start of a thread"),
    ("rseq", "the start of a thread"),
    ("sched_getaffinity", "the start of a thread"),
];

/// KVM_RUN and the routes of interrupts, masked and unmasked by vCPUs.
const VCPU_IOCTLS: &[u32] = &[
    0xae80,      // KVM_RUN
    0x4020_ae76, // KVM_IRQFD
    0x4008_ae6a, // KVM_SET_GSI_ROUTING
    0xaead,      // KVM_KVMCLOCK_CTRL
    // State, taken out and put back while paused.
    0x8090_ae81, // KVM_GET_REGS
    0x4090_ae82, // KVM_SET_REGS
    0x8138_ae83, // KVM_GET_SREGS
    0x4138_ae84, // KVM_SET_SREGS
    0xc008_ae88, // KVM_GET_MSRS
    0x4008_ae89, // KVM_SET_MSRS
    0x8400_ae8e, // KVM_GET_LAPIC
    0x4400_ae8f, // KVM_SET_LAPIC
    0x8004_ae98, // KVM_GET_MP_STATE
    0x4004_ae99, // KVM_SET_MP_STATE
    0x8040_ae9f, // KVM_GET_VCPU_EVENTS
    0x4040_aea0, // KVM_SET_VCPU_EVENTS
    0x8080_aea1, // KVM_GET_DEBUGREGS
    0x4080_aea2, // KVM_SET_DEBUGREGS
    0x9000_aea4, // KVM_GET_XSAVE
    0x5000_aea5, // KVM_SET_XSAVE
    0x8188_aea6, // KVM_GET_XCRS
    0x4188_aea7, // KVM_SET_XCRS
    0xaea2,      // KVM_SET_TSC_KHZ
    0xaea3,      // KVM_GET_TSC_KHZ
];

/// KVM's plumbing, and what tap and block devices are asked when they are set up.
const DEVICES_IOCTLS: &[u32] = &[
    0x4020_ae76, // KVM_IRQFD
    0x4008_ae6a, // KVM_SET_GSI_ROUTING
    0x4040_ae79, // KVM_IOEVENTFD
    0x4020_ae46, // KVM_SET_USER_MEMORY_REGION: withdrawing the configuration space
    0x5421,      // FIONBIO
    0x400454d0,  // TUNSETOFFLOAD
    0x400454d8,  // TUNSETVNETHDRSZ
    0x800454d2,  // TUNGETIFF
    0x800454cf,  // TUNGETFEATURES
    0x80081272,  // BLKGETSIZE64
    0x1277,      // BLKDISCARD
    0x127f,      // BLKZEROOUT
];

const MAIN_IOCTLS: &[u32] = &[
    0x5421, // FIONBIO
];

/// Sockets of guests' connections; nothing of KVM's.
const WORKER_IOCTLS: &[u32] = &[
    0x5421, // FIONBIO
];

/// The filters, compiled before the process is confined.
#[derive(Debug, Default)]
pub struct Filters(BTreeMap<Kind, BpfProgram>);

impl Filters {
    /// Compiles the filters of all kinds.
    ///
    /// # Errors
    /// A mistake in the lists.
    pub fn compile() -> io::Result<Self> {
        let kinds = [Kind::Main, Kind::Vcpu, Kind::Devices]
            .into_iter()
            .chain(WORKERS.iter().map(|&(name, _)| Kind::Worker(name)));
        kinds
            .map(|kind| Ok((kind.clone(), compile(&kind)?)))
            .collect::<io::Result<_>>()
            .map(Self)
    }

    /// Confines the calling thread.
    ///
    /// # Errors
    /// The kernel's; the thread must not go on.
    pub fn apply(&self, kind: &Kind) -> io::Result<()> {
        let program = self
            .0
            .get(kind)
            .ok_or_else(|| io::Error::other(format!("no seccomp filter for {kind:?}")))?;
        seccompiler::apply_filter(program).map_err(io::Error::other)
    }

    /// Confines the calling thread, a device's worker.
    ///
    /// # Errors
    /// As [`Self::apply`]; unknown workers are refused.
    pub fn apply_worker(&self, name: &str) -> io::Result<()> {
        let known = WORKERS.iter().find(|(known, _)| *known == name);
        match known {
            Some((known, _)) => self.apply(&Kind::Worker(known)),
            None => Err(io::Error::other(format!(
                "no seccomp filter for a {name} worker"
            ))),
        }
    }
}

/// The workers, and the system calls that each lists for itself.
const WORKERS: &[(&str, &[&str])] = &[
    (blk::WORKER, blk::SYSCALLS),
    (net::WORKER, net::SYSCALLS),
    (vsock::WORKER, vsock::SYSCALLS),
    (rng::WORKER, rng::SYSCALLS),
    (console::WORKER, console::SYSCALLS),
];

/// The names of the system calls that a kind of thread may make.
fn names(kind: &Kind) -> Vec<&'static str> {
    let of = |calls: &'static [Call]| calls.iter().map(|&(name, _)| name);
    let mut names: Vec<_> = of(COMMON).collect();
    match kind {
        Kind::Main => names.extend(of(MAIN)),
        Kind::Vcpu => names.extend(of(VCPU)),
        Kind::Devices => {
            names.extend(of(DEVICES));
            names.extend(of(WORKER));
            names.extend(worker::SYSCALLS);
            names.extend(WORKERS.iter().flat_map(|(_, calls)| *calls));
        }
        Kind::Worker(worker) => {
            names.extend(of(WORKER));
            names.extend(worker::SYSCALLS);
            let own = WORKERS.iter().filter(|(name, _)| name == worker);
            names.extend(own.flat_map(|(_, calls)| *calls));
        }
    }
    names.sort_unstable();
    names.dedup();
    names
}

fn compile(kind: &Kind) -> io::Result<BpfProgram> {
    let rules = names(kind)
        .into_iter()
        .map(|name| {
            let number = number(name)
                .ok_or_else(|| io::Error::other(format!("unknown system call {name}")))?;
            Ok((number, rules(kind, name)?))
        })
        .collect::<io::Result<_>>()?;
    let filter = SeccompFilter::new(
        rules,
        SeccompAction::KillProcess,
        SeccompAction::Allow,
        TargetArch::x86_64,
    )
    .map_err(io::Error::other)?;
    filter.try_into().map_err(io::Error::other)
}

/// Conditions on a call's arguments; none means any.
fn rules(kind: &Kind, name: &str) -> io::Result<Vec<SeccompRule>> {
    let equals = |argument, value: u64| condition(argument, Op::Eq, value);
    match name {
        // Memory is never both written by us and executed.
        "mmap" | "mprotect" => {
            let executable = u64::from(libc::PROT_EXEC.unsigned_abs());
            Ok(vec![condition(2, Op::MaskedEq(executable), 0)?])
        }
        "ioctl" => ioctls(kind)
            .iter()
            .map(|&request| equals(1, request.into()))
            .collect(),
        "fcntl" => fcntls(kind)
            .iter()
            .map(|&command| equals(1, u64::from(command.unsigned_abs())))
            .collect(),
        "socket" => Ok(vec![equals(0, u64::from(libc::AF_UNIX.unsigned_abs()))?]),
        "tgkill" => Ok(vec![equals(0, std::process::id().into())?]),
        "prctl" => [
            libc::PR_SET_NAME,
            libc::PR_SET_NO_NEW_PRIVS,
            libc::PR_SET_SECCOMP,
        ]
        .into_iter()
        .map(|option| equals(0, u64::from(option.unsigned_abs())))
        .collect(),
        _ => Ok(Vec::new()),
    }
}

/// vCPUs have nothing to configure; others set descriptors up and duplicate them.
fn fcntls(kind: &Kind) -> &'static [i32] {
    const LOOK: &[i32] = &[libc::F_GETFD];
    const SET_UP: &[i32] = &[
        libc::F_GETFD,
        libc::F_SETFD,
        libc::F_GETFL,
        libc::F_SETFL,
        libc::F_DUPFD_CLOEXEC,
    ];
    match kind {
        Kind::Vcpu => LOOK,
        _ => SET_UP,
    }
}

fn ioctls(kind: &Kind) -> &'static [u32] {
    match kind {
        Kind::Main => MAIN_IOCTLS,
        Kind::Vcpu => VCPU_IOCTLS,
        Kind::Devices => DEVICES_IOCTLS,
        Kind::Worker(_) => WORKER_IOCTLS,
    }
}

fn condition(argument: u8, op: Op, value: u64) -> io::Result<SeccompRule> {
    SeccompCondition::new(argument, Len::Dword, op, value)
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map_err(io::Error::other)
}

/// The number of a system call on x86-64.
fn number(name: &str) -> Option<i64> {
    macro_rules! table {
        ($($name:ident $number:ident),* $(,)?) => {
            match name {
                $(stringify!($name) => Some(libc::$number),)*
                _ => None,
            }
        };
    }
    table! {
        accept SYS_accept, accept4 SYS_accept4, bind SYS_bind, brk SYS_brk,
        clock_gettime SYS_clock_gettime, clock_nanosleep SYS_clock_nanosleep,
        clone SYS_clone, clone3 SYS_clone3, close SYS_close, connect SYS_connect,
        dup SYS_dup, epoll_create1 SYS_epoll_create1, epoll_ctl SYS_epoll_ctl,
        epoll_pwait SYS_epoll_pwait, epoll_wait SYS_epoll_wait, eventfd2 SYS_eventfd2,
        exit SYS_exit, exit_group SYS_exit_group, fallocate SYS_fallocate,
        fcntl SYS_fcntl, fdatasync SYS_fdatasync, fstat SYS_fstat, fsync SYS_fsync,
        ftruncate SYS_ftruncate, futex SYS_futex, getpeername SYS_getpeername,
        getpid SYS_getpid, getrandom SYS_getrandom, getsockname SYS_getsockname,
        getsockopt SYS_getsockopt, gettid SYS_gettid, io_uring_enter SYS_io_uring_enter,
        io_uring_register SYS_io_uring_register, io_uring_setup SYS_io_uring_setup,
        ioctl SYS_ioctl, lseek SYS_lseek, madvise SYS_madvise, mmap SYS_mmap,
        mprotect SYS_mprotect, mremap SYS_mremap, munmap SYS_munmap,
        nanosleep SYS_nanosleep, poll SYS_poll, ppoll SYS_ppoll, prctl SYS_prctl,
        pread64 SYS_pread64, preadv SYS_preadv, preadv2 SYS_preadv2,
        pwrite64 SYS_pwrite64, pwritev SYS_pwritev, pwritev2 SYS_pwritev2,
        read SYS_read, readv SYS_readv, recvfrom SYS_recvfrom, recvmsg SYS_recvmsg,
        restart_syscall SYS_restart_syscall, rseq SYS_rseq,
        rt_sigprocmask SYS_rt_sigprocmask, rt_sigreturn SYS_rt_sigreturn,
        sched_getaffinity SYS_sched_getaffinity, sched_yield SYS_sched_yield,
        seccomp SYS_seccomp, sendmsg SYS_sendmsg, sendto SYS_sendto,
        set_robust_list SYS_set_robust_list, set_tid_address SYS_set_tid_address,
        setsockopt SYS_setsockopt, shutdown SYS_shutdown, sigaltstack SYS_sigaltstack,
        socket SYS_socket, statx SYS_statx, tgkill SYS_tgkill,
        timerfd_create SYS_timerfd_create, timerfd_settime SYS_timerfd_settime,
        write SYS_write, writev SYS_writev,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_listed_call_is_known_and_every_filter_compiles() {
        let filters = Filters::compile().unwrap();
        assert_eq!(filters.0.len(), 3 + WORKERS.len());
        assert!(filters.apply_worker("unknown").is_err());
    }

    #[test]
    fn workers_fit_into_the_filter_they_inherit() {
        let devices = names(&Kind::Devices);
        for (worker, _) in WORKERS {
            for name in names(&Kind::Worker(worker)) {
                assert!(devices.contains(&name), "{worker}: {name}");
            }
        }
        let allowed = ioctls(&Kind::Devices);
        let wanted = ioctls(&Kind::Worker("any"));
        assert!(wanted.iter().all(|number| allowed.contains(number)));
    }

    #[test]
    fn vcpus_cannot_start_threads_or_open_anything() {
        let names = names(&Kind::Vcpu);
        for name in ["clone", "clone3", "openat", "socket", "execve", "seccomp"] {
            assert!(!names.contains(&name));
        }
    }

    /// The filter of a thread that does what it may not: in a thread's stead, a child
    /// process, which the kernel kills.
    #[test]
    fn a_forbidden_call_kills_the_process() {
        let me = std::env::current_exe().unwrap();
        let mut child = std::process::Command::new(me);
        child
            .args(["jail::seccomp::tests::forbidden_call_child", "--exact"])
            .arg("--nocapture")
            .env("BULKHEAD_TEST_SECCOMP_CHILD", "1")
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null());
        use std::os::unix::process::ExitStatusExt;
        assert_eq!(child.status().unwrap().signal(), Some(libc::SIGSYS));
    }

    /// Only does anything as the child of the test above.
    #[test]
    fn forbidden_call_child() {
        if std::env::var_os("BULKHEAD_TEST_SECCOMP_CHILD").is_none() {
            return;
        }
        let filters = Filters::compile().unwrap();
        filters.apply(&Kind::Vcpu).unwrap();
        let _ = std::fs::File::open("/dev/null");
    }
}
