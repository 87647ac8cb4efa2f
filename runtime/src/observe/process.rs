//! What the daemon's own process takes, from proc(5).

use std::{fs, time::Duration};

/// Use of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Usage {
    pub(super) resident_bytes: u64,
    pub(super) open_files: u64,
    /// User and system time since its start.
    pub(super) cpu: Duration,
}

/// As of now; `None` where /proc is not what it should be.
pub(super) fn look() -> Option<Usage> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    let pages: u64 = statm.split(' ').nth(1)?.parse().ok()?;
    let page = rustix::param::page_size() as u64;
    Some(Usage {
        resident_bytes: pages.saturating_mul(page),
        open_files: fs::read_dir("/proc/self/fd").ok()?.count() as u64,
        cpu: ticks(&stat).map(|ticks| {
            Duration::from_millis(
                ticks.saturating_mul(1000) / rustix::param::clock_ticks_per_second(),
            )
        })?,
    })
}

/// utime and stime of /proc/PID/stat: fields 14 and 15, counted from behind the
/// command's name, which may hold anything.
fn ticks(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    Some(user.saturating_add(system))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_with_brackets_and_blanks_are_skipped() {
        let stat = "7 (a) 1 b) S 1 7 7 0 -1 4194560 500 0 0 0 12 30 0 0 20 0 9 0 100 1 2";
        assert_eq!(ticks(stat), Some(42));
        assert_eq!(ticks("7 (a) S"), None);
    }

    #[test]
    fn this_process_takes_something() {
        let usage = look().unwrap();
        assert!(usage.resident_bytes > 100_000 && usage.open_files > 2);
    }
}
