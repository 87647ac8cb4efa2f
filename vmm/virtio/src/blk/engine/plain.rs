//! One system call after another, on the worker's thread.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate};
use rustix::io::Errno;

use super::super::job::{Job, Op, ZEROES};
use crate::chain::IoVecs;

static ZERO: [u8; ZEROES] = [0; ZEROES];

/// Runs a job to its end.
pub(super) fn run(mut job: Job) -> Job {
    let mut iovecs = IoVecs::new();
    while let Some(op) = job.op() {
        let result = call(op, &job, &mut iovecs);
        job.advance(result.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO)));
    }
    job
}

fn call(op: Op, job: &Job, iovecs: &mut IoVecs) -> io::Result<usize> {
    let file: &File = &job.disk.file;
    match op {
        Op::Read { offset } => iovecs
            .scatter()
            .writer(&job.room())
            .read_at(file.as_fd(), offset),
        Op::Write { offset } => iovecs
            .gather()
            .reader(&job.data())
            .write_at(file.as_fd(), offset),
        Op::Sync => file.sync_data().map(|()| 0),
        Op::Punch { offset, len } => {
            let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
            fallocate(file, flags, offset, len)?;
            Ok(0)
        }
        Op::Zero { offset, len } => {
            let flags = FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE;
            fallocate(file, flags, offset, len)?;
            Ok(0)
        }
        Op::WriteZeroes { offset, len } => file.write_at(&ZERO[..len.min(ZEROES)], offset),
    }
}
