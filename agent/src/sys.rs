//! System calls that no crate wraps: thin, one call each, nothing decided here.

use std::{
    ffi::CStr,
    io,
    os::fd::{AsFd, AsRawFd as _, FromRawFd as _, OwnedFd},
};

/// One classic BPF instruction, as `struct sock_filter` of linux/filter.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct SockFilter {
    pub(crate) code: u16,
    pub(crate) jt: u8,
    pub(crate) jf: u8,
    pub(crate) k: u32,
}

/// One eBPF instruction, as `struct bpf_insn` of linux/bpf.h.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BpfInsn {
    pub(crate) code: u8,
    /// Destination register in the low four bits, source in the high four.
    pub(crate) regs: u8,
    pub(crate) off: i16,
    pub(crate) imm: i32,
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Adds entropy and counts it in full, then reseeds the generator (random(4)).
pub(crate) fn add_entropy(seed: &[u8]) -> io::Result<()> {
    const MAX: usize = 512;
    const RNDADDENTROPY: libc::Ioctl = 0x4008_5203;
    const RNDRESEEDCRNG: libc::Ioctl = 0x5207;
    /// `struct rand_pool_info` of linux/random.h with its buffer in place.
    #[repr(C)]
    struct Pool {
        entropy_bits: i32,
        buf_bytes: i32,
        buf: [u8; MAX],
    }
    let seed = seed.get(..seed.len().min(MAX)).unwrap_or(seed);
    let len = i32::try_from(seed.len()).unwrap_or(0);
    let mut pool = Pool {
        entropy_bits: len * 8,
        buf_bytes: len,
        buf: [0; MAX],
    };
    pool.buf
        .iter_mut()
        .zip(seed)
        .for_each(|(to, from)| *to = *from);
    let random = std::fs::File::options().write(true).open("/dev/random")?;
    // SAFETY: the kernel reads at most `buf_bytes` <= MAX bytes of `buf`, which
    // lives across the call.
    check(libc::c_long::from(unsafe {
        libc::ioctl(random.as_raw_fd(), RNDADDENTROPY, &raw const pool)
    }))?;
    // SAFETY: this request takes no argument.
    check(libc::c_long::from(unsafe {
        libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG, 0)
    }))?;
    Ok(())
}

/// Moves CLOCK_REALTIME by `ns` at once, or lets the kernel slew it by so much
/// (clock_adjtime(2)).
pub(crate) fn adjust_clock(ns: i64, slew: bool) -> io::Result<()> {
    const NS_PER_S: i64 = 1_000_000_000;
    // SAFETY: all fields are integers, for which zero is a value.
    let mut change: libc::timex = unsafe { std::mem::zeroed() };
    if slew {
        change.modes = libc::ADJ_OFFSET_SINGLESHOT;
        change.offset = ns / 1000;
    } else {
        change.modes = libc::ADJ_SETOFFSET | libc::ADJ_NANO;
        // The part below a second is never negative; with ADJ_NANO it is in ns.
        change.time.tv_sec = ns.div_euclid(NS_PER_S);
        change.time.tv_usec = ns.rem_euclid(NS_PER_S);
    }
    // SAFETY: the kernel reads and writes this one structure, which lives across
    // the call.
    check(libc::c_long::from(unsafe {
        libc::clock_adjtime(libc::CLOCK_REALTIME, &raw mut change)
    }))?;
    Ok(())
}

/// Installs a seccomp filter on the calling thread (seccomp(2)). Needs
/// `no_new_privs` or `CAP_SYS_ADMIN`.
pub(crate) fn seccomp_filter(program: &[SockFilter], flags: u64) -> io::Result<()> {
    #[repr(C)]
    struct SockFprog {
        len: u16,
        filter: *const SockFilter,
    }
    let len = u16::try_from(program.len())
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "seccomp filter is too long"))?;
    let prog = SockFprog {
        len,
        filter: program.as_ptr(),
    };
    // SAFETY: `prog` describes `program`, which lives across the call; the
    // kernel copies it.
    check(unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            flags,
            &raw const prog,
        )
    })?;
    Ok(())
}

