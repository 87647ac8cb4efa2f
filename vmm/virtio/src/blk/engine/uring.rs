//! Many operations at once, by io_uring.
//!
//! ```text
//!   start(job) -> slot -> submission queue --submit()--> kernel
//!                  ^                                        |
//!                  +-- more to do <-- advance <-- completion queue
//!                                        |
//!                                        +-- done --> finished()
//! ```
//!
//! A slot owns the job (so its chain, so guest memory) and the iovec list of the operation
//! under way; it is emptied only by that operation's completion. Dropping the ring waits for
//! all of them.
#![allow(
    unsafe_code,
    reason = "submission queue entries point to what the slots own"
)]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, RawFd};

use io_uring::register::Restriction;
use io_uring::{IoUring, opcode, squeue, types};
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use super::super::job::{Job, Op, ZEROES};
use crate::chain::{IoVecs, Segment};

static ZERO: [u8; ZEROES] = [0; ZEROES];

/// Kernel threads that a ring may have for operations that block. They count as this
/// process's, in its cgroup.
const KERNEL_WORKERS: [u32; 2] = [4, 2];

/// The operations that are ever submitted: the ring refuses all others, because the seccomp
/// filter does not see them.
const OPERATIONS: [u8; 5] = [
    opcode::Readv::CODE,
    opcode::Writev::CODE,
    opcode::Write::CODE,
    opcode::Fsync::CODE,
    opcode::Fallocate::CODE,
];

#[derive(Debug, Default)]
struct Slot {
    /// Empty when the slot is free.
    job: Option<Job>,
    iovecs: IoVecs,
}

pub(in crate::blk) struct Uring {
    ring: IoUring,
    depth: usize,
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Slots whose next operation is to be submitted.
    pending: VecDeque<usize>,
    /// Operations that the kernel has.
    in_kernel: usize,
    finished: VecDeque<Job>,
}

impl std::fmt::Debug for Uring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Uring")
            .field("pending", &self.pending.len())
            .field("in_kernel", &self.in_kernel)
            .finish_non_exhaustive()
    }
}

impl Uring {
    /// A ring for `depth` jobs, restricted to [`OPERATIONS`].
    pub(super) fn new(depth: u32) -> io::Result<Self> {
        let ring = IoUring::builder()
            .dontfork()
            .setup_r_disabled()
            .build(depth)?;
        let submitter = ring.submitter();
        // Kernels before 5.15 have no such limit.
        let _ = submitter.register_iowq_max_workers(&mut KERNEL_WORKERS.clone());
        let mut allowed = OPERATIONS.map(Restriction::sqe_op);
        submitter.register_restrictions(&mut allowed)?;
        submitter.register_enable_rings()?;
        Ok(Self {
            ring,
            depth: depth as usize,
            slots: Vec::new(),
            free: Vec::new(),
            pending: VecDeque::new(),
            in_kernel: 0,
            finished: VecDeque::new(),
        })
    }

    pub(super) fn fd(&self) -> RawFd {
        self.ring.as_raw_fd()
    }

    pub(super) fn has_room(&self) -> bool {
        self.slots.len() - self.free.len() < self.depth
    }

    pub(super) fn start(&mut self, job: Job) {
        if job.op().is_none() {
            self.finished.push_back(job);
            return;
        }
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        self.slots[slot].job = Some(job);
        self.pending.push_back(slot);
    }

    /// Gives the kernel what is pending, and waits for `want` completions.
    pub(super) fn submit(&mut self, want: usize) {
        loop {
            while let Some(&slot) = self.pending.front() {
                let Some(entry) = self.slots[slot].entry() else {
                    self.pending.pop_front();
                    continue;
                };
                // SAFETY: what the entry points to is owned by the slot (its iovec list, and
                // guest memory by the job's chain) or static, and stays until the completion
                // is reaped: `reap` is all that empties a slot, and `drop` reaps all.
                if unsafe { self.ring.submission().push(&entry.user_data(slot as u64)) }.is_err() {
                    break;
                }
                self.pending.pop_front();
                self.in_kernel += 1;
            }
            let queued = self.ring.submission().len();
            if queued == 0 && want == 0 {
                return;
            }
            match self.ring.submit_and_wait(want) {
                Ok(_) if self.pending.is_empty() => return,
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The kernel wants its completions taken first, or is short of memory: what is
                // in the submission queue stays there for the next call.
                Err(error) => {
                    tracing::debug!(%error, "io_uring takes no more for now");
                    return;
                }
            }
        }
    }

