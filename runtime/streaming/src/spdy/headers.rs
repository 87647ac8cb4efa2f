//! Header blocks (SPDY/3.1, section 2.6.10): a count, then names and values with
//! their lengths, deflated. All blocks of one direction are one zlib stream, each
//! ended by a sync flush, so every block must be inflated, also one that nobody
//! wants to read.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress};

use super::{Fault, dictionary};

/// Largest block, inflated. Kubernetes' own have a few hundred bytes.
pub const BLOCK_MAX: usize = 64 << 10;
/// Most headers of a block.
pub const HEADERS_MAX: usize = 128;

/// Names and values. Names are in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// The value of a header, its name in lower case.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        let found = self.0.iter().find(|(it, _)| it == name);
        found.map(|(_, value)| value.as_str())
    }

    fn parse(mut block: Bytes) -> Result<Self, Fault> {
        const SHORT: Fault = Fault("a header block that is too short");
        let count = block.try_get_u32().map_err(|_| SHORT)? as usize;
        if count > HEADERS_MAX {
            return Err(Fault("too many headers"));
        }
        let text = |block: &mut Bytes| {
            let length = block.try_get_u32().map_err(|_| SHORT)? as usize;
            if length > block.len() {
                return Err(SHORT);
            }
            String::from_utf8(block.split_to(length).into())
                .map_err(|_| Fault("a header that is not UTF-8"))
        };
        let mut headers = Vec::with_capacity(count);
        for _ in 0..count {
            let mut name = text(&mut block)?;
            if name.is_empty() {
                return Err(Fault("a header without a name"));
            }
            name.make_ascii_lowercase();
            headers.push((name, text(&mut block)?));
        }
        Ok(Self(headers))
    }

    fn write(&self) -> BytesMut {
        let mut block = BytesMut::new();
        let length = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        block.put_u32(length(self.0.len()));
        for (name, value) in &self.0 {
            for text in [name, value] {
                block.put_u32(length(text.len()));
                block.put_slice(text.as_bytes());
            }
        }
        block
    }
}

impl<'a> FromIterator<(&'a str, &'a str)> for Headers {
    fn from_iter<T: IntoIterator<Item = (&'a str, &'a str)>>(headers: T) -> Self {
        let owned = |(name, value): (&str, &str)| (name.to_ascii_lowercase(), value.to_owned());
        Self(headers.into_iter().map(owned).collect())
    }
}

/// Reads the blocks of one direction.
#[derive(Debug)]
pub struct Inflater(Decompress);

impl Default for Inflater {
    fn default() -> Self {
        Self(Decompress::new(true))
    }
}

impl Inflater {
    /// Reads the next block.
    ///
    /// # Errors
    /// [`Fault`] for what zlib can't read, a block over its bounds, or one that is
    /// no header block.
    pub fn read(&mut self, block: &[u8]) -> Result<Headers, Fault> {
        self.inflate(block).and_then(Headers::parse)
    }

    fn inflate(&mut self, block: &[u8]) -> Result<Bytes, Fault> {
        const BROKEN: Fault = Fault("a header block that zlib can't read");
        let zlib = &mut self.0;
        let begin = zlib.total_in();
        let mut out = Vec::with_capacity(1024);
        loop {
            let done = usize::try_from(zlib.total_in() - begin).unwrap_or(usize::MAX);
            let rest = block.get(done..).ok_or(BROKEN)?;
            let before = (zlib.total_in(), out.len());
            match zlib.decompress_vec(rest, &mut out, FlushDecompress::Sync) {
                Ok(_) => {}
                Err(error) if error.needs_dictionary().is_some() => {
                    zlib.set_dictionary(&dictionary::bytes())
                        .map_err(|_| Fault("a header block with an unknown dictionary"))?;
                    continue;
                }
                Err(_) => return Err(BROKEN),
            }
            if out.len() > BLOCK_MAX {
                return Err(Fault("a header block that is too large"));
            }
            if out.len() == out.capacity() {
                out.reserve(out.len());
            } else if (zlib.total_in(), out.len()) == before {
                // Room was left and nothing moved: this is all of the block.
                return Ok(out.into());
            }
        }
    }
}

