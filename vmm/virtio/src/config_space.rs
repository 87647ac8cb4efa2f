//! Reading a device configuration space: little-endian bytes, any offset, any width.

/// Copies `space[offset..]` to `data`; what lies past the end reads as zero.
pub(crate) fn read(space: &[u8], offset: u64, data: &mut [u8]) {
    data.fill(0);
    let tail = usize::try_from(offset)
        .ok()
        .and_then(|offset| space.get(offset..))
        .unwrap_or_default();
    let len = tail.len().min(data.len());
    data[..len].copy_from_slice(&tail[..len]);
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn reads_any_width_and_zero_past_the_end() {
        let space = [1, 2, 3, 4];
        let mut data = [0xff; 2];
        read(&space, 1, &mut data);
        assert_eq!(data, [2, 3]);
        let mut data = [0xff; 4];
        read(&space, 3, &mut data);
        assert_eq!(data, [4, 0, 0, 0]);
        read(&space, u64::MAX, &mut data);
        assert_eq!(data, [0; 4]);
    }
}
