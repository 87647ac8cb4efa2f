//! Parsers of kernel text files: pure, forgiving, bounded by their input.

/// Most devices reported, of a network or a disk's kind.
const MAX_DEVICES: usize = 256;
/// USER_HZ, in which /proc/stat counts, is 100 on x86-64 (proc(5)).
const NS_PER_TICK: u64 = 1_000_000_000 / 100;

/// A file that is one number. "max" and anything else count as 0.
#[must_use]
pub fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

/// The number behind a key, in a file of "key number" lines.
#[must_use]
pub fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        (words.next()? == key).then(|| words.next()?.parse().ok())?
    })
}

/// Time all CPUs have spent on anything but idling, from /proc/stat.
#[must_use]
pub fn cpu_busy_ns(stat: &str) -> u64 {
    let Some(line) = stat.lines().find(|line| line.starts_with("cpu ")) else {
        return 0;
    };
    // user nice system idle iowait irq softirq steal; guest is in user.
    line.split_ascii_whitespace()
        .skip(1)
        .take(8)
        .enumerate()
        .filter(|(index, _)| !matches!(index, 3 | 4 | 7))
        .filter_map(|(_, word)| word.parse::<u64>().ok())
        .fold(0_u64, u64::saturating_add)
        .saturating_mul(NS_PER_TICK)
}

/// Number of processes and threads, from /proc/loadavg ("… 1/84 …").
#[must_use]
pub fn processes(loadavg: &str) -> u64 {
    loadavg
        .split_ascii_whitespace()
        .nth(3)
        .and_then(|word| word.split_once('/'))
        .map_or(0, |(_, total)| number(total))
}

/// Counters of a network device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Device {
    /// Its name.
    pub name: String,
    /// What it received.
    pub rx: Traffic,
    /// What it sent.
    pub tx: Traffic,
}

/// One direction of a network device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Bytes.
    pub bytes: u64,
    /// Packets.
    pub packets: u64,
    /// Packets that were wrong.
    pub errors: u64,
    /// Packets for which there was no room.
    pub dropped: u64,
}

/// The devices of /proc/net/dev, but for the loopback.
#[must_use]
pub fn net_dev(text: &str) -> Vec<Device> {
    text.lines()
        .skip(2)
        .filter_map(|line| {
            let (name, counters) = line.split_once(':')?;
            let counters: Vec<u64> = counters
                .split_ascii_whitespace()
                .take(16)
                .map(number)
                .collect();
            let traffic = |from: usize| {
                Some(Traffic {
                    bytes: *counters.get(from)?,
                    packets: *counters.get(from + 1)?,
                    errors: *counters.get(from + 2)?,
                    dropped: *counters.get(from + 3)?,
                })
            };
            Some(Device {
                name: name.trim().to_owned(),
                rx: traffic(0)?,
                tx: traffic(8)?,
            })
        })
        .filter(|device| device.name != "lo")
        .take(MAX_DEVICES)
        .collect()
}

/// Counters of a block device, as a cgroup used it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    /// Its number.
    pub device: (u32, u32),
    /// Bytes read and written.
    pub bytes: [u64; 2],
    /// Requests that read and wrote.
    pub requests: [u64; 2],
}

/// The devices of an io.stat: "254:0 rbytes=1 wbytes=2 rios=3 wios=4 …" lines.
#[must_use]
pub fn io_stat(text: &str) -> Vec<Disk> {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let (major, minor) = words.next()?.split_once(':')?;
            let mut disk = Disk {
                device: (major.parse().ok()?, minor.parse().ok()?),
                ..Default::default()
            };
            for (key, value) in words.filter_map(|word| word.split_once('=')) {
                match key {
                    "rbytes" => disk.bytes[0] = number(value),
                    "wbytes" => disk.bytes[1] = number(value),
                    "rios" => disk.requests[0] = number(value),
                    "wios" => disk.requests[1] = number(value),
                    _ => {}
                }
            }
            Some(disk)
        })
        .take(MAX_DEVICES)
        .collect()
}

/// One line of a pressure file.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Stall {
    /// Microseconds so far.
    pub total_us: u64,
    /// Percent of the last 10, 60 and 300 seconds.
    pub averages: [f64; 3],
}

/// The line of a pressure file that begins with `kind`: "some avg10=0.00
/// avg60=0.00 avg300=0.00 total=0".
#[must_use]
pub fn pressure(text: &str, kind: &str) -> Option<Stall> {
    let mut words = text
        .lines()
        .map(str::split_ascii_whitespace)
        .find_map(|mut words| (words.next()? == kind).then_some(words))?;
    let mut stall = Stall::default();
    for (slot, key) in stall.averages.iter_mut().zip(["avg10", "avg60", "avg300"]) {
        let value = words.next()?.strip_prefix(key)?.strip_prefix('=')?;
        *slot = value.parse().ok().filter(|it: &f64| it.is_finite())?;
    }
    stall.total_us = number(words.next()?.strip_prefix("total=")?);
    Some(stall)
}

