//! Vectored I/O between a file descriptor and the buffers of chains.
//!
//! The kernel reads or writes guest memory itself, so nothing is copied in between and
//! no Rust reference to guest memory exists. The driver may change the bytes meanwhile:
//! that harms only what it sends, because nothing that was checked lies in them.
#![allow(
    unsafe_code,
    reason = "readv, writev, preadv and pwritev on guest memory"
)]

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsRawFd, BorrowedFd};

use super::cursor::{Reader, Writer};
use super::segment::Segment;

/// Most segments of one system call (`UIO_MAXIOV`); what is beyond is left for the next.
pub const MAX_IOVECS: usize = 1024;

/// A reusable list of segments: it holds no borrow between two uses, only capacity.
#[derive(Debug, Default)]
pub struct IoVecs(Vec<Segment>);

impl IoVecs {
    /// An empty list.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a `writev`.
    pub fn gather(&mut self) -> Gather<'_, '_> {
        self.0.clear();
        Gather {
            list: &mut self.0,
            len: 0,
            buffers: PhantomData,
        }
    }

    /// Starts a `readv`.
    pub fn scatter(&mut self) -> Scatter<'_, '_> {
        self.0.clear();
        Scatter {
            list: &mut self.0,
            len: 0,
            buffers: PhantomData,
        }
    }
}

impl IoVecs {
    /// Lists what is ahead of `writer`, for a system call that runs later: the caller keeps
    /// the chain for as long.
    pub(crate) fn set_writer(&mut self, writer: &Writer<'_>) -> &[Segment] {
        self.0.clear();
        self.0.extend(writer.parts().take(MAX_IOVECS));
        &self.0
    }

    /// As [`set_writer`](Self::set_writer), for what is ahead of `reader`.
    pub(crate) fn set_reader(&mut self, reader: &Reader<'_>) -> &[Segment] {
        self.0.clear();
        self.0.extend(reader.parts().take(MAX_IOVECS));
        &self.0
    }
}

/// What a `writev` sends, in order.
#[derive(Debug)]
pub struct Gather<'s, 'a> {
    list: &'s mut Vec<Segment>,
    len: usize,
    buffers: PhantomData<&'a [u8]>,
}

impl<'a> Gather<'_, 'a> {
    /// Adds the device's own bytes.
    #[must_use]
    pub fn bytes(mut self, bytes: &'a [u8]) -> Self {
        self.push(Segment::from_raw(libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        }));
        self
    }

    /// Adds all that is ahead of `reader`.
    #[must_use]
    pub fn reader(mut self, reader: &Reader<'a>) -> Self {
        for part in reader.parts() {
            self.push(part);
        }
        self
    }

    fn push(&mut self, segment: Segment) {
        if self.list.len() < MAX_IOVECS && !segment.is_empty() {
            self.len += segment.len();
            self.list.push(segment);
        }
    }

    /// Bytes gathered.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// `writev(2)`. Says how many bytes were taken, from the first on.
    ///
    /// # Errors
    /// The system call's.
    pub fn write(self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: `list` is an array of `len` iovecs (`Segment` is a transparent iovec).
        // Each one is borrowed for 'a: either bytes that are only read, or guest memory that
        // a chain keeps mapped.
        retry(|| unsafe {
            libc::writev(fd.as_raw_fd(), self.list.as_ptr().cast(), count(self.list))
        })
    }

    /// `sendmsg(2)` on a stream socket, without blocking and without `SIGPIPE`. Says how many
    /// bytes were taken, from the first on.
    ///
    /// # Errors
    /// The system call's; `WouldBlock` when the socket is full.
    pub fn send(self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: a `msghdr` of zeroes is one without name, data and control messages.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = self.list.as_mut_ptr().cast();
        message.msg_iovlen = self.list.len() as _;
        let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
        // SAFETY: the message's iovecs are as in `write`; the kernel does not write to them.
        retry(|| unsafe { libc::sendmsg(fd.as_raw_fd(), &raw const message, flags) })
    }

    /// `pwritev(2)` at `offset` bytes.
    ///
    /// # Errors
    /// The system call's.
    pub fn write_at(self, fd: BorrowedFd<'_>, offset: u64) -> io::Result<usize> {
        let offset = file_offset(offset)?;
        // SAFETY: as in `write`.
        retry(|| unsafe {
            libc::pwritev(
                fd.as_raw_fd(),
                self.list.as_ptr().cast(),
                count(self.list),
                offset,
            )
        })
    }
}

/// Where a `readv` goes, in order.
#[derive(Debug)]
pub struct Scatter<'s, 'a> {
    list: &'s mut Vec<Segment>,
    len: usize,
    buffers: PhantomData<&'a [u8]>,
}

impl<'a> Scatter<'_, 'a> {
    /// Adds all that is ahead of `writer`.
    #[must_use]
    pub fn writer(mut self, writer: &Writer<'a>) -> Self {
        self.add(writer);
        self
    }

    /// As [`writer`](Self::writer), in a loop.
    pub fn add(&mut self, writer: &Writer<'a>) {
        for part in writer.parts() {
            if self.list.len() < MAX_IOVECS {
                self.len += part.len();
                self.list.push(part);
            }
        }
    }

    /// Bytes that fit.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether there is no room.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// `readv(2)`. Says how many bytes were filled, from the first on.
    ///
    /// # Errors
    /// The system call's.
    pub fn read(self, fd: BorrowedFd<'_>) -> io::Result<usize> {
        // SAFETY: `list` is an array of `len` iovecs (`Segment` is a transparent iovec), all
        // of them guest memory that a chain, borrowed for 'a, keeps mapped and writable.
        retry(|| unsafe {
            libc::readv(fd.as_raw_fd(), self.list.as_ptr().cast(), count(self.list))
        })
    }

    /// `preadv(2)` from `offset` bytes.
    ///
    /// # Errors
    /// The system call's.
    pub fn read_at(self, fd: BorrowedFd<'_>, offset: u64) -> io::Result<usize> {
        let offset = file_offset(offset)?;
        // SAFETY: as in `read`.
        retry(|| unsafe {
            libc::preadv(
                fd.as_raw_fd(),
                self.list.as_ptr().cast(),
                count(self.list),
                offset,
            )
        })
    }
}

/// The list's length; [`MAX_IOVECS`] fits any integer.
fn count(list: &[Segment]) -> libc::c_int {
    libc::c_int::try_from(list.len()).unwrap_or(0)
}

fn file_offset(offset: u64) -> io::Result<libc::off_t> {
    libc::off_t::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Runs a system call until it is not interrupted.
fn retry(mut call: impl FnMut() -> libc::ssize_t) -> io::Result<usize> {
    loop {
        if let Ok(len) = usize::try_from(call()) {
            return Ok(len);
        }
        let error = io::Error::last_os_error();
        if error.kind() != io::ErrorKind::Interrupted {
            return Err(error);
        }
    }
}
