//! Storage that grows by chunks, so that growing never copies and memory in use
//! is what is asked for plus at most one chunk.

/// A vector in chunks of 8,192 items.
pub(crate) struct Chunked<T> {
    chunks: Vec<Vec<T>>,
    len: u32,
}

impl<T> Chunked<T> {
    const SHIFT: u32 = 13;
    const CHUNK: usize = 1 << Self::SHIFT;

    pub(crate) fn new() -> Self {
        Self {
            chunks: Vec::new(),
            len: 0,
        }
    }

    pub(crate) fn len(&self) -> u32 {
        self.len
    }

    /// Appends an item and returns its index. The caller bounds the number of
    /// items far below `u32::MAX`.
    pub(crate) fn push(&mut self, item: T) -> u32 {
        match self.chunks.last_mut() {
            Some(chunk) if chunk.len() < Self::CHUNK => chunk.push(item),
            _ => {
                let mut chunk = Vec::with_capacity(Self::CHUNK);
                chunk.push(item);
                self.chunks.push(chunk);
            }
        }
        self.len += 1;
        self.len - 1
    }

    /// Splits an index into chunk and place.
    fn locate(index: u32) -> (usize, usize) {
        (
            index as usize >> Self::SHIFT,
            index as usize & (Self::CHUNK - 1),
        )
    }
}

impl<T> std::ops::Index<u32> for Chunked<T> {
    type Output = T;

    fn index(&self, index: u32) -> &T {
        let (chunk, place) = Self::locate(index);
        &self.chunks[chunk][place]
    }
}

impl<T> std::ops::IndexMut<u32> for Chunked<T> {
    fn index_mut(&mut self, index: u32) -> &mut T {
        let (chunk, place) = Self::locate(index);
        &mut self.chunks[chunk][place]
    }
}

/// Byte strings of at most 65,535 bytes, each found again by a handle.
pub(crate) struct Strings {
    chunks: Vec<Vec<u8>>,
}

impl Strings {
    const SHIFT: u32 = 18;
    const CHUNK: usize = 1 << Self::SHIFT;

    pub(crate) fn new() -> Self {
        Self { chunks: Vec::new() }
    }

    /// Stores a string and returns its handle. Longer strings than 65,535 bytes
    /// are cut: callers bound names and links to 4,096.
    pub(crate) fn put(&mut self, bytes: &[u8]) -> u32 {
        let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
        let bytes = &bytes[..usize::from(length)];
        let fits = |chunk: &Vec<u8>| chunk.len() + 2 + bytes.len() <= Self::CHUNK;
        if !self.chunks.last().is_some_and(fits) {
            self.chunks.push(Vec::with_capacity(Self::CHUNK));
        }
        let number = self.chunks.len() - 1;
        let chunk = &mut self.chunks[number];
        let handle = number << Self::SHIFT | chunk.len();
        chunk.extend_from_slice(&length.to_le_bytes());
        chunk.extend_from_slice(bytes);
        // 2^14 chunks of 2^18 bytes are 4 GiB; the tree's bound is far below.
        u32::try_from(handle).unwrap_or(u32::MAX)
    }

    pub(crate) fn get(&self, handle: u32) -> &[u8] {
        let chunk = &self.chunks[handle as usize >> Self::SHIFT];
        let at = handle as usize & (Self::CHUNK - 1);
        let length = usize::from(u16::from_le_bytes([chunk[at], chunk[at + 1]]));
        &chunk[at + 2..at + 2 + length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_found_again() {
        let mut strings = Strings::new();
        let texts: Vec<Vec<u8>> = (0..3000u16).map(|i| vec![b'x'; usize::from(i)]).collect();
        let handles: Vec<u32> = texts.iter().map(|text| strings.put(text)).collect();
        for (text, handle) in texts.iter().zip(handles) {
            assert_eq!(strings.get(handle), text);
        }
    }

    #[test]
    fn chunked_indexes() {
        let mut items = Chunked::new();
        for i in 0..20_000u32 {
            assert_eq!(items.push(i), i);
        }
        items[8192] = 7;
        assert_eq!(
            (items[8191], items[8192], items[19_999], items.len()),
            (8191, 7, 19_999, 20_000)
        );
    }
}