/// The soft limit of open files in a /proc/PID/limits; `u64::MAX`: none.
#[must_use]
pub fn max_open_files(text: &str) -> Option<u64> {
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    match line.split_ascii_whitespace().next()? {
        "unlimited" => Some(u64::MAX),
        soft => soft.parse().ok(),
    }
}

/// Numbers of a CPU list such as "0-2,4" (sysfs), at most `max` of them.
#[must_use]
pub fn cpu_list(text: &str, max: usize) -> Vec<u32> {
    text.trim()
        .split(',')
        .filter_map(|part| {
            let (first, last) = part.split_once('-').unwrap_or((part, part));
            Some(first.parse::<u32>().ok()?..=last.parse::<u32>().ok()?)
        })
        .flatten()
        .take(max)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_and_keys() {
        assert_eq!(number("4096\n"), 4096);
        assert_eq!(number("max\n"), 0);
        let stat = "anon 8192\nfile 4\npgfault 17\npgmajfault 1\n";
        assert_eq!(keyed(stat, "pgfault"), Some(17));
        assert_eq!(keyed(stat, "pg"), None);
        assert_eq!(keyed("MemTotal:   1000 kB\n", "MemTotal:"), Some(1000));
    }

    #[test]
    fn busy_time_leaves_out_idle_iowait_and_steal() {
        let stat = "cpu  10 2 3 1000 500 1 4 77 5 0\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(cpu_busy_ns(stat), 20 * NS_PER_TICK);
        assert_eq!(cpu_busy_ns(""), 0);
    }

    #[test]
    fn devices_without_the_loopback() {
        let text = "Inter-|   Receive | Transmit\n face |bytes ...\n\
            \x20   lo: 1 1 0 0 0 0 0 0 1 1 0 0 0 0 0 0\n\
            \x20 eth0:1500 12 3 4 0 0 0 0 900 7 1 2 0 0 0 0\n";
        let devices = net_dev(text);
        assert_eq!(devices.len(), 1);
        assert_eq!(
            devices[0],
            Device {
                name: "eth0".into(),
                rx: Traffic {
                    bytes: 1500,
                    packets: 12,
                    errors: 3,
                    dropped: 4
                },
                tx: Traffic {
                    bytes: 900,
                    packets: 7,
                    errors: 1,
                    dropped: 2
                },
            }
        );
    }

    #[test]
    fn disks_of_a_cgroup() {
        let text = "254:0 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\nnoise\n7:1\n";
        let disks = io_stat(text);
        assert_eq!(disks.len(), 2);
        assert_eq!((disks[0].device, disks[0].bytes), ((254, 0), [4096, 8192]));
        assert_eq!((disks[0].requests, disks[1].bytes), ([1, 2], [0, 0]));
    }

    #[test]
    fn pressure_has_two_lines() {
        let text = "some avg10=0.50 avg60=1.25 avg300=0.00 total=77\n\
                    full avg10=0.00 avg60=0.00 avg300=0.00 total=5\n";
        let some = pressure(text, "some").unwrap();
        assert_eq!((some.total_us, some.averages), (77, [0.5, 1.25, 0.0]));
        assert_eq!(pressure(text, "full").unwrap().total_us, 5);
        assert_eq!(
            pressure("some avg10=NaN avg60=0 avg300=0 total=1", "some"),
            None
        );
        assert_eq!(pressure("", "some"), None);
    }

    #[test]
    fn limits_of_a_process() {
        let text = "Limit                     Soft Limit           Hard Limit           Units\n\
                    Max processes             100                  200                  processes\n\
                    Max open files            1024                 1048576              files\n";
        assert_eq!(max_open_files(text), Some(1024));
        assert_eq!(
            max_open_files("Max open files unlimited unlimited files"),
            Some(u64::MAX)
        );
        assert_eq!(max_open_files(""), None);
    }

    #[test]
    fn lists_and_loads() {
        assert_eq!(cpu_list("0-2,4\n", 64), [0, 1, 2, 4]);
        assert_eq!(cpu_list("0-4294967295", 3), [0, 1, 2]);
        assert_eq!(cpu_list("", 3), [0_u32; 0]);
        assert_eq!(processes("0.00 0.01 0.05 1/84 123\n"), 84);
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "(?s).{0,300}") {
            let _ = (number(&text), keyed(&text, "anon"), cpu_busy_ns(&text));
            let _ = (net_dev(&text), processes(&text), cpu_list(&text, 100));
            let _ = (io_stat(&text), pressure(&text, "some"), max_open_files(&text));
        }
    }
}
