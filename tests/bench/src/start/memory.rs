//! What a process keeps in memory, told apart into the guest's RAM and the rest.

use anyhow::{Context as _, Result};

/// Resident memory of a VMM, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Resident {
    /// Pages of the guest's RAM.
    pub(crate) guest: u64,
    /// Everything else, text of the binary included.
    pub(crate) beside: u64,
}

/// Reads a VMM's mappings and finds the guest's RAM of `guest_bytes` among them.
pub(crate) fn of_vmm(pid: u32, guest_bytes: u64) -> Result<Resident> {
    let path = format!("/proc/{pid}/smaps");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    Ok(split(&parse(&text), guest_bytes))
}

/// Resident memory of an ordinary process, bytes.
pub(crate) fn of_process(pid: u32) -> Result<u64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let text = std::fs::read_to_string(&path).with_context(|| format!("reading {path}"))?;
    Ok(text.lines().find_map(|line| kib(line, "Rss:")).unwrap_or(0))
}

#[derive(Clone, Copy, Debug)]
struct Mapping {
    start: u64,
    end: u64,
    /// Private, writable, without a file behind it.
    anonymous: bool,
    resident: u64,
}

fn kib(line: &str, key: &str) -> Option<u64> {
    let value = line.strip_prefix(key)?.trim().strip_suffix("kB")?.trim();
    Some(value.parse::<u64>().ok()? << 10)
}

fn parse(smaps: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let mut words = line.split_whitespace();
        let range = words.next().unwrap_or_default();
        let bounds = range.split_once('-').and_then(|(start, end)| {
            let start = u64::from_str_radix(start, 16).ok()?;
            Some((start, u64::from_str_radix(end, 16).ok()?))
        });
        if let Some((start, end)) = bounds {
            mappings.push(Mapping {
                start,
                end,
                // Permissions, offset, device, inode 0, and no name.
                anonymous: words.next() == Some("rw-p")
                    && words.nth(2) == Some("0")
                    && words.next().is_none(),
                resident: 0,
            });
        } else if let (Some(resident), Some(last)) = (kib(line, "Rss:"), mappings.last_mut()) {
            last.resident = resident;
        }
    }
    mappings
}

/// Smallest piece that advice on huge pages cuts out of the RAM, bytes.
const PIECE: u64 = 2 << 20;

/// The guest's RAM is the mapping of just its size. Where there is none, it has been
/// cut (by advice to the kernel) and perhaps merged with a small neighbour: then it
/// is the largest mapping, and what adjoins it that is anonymous and no smaller than
/// a huge page.
fn split(mappings: &[Mapping], guest_bytes: u64) -> Resident {
    let size = |mapping: &Mapping| mapping.end - mapping.start;
    let whole = mappings.iter().position(|m| size(m) == guest_bytes);
    let ram = whole.map(|index| index..=index).or_else(|| {
        let (largest, _) = mappings.iter().enumerate().max_by_key(|(_, m)| size(m))?;
        let joined = |below: usize, above: usize| {
            let (below, above) = (mappings.get(below)?, mappings.get(above)?);
            let piece = |m: &Mapping| m.anonymous && size(m) >= PIECE;
            (below.end == above.start && piece(below) && piece(above)).then_some(())
        };
        let (mut first, mut last) = (largest, largest);
        while first > 0 && joined(first - 1, first).is_some() {
            first -= 1;
        }
        while joined(last, last + 1).is_some() {
            last += 1;
        }
        Some(first..=last)
    });
    let mut total = Resident::default();
    for (index, mapping) in mappings.iter().enumerate() {
        if ram.as_ref().is_some_and(|ram| ram.contains(&index)) {
            total.guest += mapping.resident;
        } else {
            total.beside += mapping.resident;
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_is_told_from_what_lies_beside_it() {
        let smaps = "00400000-00500000 r-xp 00000000 08:01 7 /vmm\nSize: 1024 kB\nRss: 512 kB\n\
                     0ffff000-10000000 rw-p 00000000 00:00 0\nRss: 4 kB\n\
                     10000000-12000000 rw-p 00000000 00:00 0\nRss: 2048 kB\n\
                     12000000-20000000 rw-p 00000000 00:00 0\nRss: 4096 kB\n\
                     20000000-20010000 rw-p 00000000 00:00 0\nRss: 32 kB\n\
                     7f000000-7f100000 rw-p 00000000 00:00 0 [stack]\nRss: 64 kB\n";
        let resident = split(&parse(smaps), 256 << 20);
        assert_eq!(resident.guest, (2048 + 4096) << 10);
        assert_eq!(resident.beside, (512 + 4 + 32 + 64) << 10);
    }

    #[test]
    fn ram_that_is_one_file_mapping_is_found_by_its_size() {
        let smaps = "10000000-20000000 rw-s 00000000 00:01 9 /memfd:ram\nRss: 2048 kB\n\
                     20000000-20010000 rw-p 00000000 00:00 0\nRss: 32 kB\n";
        let resident = split(&parse(smaps), 256 << 20);
        assert_eq!((resident.guest, resident.beside), (2048 << 10, 32 << 10));
    }
}
