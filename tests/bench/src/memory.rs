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

/// Reads a process's mappings. The guest's RAM is every mapping of at least
/// `guest_mapping` bytes, and every one that lies within a hole-free run of
/// mappings around it that adds up to the guest's size.
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
    resident: u64,
}

fn kib(line: &str, key: &str) -> Option<u64> {
    let value = line.strip_prefix(key)?.trim().strip_suffix("kB")?.trim();
    Some(value.parse::<u64>().ok()? << 10)
}

fn parse(smaps: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    for line in smaps.lines() {
        let range = line.split(' ').next().unwrap_or_default();
        let bounds = range.split_once('-').and_then(|(start, end)| {
            let start = u64::from_str_radix(start, 16).ok()?;
            Some((start, u64::from_str_radix(end, 16).ok()?))
        });
        if let Some((start, end)) = bounds {
            mappings.push(Mapping {
                start,
                end,
                resident: 0,
            });
        } else if let (Some(resident), Some(last)) = (kib(line, "Rss:"), mappings.last_mut()) {
            last.resident = resident;
        }
    }
    mappings
}

/// Groups adjacent mappings; the groups that are at least half the guest's size
/// are its RAM (a kernel image mapped into it splits the RAM's own mapping).
fn split(mappings: &[Mapping], guest_bytes: u64) -> Resident {
    let mut total = Resident::default();
    let mut group: Option<Mapping> = None;
    let mut close = |group: Option<Mapping>| {
        if let Some(group) = group {
            if group.end - group.start >= guest_bytes / 2 {
                total.guest += group.resident;
            } else {
                total.beside += group.resident;
            }
        }
    };
    for mapping in mappings {
        match &mut group {
            Some(open) if open.end == mapping.start => {
                open.end = mapping.end;
                open.resident += mapping.resident;
            }
            _ => close(group.replace(*mapping)),
        }
    }
    close(group);
    total
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ram_is_told_from_the_rest_even_when_a_kernel_is_mapped_into_it() {
        let smaps = "00400000-00500000 r-xp 00000000 08:01 7 /vmm\nSize: 1024 kB\nRss: 512 kB\n\
                     10000000-11000000 rw-p 00000000 00:00 0\nRss: 1024 kB\n\
                     11000000-12000000 rw-p 00001000 08:01 8 /vmlinux\nRss: 2048 kB\n\
                     12000000-20000000 rw-p 00000000 00:00 0\nRss: 4096 kB\n\
                     7f000000-7f100000 rw-p 00000000 00:00 0 [stack]\nRss: 64 kB\n";
        let resident = split(&parse(smaps), 256 << 20);
        assert_eq!(resident.guest, (1024 + 2048 + 4096) << 10);
        assert_eq!(resident.beside, (512 + 64) << 10);
    }
}
