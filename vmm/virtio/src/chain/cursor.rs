//! Reader and Writer: a position in the readable or the writable part of a chain.

use vm_memory::ByteValued;

use super::segment::Segment;

/// A read or write past the end of a chain's readable or writable part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{wanted} bytes wanted of a buffer that has {left} left")]
pub struct OutOfBounds {
    /// Bytes asked for.
    pub wanted: usize,
    /// Bytes that were left.
    pub left: usize,
}

/// Segments, a start within the first and an end that may lie within the last.
#[derive(Clone, Debug)]
struct Cursor<'a> {
    /// First segment: the one that the next byte is in.
    segments: &'a [Segment],
    /// Bytes of the first segment that are behind the cursor.
    skip: usize,
    remaining: usize,
}

impl<'a> Cursor<'a> {
    /// Moves on by `count`, which the caller has checked against `remaining`.
    fn advance(&mut self, count: usize) {
        self.remaining -= count;
        let mut count = count + self.skip;
        while let Some((first, rest)) = self.segments.split_first() {
            if count < first.len() {
                break;
            }
            count -= first.len();
            self.segments = rest;
        }
        self.skip = count;
    }

    /// The segments ahead, the first and last cut to size.
    fn parts(&self) -> impl Iterator<Item = Segment> + use<'a> {
        let mut left = self.remaining;
        let mut skip = self.skip;
        self.segments.iter().map_while(move |segment| {
            (left > 0).then(|| {
                let part = segment.part(skip, left);
                skip = 0;
                left -= part.len();
                part
            })
        })
    }

    /// Walks over the next `count` bytes (at most what remains), segment by segment.
    fn take(&mut self, count: usize, mut each: impl FnMut(Segment, usize)) -> usize {
        let count = count.min(self.remaining);
        let mut done = 0;
        for part in self.parts() {
            if done == count {
                break;
            }
            let part = part.part(0, count - done);
            each(part, done);
            done += part.len();
        }
        self.advance(done);
        done
    }

    fn split_at(&self, middle: usize) -> Result<(Self, Self), OutOfBounds> {
        self.check(middle)?;
        let mut tail = self.clone();
        tail.advance(middle);
        let mut head = self.clone();
        head.remaining = middle;
        Ok((head, tail))
    }

    fn check(&self, wanted: usize) -> Result<(), OutOfBounds> {
        if wanted > self.remaining {
            return Err(OutOfBounds {
                wanted,
                left: self.remaining,
            });
        }
        Ok(())
    }
}

macro_rules! common {
    ($name:ident) => {
        impl<'a> $name<'a> {
            pub(super) fn new(segments: &'a [Segment], len: usize) -> Self {
                Self(Cursor {
                    segments,
                    skip: 0,
                    remaining: len,
                })
            }

            /// Bytes ahead.
            pub fn remaining(&self) -> usize {
                self.0.remaining
            }

            /// Moves on by `count` bytes.
            ///
            /// # Errors
            /// When fewer remain; the position is then unchanged.
            pub fn skip(&mut self, count: usize) -> Result<(), OutOfBounds> {
                self.0.check(count)?;
                self.0.advance(count);
                Ok(())
            }

            /// The next `middle` bytes, and those after them.
            ///
            /// # Errors
            /// When fewer remain.
            pub fn split_at(&self, middle: usize) -> Result<(Self, Self), OutOfBounds> {
                let (head, tail) = self.0.split_at(middle)?;
                Ok((Self(head), Self(tail)))
            }

            /// The same, but of no more than `len` bytes.
            #[must_use]
            pub fn limit(mut self, len: usize) -> Self {
                self.0.remaining = self.0.remaining.min(len);
                self
            }

            /// The contiguous parts ahead.
            pub(super) fn parts(&self) -> impl Iterator<Item = Segment> + use<'a> {
                self.0.parts()
            }
        }
    };
}

/// Reads the device-readable part of a chain. A clone reads on from the same position.
#[derive(Clone, Debug)]
pub struct Reader<'a>(Cursor<'a>);

/// Writes the device-writable part of a chain. A clone writes on from the same position.
#[derive(Clone, Debug)]
pub struct Writer<'a>(Cursor<'a>);

common!(Reader);
common!(Writer);

impl Reader<'_> {
    /// Reads up to `out.len()` bytes; says how many.
    pub fn read(&mut self, out: &mut [u8]) -> usize {
        let len = out.len();
        self.0
            .take(len, |part, at| part.copy_to(&mut out[at..at + part.len()]))
    }

    /// Fills `out`.
    ///
    /// # Errors
    /// When fewer bytes remain; nothing is read then.
    pub fn read_exact(&mut self, out: &mut [u8]) -> Result<(), OutOfBounds> {
        self.0.check(out.len())?;
        self.read(out);
        Ok(())
    }

    /// Reads a plain value: one copy, which the driver can no longer change.
    ///
    /// # Errors
    /// When fewer bytes remain; nothing is read then.
    pub fn read_obj<T: ByteValued + Default>(&mut self) -> Result<T, OutOfBounds> {
        let mut value = T::default();
        self.read_exact(value.as_mut_slice())?;
        Ok(value)
    }
}

impl Writer<'_> {
    /// Writes as much of `data` as fits; says how many bytes.
    pub fn write(&mut self, data: &[u8]) -> usize {
        self.0.take(data.len(), |part, at| {
            part.copy_from(&data[at..at + part.len()])
        })
    }

    /// Writes all of `data`.
    ///
    /// # Errors
    /// When fewer bytes remain; nothing is written then.
    pub fn write_all(&mut self, data: &[u8]) -> Result<(), OutOfBounds> {
        self.0.check(data.len())?;
        self.write(data);
        Ok(())
    }

    /// Writes a plain value.
    ///
    /// # Errors
    /// When fewer bytes remain; nothing is written then.
    pub fn write_obj<T: ByteValued>(&mut self, value: T) -> Result<(), OutOfBounds> {
        self.write_all(value.as_slice())
    }
}