/// Writes the blocks of one direction.
#[derive(Debug)]
pub struct Deflater {
    zlib: Compress,
    begun: bool,
}

impl Default for Deflater {
    fn default() -> Self {
        Self {
            zlib: Compress::new(Compression::fast(), true),
            begun: false,
        }
    }
}

impl Deflater {
    /// Writes the next block.
    ///
    /// # Errors
    /// zlib's own, which a sound library has no cause for.
    pub fn write(&mut self, headers: &Headers) -> Result<Vec<u8>, Fault> {
        const BROKEN: Fault = Fault("zlib refuses a header block");
        if !std::mem::replace(&mut self.begun, true) {
            self.zlib
                .set_dictionary(&dictionary::bytes())
                .map_err(|_| BROKEN)?;
        }
        let block = headers.write();
        let begin = self.zlib.total_in();
        let mut out = Vec::with_capacity(256);
        loop {
            let done = usize::try_from(self.zlib.total_in() - begin).unwrap_or(usize::MAX);
            let rest = block.get(done..).ok_or(BROKEN)?;
            self.zlib
                .compress_vec(rest, &mut out, FlushCompress::Sync)
                .map_err(|_| BROKEN)?;
            // Room left over: the flush is complete (zlib.h, deflate).
            if out.len() < out.capacity() {
                return Ok(out);
            }
            out.reserve(out.len());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn some() -> Headers {
        [
            ("streamType", "error"),
            ("port", "8080"),
            ("requestID", "0"),
        ]
        .into_iter()
        .collect()
    }

    #[test]
    fn blocks_share_one_stream() {
        let (mut deflater, mut inflater) = (Deflater::default(), Inflater::default());
        let mut sizes = Vec::new();
        for _ in 0..3 {
            let block = deflater.write(&some()).unwrap();
            sizes.push(block.len());
            let read = inflater.read(&block).unwrap();
            assert_eq!(read.get("streamtype"), Some("error"));
            assert_eq!(read, some());
        }
        assert!(sizes[1] < sizes[0], "{sizes:?}");
        let empty = deflater.write(&Headers::default()).unwrap();
        assert_eq!(inflater.read(&empty).unwrap(), Headers::default());
    }

    #[test]
    fn large_blocks_work_and_bombs_do_not() {
        let (mut deflater, mut inflater) = (Deflater::default(), Inflater::default());
        let long = "x".repeat(30_000);
        let headers: Headers = [("a", long.as_str())].into_iter().collect();
        let block = deflater.write(&headers).unwrap();
        assert_eq!(inflater.read(&block).unwrap(), headers);
        let bomb = "x".repeat(4 << 20);
        let headers: Headers = [("a", bomb.as_str())].into_iter().collect();
        let block = deflater.write(&headers).unwrap();
        assert!(block.len() < bomb.len() / 50);
        assert!(inflater.read(&block).is_err());
    }

    #[test]
    fn lengths_that_lie_are_refused() {
        for block in [
            &[0_u8, 0, 0][..],
            &[0xff, 0xff, 0xff, 0xff],
            &[0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff],
            &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0],
            &[0, 0, 0, 1, 0, 0, 0, 1, 0xff, 0, 0, 0, 0],
        ] {
            assert!(Headers::parse(Bytes::copy_from_slice(block)).is_err());
        }
        assert!(Inflater::default().read(b"no zlib").is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_blocks_never_panic(
            blocks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..4),
        ) {
            let mut inflater = Inflater::default();
            for block in blocks {
                let _ = inflater.read(&block);
                let _ = Headers::parse(block.into());
            }
        }
    }
}
