//! Bytes from the guest that the host's socket did not take yet.

use std::collections::VecDeque;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use crate::chain::{IoVecs, Reader};

/// Bytes copied at a time.
const CHUNK: usize = 4 << 10;

/// Capacity that an empty backlog keeps.
const KEEP: usize = 16 << 10;

/// A queue of bytes. The window bounds it: the guest may not send more than was promised, and
/// bytes in here are not forwarded.
#[derive(Debug, Default)]
pub(super) struct Backlog(VecDeque<u8>);

impl Backlog {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds all that is ahead of `reader`.
    pub(super) fn append(&mut self, mut reader: Reader<'_>) {
        self.0.reserve(reader.remaining());
        let mut chunk = [0; CHUNK];
        loop {
            let len = reader.read(&mut chunk);
            if len == 0 {
                return;
            }
            self.0.extend(&chunk[..len]);
        }
    }

    /// Writes what `stream` takes; says how many bytes.
    ///
    /// # Errors
    /// The socket's, when it takes nothing; `WouldBlock` when it is full.
    pub(super) fn flush(&mut self, stream: &UnixStream, iovecs: &mut IoVecs) -> io::Result<usize> {
        let (front, back) = self.0.as_slices();
        let len = iovecs
            .gather()
            .bytes(front)
            .bytes(back)
            .send(stream.as_fd())?;
        self.0.drain(..len);
        if self.0.is_empty() {
            self.0.shrink_to(KEEP);
        }
        Ok(len)
    }

    /// Forgets all; says how many bytes.
    pub(super) fn clear(&mut self) -> usize {
        std::mem::take(&mut self.0).len()
    }
}
