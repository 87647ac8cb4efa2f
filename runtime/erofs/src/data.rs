//! Content of files, written to the image as it arrives.

use std::io::{Read, Seek, SeekFrom, Write};

use crate::disk::BLOCK;
use crate::error::Error;

/// Buffered bytes; written at once, or skipped at once if all are zero.
const BUFFER: usize = 256 * 1024;

/// Writes an image front to back in blocks. Runs of zeros become holes of the
/// output file, so the output must read as zeros where it was not written.
pub(crate) struct ImageWriter<W> {
    out: W,
    buffer: Box<[u8]>,
    /// Bytes of the buffer in use.
    fill: usize,
    /// Bytes of the image before the buffer.
    flushed: u64,
    /// How far the output's position is behind `flushed`.
    behind: u64,
    max: u64,
}

impl<W: Write + Seek> ImageWriter<W> {
    /// Begins after the first block, which is the superblock's. `max` bounds
    /// the image's size in bytes.
    pub(crate) fn new(out: W, max: u64) -> Self {
        let start = BLOCK as u64;
        let buffer = vec![0; BUFFER].into_boxed_slice();
        Self {
            out,
            buffer,
            fill: 0,
            flushed: start,
            behind: start,
            max,
        }
    }

    /// Position in the image, in bytes.
    pub(crate) fn position(&self) -> u64 {
        self.flushed + self.fill as u64
    }

    /// Number of the block where the next byte goes; call it at a block's start.
    pub(crate) fn block(&self) -> u32 {
        // `max` is bounded to what 32-bit block numbers reach.
        u32::try_from(self.position() / BLOCK as u64).unwrap_or(u32::MAX)
    }

    /// Copies exactly `length` bytes. `failed` makes an error of what reading fails with.
    pub(crate) fn copy<R: Read>(
        &mut self,
        from: &mut R,
        length: u64,
        failed: impl FnOnce(&R, std::io::Error) -> Error,
    ) -> Result<(), Error> {
        self.reserve(length)?;
        let mut left = length;
        while left > 0 {
            if self.fill == BUFFER {
                self.flush()?;
            }
            let room = usize::try_from(left)
                .unwrap_or(BUFFER)
                .min(BUFFER - self.fill);
            match from.read(&mut self.buffer[self.fill..self.fill + room]) {
                Ok(0) => return Err(failed(from, truncated())),
                Ok(n) => {
                    self.fill += n;
                    left -= n as u64;
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(from, error)),
            }
        }
        Ok(())
    }

    /// Writes `bytes`.
    pub(crate) fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        self.reserve(bytes.len() as u64)?;
        while !bytes.is_empty() {
            if self.fill == BUFFER {
                self.flush()?;
            }
            let (now, later) = bytes.split_at(bytes.len().min(BUFFER - self.fill));
            self.buffer[self.fill..self.fill + now.len()].copy_from_slice(now);
            self.fill += now.len();
            bytes = later;
        }
        Ok(())
    }

    /// Writes `count` zeros, without cost for many.
    pub(crate) fn zeros(&mut self, count: u64) -> Result<(), Error> {
        self.reserve(count)?;
        match usize::try_from(count) {
            Ok(count) if self.fill + count <= BUFFER => {
                self.buffer[self.fill..self.fill + count].fill(0);
                self.fill += count;
            }
            _ => {
                self.flush()?;
                self.flushed += count;
                self.behind += count;
            }
        }
        Ok(())
    }

    /// Pads to the next block's start.
    pub(crate) fn pad(&mut self) -> Result<(), Error> {
        let position = self.position();
        self.zeros(position.next_multiple_of(BLOCK as u64) - position)
    }

    /// Pads the image, puts `first` in front and gives the output back. The last
    /// block is written even if it is zeros, so that the file has its length.
    pub(crate) fn finish(mut self, first: &[u8]) -> Result<W, Error> {
        self.pad()?;
        self.flush()?;
        if self.behind > 0 {
            let last = self.flushed - BLOCK as u64;
            self.out.seek(SeekFrom::Start(last)).map_err(Error::Write)?;
            self.out.write_all(&[0; BLOCK]).map_err(Error::Write)?;
        }
        self.out.seek(SeekFrom::Start(0)).map_err(Error::Write)?;
        self.out.write_all(first).map_err(Error::Write)?;
        self.out.flush().map_err(Error::Write)?;
        Ok(self.out)
    }

    fn reserve(&self, bytes: u64) -> Result<(), Error> {
        match self.position().checked_add(bytes) {
            Some(end) if end <= self.max => Ok(()),
            _ => Err(Error::Limit {
                what: "the content of the layer",
                limit: self.max,
                unit: "bytes",
            }),
        }
    }

    fn flush(&mut self) -> Result<(), Error> {
        let bytes = &self.buffer[..self.fill];
        if is_zero(bytes) {
            self.behind += bytes.len() as u64;
        } else {
            if self.behind > 0 {
                self.out
                    .seek(SeekFrom::Start(self.flushed))
                    .map_err(Error::Write)?;
                self.behind = 0;
            }
            self.out.write_all(bytes).map_err(Error::Write)?;
        }
        self.flushed += self.fill as u64;
        self.fill = 0;
        Ok(())
    }
}

fn truncated() -> std::io::Error {
    std::io::Error::new(
        std::io::ErrorKind::UnexpectedEof,
        crate::ArchiveFault::Truncated,
    )
}

fn is_zero(bytes: &[u8]) -> bool {
    let mut words = bytes.chunks_exact(64);
    words.by_ref().all(|word| word == [0; 64]) && words.remainder().iter().all(|&byte| byte == 0)
}
