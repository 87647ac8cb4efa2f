//! Decompression of layers and archives.

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

use crate::manifest::Compression;

/// A decompressing reader over compressed input.
pub(crate) enum Decompressor<R: Read> {
    None(BufReader<R>),
    Gzip(Box<MultiGzDecoder<BufReader<R>>>),
    Zstd(Box<zstd::stream::read::Decoder<'static, BufReader<R>>>),
}

impl<R: Read> Decompressor<R> {
    /// Decompresses `input`, which must be what `compression` says. A zstd
    /// stream with a larger window than 2 to the `window_log` is refused.
    pub(crate) fn new(input: R, compression: Compression, window_log: u32) -> io::Result<Self> {
        Self::over(
            BufReader::with_capacity(128 * 1024, input),
            compression,
            window_log,
        )
    }

    /// As [`Decompressor::new`] with whatever compression the input begins with.
    pub(crate) fn detect(input: R, window_log: u32) -> io::Result<(Self, Compression)> {
        let mut input = BufReader::with_capacity(128 * 1024, input);
        let compression = Compression::detect(input.fill_buf()?);
        Ok((Self::over(input, compression, window_log)?, compression))
    }

    fn over(input: BufReader<R>, compression: Compression, window_log: u32) -> io::Result<Self> {
        Ok(match compression {
            Compression::None => Self::None(input),
            Compression::Gzip => Self::Gzip(Box::new(MultiGzDecoder::new(input))),
            Compression::Zstd => {
                let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
                decoder.window_log_max(window_log)?;
                Self::Zstd(Box::new(decoder))
            }
        })
    }

    /// The input, without what was buffered of it.
    pub(crate) fn into_input(self) -> R {
        match self {
            Self::None(input) => input.into_inner(),
            Self::Gzip(decoder) => decoder.into_inner().into_inner(),
            Self::Zstd(decoder) => decoder.finish().into_inner(),
        }
    }

    /// The compressed input.
    pub(crate) fn get_mut(&mut self) -> &mut BufReader<R> {
        match self {
            Self::None(input) => input,
            Self::Gzip(decoder) => decoder.get_mut(),
            Self::Zstd(decoder) => decoder.get_mut(),
        }
    }
}

impl<R: Read> Read for Decompressor<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::None(input) => input.read(buf),
            Self::Gzip(decoder) => decoder.read(buf),
            Self::Zstd(decoder) => decoder.read(buf),
        }
    }
}

/// A reader that fails once more than `left` bytes come: a bomb is stopped while
/// it expands.
pub(crate) struct Bounded<R> {
    inner: R,
    max: u64,
    left: u64,
    exceeded: bool,
}

impl<R> Bounded<R> {
    pub(crate) fn new(inner: R, max: u64) -> Self {
        Self {
            inner,
            max,
            left: max,
            exceeded: false,
        }
    }

    /// Whether reading failed because of the bound.
    pub(crate) fn exceeded(&self) -> bool {
        self.exceeded
    }

    /// Bytes that it let through.
    pub(crate) fn passed(&self) -> u64 {
        self.max - self.left
    }

    pub(crate) fn into_inner(self) -> R {
        self.inner
    }
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let n = self.inner.read(buf)?;
        match self.left.checked_sub(n as u64) {
            Some(left) => {
                self.left = left;
                Ok(n)
            }
            None => {
                self.exceeded = true;
                Err(io::Error::new(
                    io::ErrorKind::FileTooLarge,
                    "larger than is allowed",
                ))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn read(input: &[u8], compression: Compression) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        Decompressor::new(input, compression, 23)?
            .read_to_end(&mut out)
            .map(|_| out)
    }

    fn gzip(data: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn every_form_is_detected() {
        let zstd = zstd::encode_all(&b"data"[..], 1).unwrap();
        for (bytes, expected) in [
            (b"data".to_vec(), Compression::None),
            (gzip(b"data"), Compression::Gzip),
            (zstd, Compression::Zstd),
        ] {
            let (mut decoder, found) = Decompressor::detect(&bytes[..], 23).unwrap();
            let mut out = Vec::new();
            decoder.read_to_end(&mut out).unwrap();
            assert_eq!((out.as_slice(), found), (&b"data"[..], expected));
        }
    }

    #[test]
    fn several_gzip_members_are_one_stream() {
        let two = [gzip(b"one "), gzip(b"two")].concat();
        assert_eq!(read(&two, Compression::Gzip).unwrap(), b"one two");
    }

    #[test]
    fn cut_off_streams_are_errors() {
        let data = vec![7; 100_000];
        let gz = gzip(&data);
        let zst = zstd::encode_all(&data[..], 1).unwrap();
        assert!(read(&gz[..gz.len() - 4], Compression::Gzip).is_err());
        assert!(read(&zst[..zst.len() - 1], Compression::Zstd).is_err());
        assert!(read(b"plain", Compression::Gzip).is_err());
        assert!(read(b"plain", Compression::Zstd).is_err());
    }

    #[test]
    fn large_zstd_windows_are_refused() {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        encoder.long_distance_matching(true).unwrap();
        // Without a content size the decoder must believe the window's.
        encoder.include_contentsize(false).unwrap();
        encoder.write_all(&vec![1; 1 << 20]).unwrap();
        let zst = encoder.finish().unwrap();
        assert!(read(&zst, Compression::Zstd).is_err());
    }

    #[test]
    fn bounded() {
        let mut reader = Bounded::new(&b"12345"[..], 4);
        assert!(reader.read_to_end(&mut Vec::new()).is_err());
        assert!(reader.exceeded());
        let mut reader = Bounded::new(&b"1234"[..], 4);
        assert_eq!(reader.read_to_end(&mut Vec::new()).unwrap(), 4);
        assert!(!reader.exceeded() && reader.passed() == 4);
    }
}
