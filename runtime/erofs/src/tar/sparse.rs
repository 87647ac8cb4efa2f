//! Maps of sparse files: which parts of a file the archive holds.
//!
//! Source: GNU tar manual, "Storing Sparse Files". Four forms are in use: the
//! old GNU one (in the header and in extension blocks), PAX 0.0 and 0.1 (in the
//! extended header) and PAX 1.0 (decimal numbers, one a line, before the data).

use crate::error::ArchiveFault;

use super::header::non_negative;
use super::pax::decimal;

/// One part of a sparse file that the archive holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it lies in the file.
    pub offset: u64,
    /// Its length in bytes; never 0.
    pub length: u64,
}

/// Most extents of one file. At 16 bytes each this is 1 MiB.
pub(super) const EXTENTS_MAX: usize = 65_536;

/// Checks that extents ascend, lie within the file and account for exactly the
/// payload; drops empty ones.
pub(super) fn checked(
    pairs: &[u64],
    file_size: u64,
    payload: u64,
) -> Result<Vec<Extent>, ArchiveFault> {
    if !pairs.len().is_multiple_of(2) || pairs.len() / 2 > EXTENTS_MAX {
        return Err(ArchiveFault::Sparse);
    }
    let mut extents = Vec::with_capacity(pairs.len() / 2);
    let (mut end, mut total) = (0u64, 0u64);
    for pair in pairs.chunks_exact(2) {
        let (offset, length) = (pair[0], pair[1]);
        let next = offset.checked_add(length).ok_or(ArchiveFault::Sparse)?;
        if offset < end || next > file_size {
            return Err(ArchiveFault::Sparse);
        }
        end = next;
        total = total.checked_add(length).ok_or(ArchiveFault::Sparse)?;
        if length > 0 {
            extents.push(Extent { offset, length });
        }
    }
    if total == payload {
        Ok(extents)
    } else {
        Err(ArchiveFault::Sparse)
    }
}

/// Takes the entries of one old GNU header or extension block into `pairs`. An
/// entry is two numbers of 12 bytes; an empty one ends the list.
pub(super) fn take_gnu(entries: &[u8], pairs: &mut Vec<u64>) -> Result<(), ArchiveFault> {
    for entry in entries.chunks_exact(24) {
        if entry[0] == 0 {
            break;
        }
        if pairs.len() / 2 >= EXTENTS_MAX {
            return Err(ArchiveFault::Sparse);
        }
        for field in entry.chunks_exact(12) {
            pairs.push(non_negative(field).ok_or(ArchiveFault::Sparse)?);
        }
    }
    Ok(())
}

/// Reads the numbers of a PAX 1.0 map as the blocks arrive: a count of extents,
/// then that many pairs.
#[derive(Default)]
pub(super) struct Pax1Map {
    count: Option<usize>,
    pairs: Vec<u64>,
    line: Vec<u8>,
}

impl Pax1Map {
    /// Takes one block. Returns true when the map is complete; the rest of the
    /// block is padding.
    pub(super) fn take(&mut self, block: &[u8]) -> Result<bool, ArchiveFault> {
        for &byte in block {
            if self.complete() {
                return Ok(true);
            }
            if byte != b'\n' {
                // A u64 has at most 20 digits.
                if self.line.len() == 20 {
                    return Err(ArchiveFault::Sparse);
                }
                self.line.push(byte);
                continue;
            }
            let number = decimal(&self.line).ok_or(ArchiveFault::Sparse)?;
            self.line.clear();
            match self.count {
                Some(_) => self.pairs.push(number),
                None => {
                    let count = usize::try_from(number).map_err(|_| ArchiveFault::Sparse)?;
                    if count > EXTENTS_MAX {
                        return Err(ArchiveFault::Sparse);
                    }
                    self.count = Some(count);
                }
            }
        }
        Ok(self.complete())
    }

    fn complete(&self) -> bool {
        self.count
            .is_some_and(|count| self.pairs.len() == count * 2)
    }

    pub(super) fn into_pairs(self) -> Vec<u64> {
        self.pairs
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_must_add_up() {
        assert_eq!(
            checked(&[0, 5, 10, 0, 20, 2], 30, 7),
            Ok(vec![
                Extent {
                    offset: 0,
                    length: 5
                },
                Extent {
                    offset: 20,
                    length: 2
                }
            ])
        );
        assert_eq!(checked(&[], 30, 0), Ok(vec![]));
        for (pairs, payload) in [
            (&[0, 5][..], 4),
            (&[0, 5, 4, 1], 6),
            (&[0], 0),
            (&[25, 6], 6),
            (&[u64::MAX, 2], 2),
            (&[10, 1, 0, 1], 2),
        ] {
            assert_eq!(
                checked(pairs, 30, payload),
                Err(ArchiveFault::Sparse),
                "{pairs:?}"
            );
        }
    }

    #[test]
    fn pax_1_0_map_over_blocks() {
        let mut map = Pax1Map::default();
        assert_eq!(map.take(b"2\n0\n1"), Ok(false));
        assert_eq!(map.take(b"0\n100\n5\n\0\0"), Ok(true));
        assert_eq!(map.into_pairs(), [0, 10, 100, 5]);
        assert_eq!(
            Pax1Map::default().take(b"99999999\n"),
            Err(ArchiveFault::Sparse)
        );
        assert_eq!(
            Pax1Map::default().take(&[b'1'; 40]),
            Err(ArchiveFault::Sparse)
        );
        assert_eq!(Pax1Map::default().take(b"0\n\0"), Ok(true));
    }
}
