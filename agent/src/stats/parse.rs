//! Parsers of kernel text files: pure, forgiving, bounded by their input.

/// Most network devices reported.
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
    /// Bytes received.
    pub rx_bytes: u64,
    /// Errors while receiving.
    pub rx_errors: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Errors while sending.
    pub tx_errors: u64,
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
            Some(Device {
                name: name.trim().to_owned(),
                rx_bytes: *counters.first()?,
                rx_errors: *counters.get(2)?,
                tx_bytes: *counters.get(8)?,
                tx_errors: *counters.get(10)?,
            })
        })
        .filter(|device| device.name != "lo")
        .take(MAX_DEVICES)
        .collect()
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
            \x20 eth0:1500 12 3 0 0 0 0 0 900 7 1 0 0 0 0 0\n";
        let devices = net_dev(text);
        assert_eq!(devices.len(), 1);
        assert_eq!(
            devices[0],
            Device {
                name: "eth0".into(),
                rx_bytes: 1500,
                rx_errors: 3,
                tx_bytes: 900,
                tx_errors: 1
            }
        );
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
        }
    }
}