/// Replaces the program. Returns only to say why it could not.
///
/// Signals ignored by our own runtime are set back first: an ignored SIGPIPE
/// would be inherited, and `yes | head` would never end.
pub(crate) fn execve(path: &CStr, argv: &[&CStr], envp: &[&CStr]) -> io::Error {
    let pointers = |list: &[&CStr]| -> Vec<*const libc::c_char> {
        list.iter()
            .map(|text| text.as_ptr())
            .chain([std::ptr::null()])
            .collect()
    };
    let (argv, envp) = (pointers(argv), pointers(envp));
    // SAFETY: both arrays end in a null pointer and point to strings that live
    // until the call returns, which it does only on failure.
    unsafe { libc::execve(path.as_ptr(), argv.as_ptr(), envp.as_ptr()) };
    io::Error::last_os_error()
}

/// Gives the signals a fresh program expects: defaults, nothing blocked.
pub(crate) fn reset_signals() {
    // SAFETY: sets a default disposition and an empty mask; no handler of ours
    // is involved, and `set` is initialised by sigemptyset before it is read.
    unsafe {
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
        let mut set = std::mem::zeroed::<libc::sigset_t>();
        libc::sigemptyset(&raw mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut());
    }
}

/// Ends the process without running anything more of it.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process; no memory of ours is used after it.
    unsafe { libc::_exit(code) }
}

/// Loads an eBPF program that decides about device access (bpf(2)).
pub(crate) fn bpf_load_device_filter(program: &[BpfInsn]) -> io::Result<OwnedFd> {
    const BPF_PROG_LOAD: libc::c_int = 5;
    const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
    /// The head of `union bpf_attr` for BPF_PROG_LOAD.
    #[repr(C)]
    struct Attr {
        prog_type: u32,
        insn_cnt: u32,
        insns: u64,
        license: u64,
        log_level: u32,
        log_size: u32,
        log_buf: u64,
        kern_version: u32,
        prog_flags: u32,
    }
    let attr = Attr {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).unwrap_or(u32::MAX),
        insns: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log_buf: 0,
        kern_version: 0,
        prog_flags: 0,
    };
    // SAFETY: `attr` and what it points to live across the call; its size is
    // passed, and the kernel takes the fields past it as zero.
    let fd = check(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_LOAD,
            &raw const attr,
            std::mem::size_of::<Attr>(),
        )
    })?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just given this descriptor to us alone.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a device filter to a cgroup, beside those of its ancestors.
pub(crate) fn bpf_attach_device_filter(cgroup: &impl AsFd, program: &impl AsFd) -> io::Result<()> {
    const BPF_PROG_ATTACH: libc::c_int = 8;
    const BPF_CGROUP_DEVICE: u32 = 6;
    const BPF_F_ALLOW_MULTI: u32 = 2;
    #[repr(C)]
    struct Attr {
        target_fd: u32,
        attach_bpf_fd: u32,
        attach_type: u32,
        attach_flags: u32,
    }
    let number = |fd: i32| u32::try_from(fd).map_err(io::Error::other);
    let attr = Attr {
        target_fd: number(cgroup.as_fd().as_raw_fd())?,
        attach_bpf_fd: number(program.as_fd().as_raw_fd())?,
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: BPF_F_ALLOW_MULTI,
    };
    // SAFETY: `attr` lives across the call and its size is passed.
    check(unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_ATTACH,
            &raw const attr,
            std::mem::size_of::<Attr>(),
        )
    })?;
    Ok(())
}

/// A real-time signal by number.
pub(crate) fn realtime_signal(number: i32) -> Option<rustix::process::Signal> {
    if !(libc::SIGRTMIN()..=libc::SIGRTMAX()).contains(&number) {
        return None;
    }
    // SAFETY: the number is in the range the C library leaves to applications.
    Some(unsafe { rustix::process::Signal::from_raw_unchecked(number) })
}

