//! The guest kernel's command line.

/// What the command line depends on.
#[derive(Clone, Debug)]
pub struct CmdlineOptions<'a> {
    /// CPUs the kernel brings up itself; the agent onlines further ones.
    pub boot_vcpus: u32,
    /// A console is there, for the kernel's last words.
    pub console: bool,
    /// The operator's additions, appended as they stand.
    pub extra: &'a str,
}

/// Each word with its reason; the order does not matter to the kernel.
const ALWAYS: &[(&str, &str)] = &[
    ("rdinit=/init", "the agent is the initramfs's init"),
    (
        "panic=-1",
        "reset at once after a panic; the VMM has learnt of it before",
    ),
    (
        "reboot=t",
        "reset by triple fault: no i8042 to wait for, one exit",
    ),
    ("quiet", "each console byte costs an exit"),
    ("cgroup_no_v1=all", "containers get cgroup v2 only"),
    (
        "tsc=reliable",
        "no clocksource watchdog: the host vouches for the TSC",
    ),
    ("no_timer_check", "there is no legacy timer to check"),
    (
        "rcupdate.rcu_expedited=1",
        "short grace periods: mounts and netns teardown wait on them",
    ),
    ("audit=0", "nobody reads it; each syscall would pay"),
    (
        "swiotlb=noforce",
        "no 64 MiB bounce buffer: DMA reaches all memory",
    ),
    ("cryptomgr.notests", "boot time"),
    ("raid=noautodetect", "boot time"),
];

/// Builds the command line.
#[must_use]
pub fn build(options: &CmdlineOptions<'_>) -> String {
    let mut words: Vec<String> = ALWAYS.iter().map(|(word, _)| (*word).to_owned()).collect();
    words.push(format!("maxcpus={}", options.boot_vcpus));
    if options.console {
        // Errors and worse only: enough for a panic's message.
        words.push("console=hvc0".to_owned());
        words.push("loglevel=4".to_owned());
    } else {
        words.push("loglevel=0".to_owned());
    }
    let extra = options.extra.trim();
    if !extra.is_empty() {
        words.push(extra.to_owned());
    }
    words.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(console: bool, extra: &str) -> Vec<String> {
        let line = build(&CmdlineOptions {
            boot_vcpus: 2,
            console,
            extra,
        });
        assert!(line.len() < 2048, "COMMAND_LINE_SIZE");
        line.split(' ').map(str::to_owned).collect()
    }

    #[test]
    fn a_console_is_named_only_where_there_is_one() {
        assert!(!words(false, "").iter().any(|w| w.starts_with("console=")));
        assert!(words(true, "").contains(&"console=hvc0".to_owned()));
    }

    #[test]
    fn the_kernel_boots_the_cpus_asked_for_and_our_init() {
        let words = words(false, "");
        assert!(words.contains(&"maxcpus=2".to_owned()));
        assert!(words.contains(&"rdinit=/init".to_owned()));
        assert!(words.iter().all(|w| !w.is_empty()));
    }

    #[test]
    fn the_operators_words_come_last_and_so_win() {
        assert_eq!(words(false, " loglevel=7 ").last().unwrap(), "loglevel=7");
    }
}
