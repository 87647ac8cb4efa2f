//! Getting a vCPU out of the guest from another thread.
//!
//! KVM_RUN returns EINTR when a signal arrives or when `immediate_exit` is set. The
//! flag alone does not interrupt a guest that runs; the signal alone is lost when it
//! arrives just before KVM_RUN. Together they cannot be missed: the flag is set
//! first, then the signal is sent.

#![allow(unsafe_code)] // a flag in memory shared with the kernel; signalling a thread

use std::{
    io,
    sync::atomic::{AtomicU8, Ordering},
};

use kvm_ioctls::VcpuFd;

/// Installs the handler that makes the signal interrupt system calls, and nothing else.
///
/// # Errors
/// sigaction's.
pub(super) fn install_handler() -> io::Result<()> {
    extern "C" fn nothing(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {}
    vmm_sys_util::signal::register_signal_handler(signal(), nothing).map_err(io::Error::from)
}

/// The signal.
fn signal() -> libc::c_int {
    vmm_sys_util::signal::SIGRTMIN()
}

/// Interrupts one vCPU thread. Lives as long as the process, as vCPUs do.
#[derive(Clone, Copy, Debug)]
pub(super) struct Kick {
    immediate_exit: &'static AtomicU8,
    thread: libc::pid_t,
}

impl Kick {
    /// A kick for `vcpu`, which runs on the calling thread and is never dropped.
    pub(super) fn here(vcpu: &'static mut VcpuFd) -> (Self, &'static mut VcpuFd) {
        let flag: *mut u8 = &mut vcpu.get_kvm_run().immediate_exit;
        // SAFETY: the flag is a byte in the vCPU's shared page, which stays mapped
        // because the vCPU is never dropped. Everyone accesses it atomically: this
        // type, and the kernel, which reads it once per KVM_RUN.
        let immediate_exit = unsafe { AtomicU8::from_ptr(flag) };
        // SAFETY: gettid has no preconditions.
        let thread = unsafe { libc::gettid() };
        let kick = Self {
            immediate_exit,
            thread,
        };
        (kick, vcpu)
    }

    /// Makes the vCPU leave the guest, or not enter it.
    pub(super) fn send(self) {
        self.immediate_exit.store(1, Ordering::SeqCst);
        // SAFETY: tgkill takes numbers; the handler does nothing. If the thread is gone
        // there is nobody to interrupt.
        unsafe {
            libc::syscall(libc::SYS_tgkill, libc::getpid(), self.thread, signal());
        }
    }

    /// On the vCPU's thread: the kick was noticed.
    pub(super) fn clear(self) {
        self.immediate_exit.store(0, Ordering::SeqCst);
    }
}