/// Gives the calling process a mount namespace of its own.
pub(crate) fn unshare_mounts() -> io::Result<()> {
    // SAFETY: takes no memory; only single-threaded helpers call it.
    check(libc::c_long::from(unsafe {
        libc::unshare(libc::CLONE_NEWNS)
    }))
    .map(drop)
}

/// Gives the calling process namespaces of its own.
pub(crate) fn unshare_namespaces(mounts: bool, ipc: bool, uts: bool) -> io::Result<()> {
    let mut flags = 0;
    for (wanted, flag) in [
        (mounts, libc::CLONE_NEWNS),
        (ipc, libc::CLONE_NEWIPC),
        (uts, libc::CLONE_NEWUTS),
    ] {
        if wanted {
            flags |= flag;
        }
    }
    // SAFETY: takes no memory; only the agent's main calls it, before it has threads.
    check(libc::c_long::from(unsafe { libc::unshare(flags) })).map(drop)
}

/// The number of a loop device that nobody uses (loop(4)).
pub(crate) fn loop_free(control: &impl AsFd) -> io::Result<u32> {
    const LOOP_CTL_GET_FREE: libc::Ioctl = 0x4c82;
    // SAFETY: the request takes no argument.
    let number = check(libc::c_long::from(unsafe {
        libc::ioctl(control.as_fd().as_raw_fd(), LOOP_CTL_GET_FREE)
    }))?;
    u32::try_from(number).map_err(io::Error::other)
}

/// Puts a file behind a loop device: read-only, and freed with its last user.
pub(crate) fn loop_configure(device: &impl AsFd, file: &impl AsFd) -> io::Result<()> {
    const LOOP_CONFIGURE: libc::Ioctl = 0x4c0a;
    const LO_FLAGS_READ_ONLY: u32 = 1;
    const LO_FLAGS_AUTOCLEAR: u32 = 4;
    /// `struct loop_config` of linux/loop.h, with `struct loop_info64` in it.
    #[repr(C)]
    struct Config {
        fd: u32,
        block_size: u32,
        numbers: [u64; 5],
        number: u32,
        encrypt_type: u32,
        encrypt_key_size: u32,
        flags: u32,
        file_name: [u8; 64],
        crypt_name: [u8; 64],
        encrypt_key: [u8; 32],
        init: [u64; 2],
        reserved: [u64; 8],
    }
    let config = Config {
        fd: file.as_fd().as_raw_fd().cast_unsigned(),
        block_size: 0,
        numbers: [0; 5],
        number: 0,
        encrypt_type: 0,
        encrypt_key_size: 0,
        flags: LO_FLAGS_READ_ONLY | LO_FLAGS_AUTOCLEAR,
        file_name: [0; 64],
        crypt_name: [0; 64],
        encrypt_key: [0; 32],
        init: [0; 2],
        reserved: [0; 8],
    };
    // SAFETY: the kernel reads the structure, which has its layout and outlives the
    // call; both descriptors are open.
    check(libc::c_long::from(unsafe {
        libc::ioctl(
            device.as_fd().as_raw_fd(),
            LOOP_CONFIGURE,
            &raw const config,
        )
    }))
    .map(drop)
}

/// Children made from now on are in a new PID namespace; the first is its init.
pub(crate) fn unshare_pids() -> io::Result<()> {
    // SAFETY: takes no memory; only single-threaded helpers call it.
    check(libc::c_long::from(unsafe {
        libc::unshare(libc::CLONE_NEWPID)
    }))
    .map(drop)
}

/// Lets the kernel reap this process's children by itself.
pub(crate) fn ignore_children() {
    // SAFETY: sets a disposition without a handler.
    unsafe { libc::signal(libc::SIGCHLD, libc::SIG_IGN) };
}

/// Registers a descriptor with the runtime's poller.
pub(crate) fn pollable(fd: OwnedFd) -> io::Result<tokio::io::unix::AsyncFd<OwnedFd>> {
    // SAFETY: the descriptor is owned by the registration, which never replaces
    // or closes it before it is deregistered.
    let registered = unsafe { tokio::io::unix::AsyncFd::register(fd) };
    Ok(registered?)
}