    pub(super) fn finished(&mut self) -> Option<Job> {
        if self.finished.is_empty() {
            self.reap();
        }
        self.finished.pop_front()
    }

    /// Takes the results that the kernel has; jobs with more to do go on.
    fn reap(&mut self) {
        let Self {
            ring,
            slots,
            free,
            pending,
            in_kernel,
            finished,
            ..
        } = self;
        for completion in ring.completion() {
            let Some(slot) = usize::try_from(completion.user_data())
                .ok()
                .filter(|&slot| slot < slots.len())
            else {
                continue;
            };
            let Some(mut job) = slots[slot].job.take() else {
                continue;
            };
            *in_kernel -= 1;
            let result = completion.result();
            job.advance(
                usize::try_from(result)
                    .map_err(|_| Errno::from_raw_os_error(result.wrapping_neg())),
            );
            if job.op().is_none() {
                finished.push_back(job);
                free.push(slot);
            } else {
                slots[slot].job = Some(job);
                pending.push_back(slot);
            }
        }
        if !self.pending.is_empty() {
            self.submit(0);
        }
    }

    /// Waits for a finished job; false when none is under way.
    pub(super) fn wait(&mut self) -> bool {
        loop {
            self.reap();
            if !self.finished.is_empty() {
                return true;
            }
            if self.in_kernel == 0 && self.pending.is_empty() {
                return false;
            }
            self.submit(1);
        }
    }
}

impl Drop for Uring {
    /// The kernel must not use the slots' memory any more.
    fn drop(&mut self) {
        while self.wait() {
            self.finished.clear();
        }
    }
}

impl Slot {
    /// The entry for the job's next operation.
    fn entry(&mut self) -> Option<squeue::Entry> {
        let Self { job, iovecs } = self;
        let job = job.as_ref()?;
        let file = types::Fd(job.disk.file.as_raw_fd());
        Some(match job.op()? {
            Op::Read { offset } => {
                let (list, count) = raw(iovecs.set_writer(&job.room()));
                opcode::Readv::new(file, list, count).offset(offset).build()
            }
            Op::Write { offset } => {
                let (list, count) = raw(iovecs.set_reader(&job.data()));
                opcode::Writev::new(file, list, count)
                    .offset(offset)
                    .build()
            }
            Op::Sync => opcode::Fsync::new(file)
                .flags(types::FsyncFlags::DATASYNC)
                .build(),
            Op::Punch { offset, len } => change(file, FallocateFlags::PUNCH_HOLE, offset, len),
            Op::Zero { offset, len } => change(file, FallocateFlags::ZERO_RANGE, offset, len),
            Op::WriteZeroes { offset, len } => {
                let len = u32::try_from(len.min(ZEROES)).unwrap_or(0);
                opcode::Write::new(file, ZERO.as_ptr(), len)
                    .offset(offset)
                    .build()
            }
        })
    }
}

fn change(file: types::Fd, how: FallocateFlags, offset: u64, len: u64) -> squeue::Entry {
    let mode = (how | FallocateFlags::KEEP_SIZE).bits();
    opcode::Fallocate::new(file, len)
        .offset(offset)
        .mode(mode.cast_signed())
        .build()
}

/// The list as the kernel wants it; at most [`crate::chain::MAX_IOVECS`] long.
fn raw(list: &[Segment]) -> (*const libc::iovec, u32) {
    (list.as_ptr().cast(), u32::try_from(list.len()).unwrap_or(0))
}
