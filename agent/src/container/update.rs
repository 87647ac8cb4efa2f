//! Changing a container's limits while it lives.
//!
//! The vocabulary is that of its creation, the OCI `linux.resources` object; what it
//! comes to is a list of cgroup v2 files and their new contents. They are written in
//! order; when one is refused, those before it are put back.
//!
//! A memory limit below what the container holds would have it killed. The kernel is
//! asked to reclaim first (memory.reclaim), and what cannot be reclaimed is the
//! reason for a refusal.

use std::{fs, io, path::Path};

use oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};

use crate::{
    error::{Context as _, Error, Result},
    stats::parse,
};

/// Longest description of limits, bytes.
const MAX_JSON: usize = 256 << 10;
/// Most entries of `unified`.
const MAX_UNIFIED: usize = 64;
/// Longest value in it, bytes.
const MAX_VALUE: usize = 4096;
/// Controllers whose files `unified` may name. Those of `cgroup` itself would move,
/// freeze or kill the container behind its owner's back.
const CONTROLLERS: [&str; 8] = [
    "cpu", "cpuset", "hugetlb", "io", "memory", "misc", "pids", "rdma",
];

/// A file of the container's cgroup and what is written to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// E.g. "memory.max".
    pub file: String,
    /// As it is written.
    pub value: String,
}

/// What limits come to. Pure.
///
/// # Errors
/// `INVALID_ARGUMENT`: it does not parse, or a value makes no sense.
pub fn parse(json: &[u8]) -> Result<Vec<Setting>> {
    if json.len() > MAX_JSON {
        return Err(Error::invalid("the limits are longer than 256 KiB"));
    }
    let resources: LinuxResources = serde_json::from_slice(json)
        .map_err(|why| Error::invalid(format!("the limits do not parse: {why}")))?;
    let mut settings = Vec::new();
    if let Some(cpu) = resources.cpu() {
        cpu_settings(cpu, &mut settings)?;
    }
    if let Some(pids) = resources.pids() {
        let limit = pids.limit();
        let value = match limit {
            -1 => "max".to_owned(),
            1.. => limit.to_string(),
            _ => return Err(Error::invalid(format!("pids limit {limit}"))),
        };
        set(&mut settings, "pids.max", value);
    }
    if let Some(memory) = resources.memory() {
        memory_settings(memory, &mut settings)?;
    }
    if let Some(unified) = resources.unified() {
        if unified.len() > MAX_UNIFIED {
            return Err(Error::invalid("more than 64 entries in `unified`"));
        }
        let mut unified: Vec<_> = unified.iter().collect();
        unified.sort();
        for (file, value) in unified {
            check_unified(file, value)?;
            set(&mut settings, file, value.clone());
        }
    }
    Ok(settings)
}

fn set(settings: &mut Vec<Setting>, file: &str, value: String) {
    settings.push(Setting {
        file: file.to_owned(),
        value,
    });
}

fn cpu_settings(cpu: &LinuxCpu, settings: &mut Vec<Setting>) -> Result<()> {
    if cpu.realtime_runtime().is_some() || cpu.realtime_period().is_some() {
        return Err(Error::invalid("cgroup v2 has no real-time CPU limits"));
    }
    if let Some(shares) = cpu.shares() {
        set(settings, "cpu.weight", weight(shares).to_string());
    }
    let quota = match cpu.quota() {
        None => None,
        Some(-1) => Some("max".to_owned()),
        Some(quota @ 1..) => Some(quota.to_string()),
        Some(quota) => return Err(Error::invalid(format!("CPU quota {quota}"))),
    };
    match (quota, cpu.period()) {
        (None, None) => {}
        // The kernel keeps the period that is not named.
        (Some(quota), None) => set(settings, "cpu.max", quota),
        (Some(quota), Some(period)) => set(settings, "cpu.max", format!("{quota} {period}")),
        (None, Some(_)) => return Err(Error::invalid("a CPU period without a quota")),
    }
    for (file, set_of) in [("cpuset.cpus", cpu.cpus()), ("cpuset.mems", cpu.mems())] {
        let Some(set_of) = set_of else { continue };
        let plain = |c: char| c.is_ascii_digit() || matches!(c, ',' | '-');
        if set_of.len() > MAX_VALUE || !set_of.chars().all(plain) {
            return Err(Error::invalid(format!("{file}: no list such as \"0-3,5\"")));
        }
        set(settings, file, set_of.clone());
    }
    Ok(())
}

/// Shares of cgroup v1 (2 to 262144) as a weight of v2 (1 to 10000): as libcgroups
/// converts them when a container is created.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

fn memory_settings(memory: &LinuxMemory, settings: &mut Vec<Setting>) -> Result<()> {
    let value = |what: &str, bytes: i64| match bytes {
        -1 => Ok("max".to_owned()),
        1.. => Ok(bytes.to_string()),
        _ => Err(Error::invalid(format!("{what} of {bytes} bytes"))),
    };
    if let Some(reservation) = memory.reservation() {
        let low = match reservation {
            0 => "0".to_owned(),
            bytes => value("memory reservation", bytes)?,
        };
        set(settings, "memory.low", low);
    }
    if let Some(limit) = memory.limit() {
        set(settings, "memory.max", value("memory limit", limit)?);
    }
    Ok(())
}

fn check_unified(file: &str, value: &str) -> Result<()> {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '.');
    let controller = file.split('.').next().unwrap_or_default();
    if file.len() > 64
        || !file.chars().all(plain)
        || !file.contains('.')
        || !CONTROLLERS.contains(&controller)
    {
        return Err(Error::invalid(format!(
            "`unified` names {file:?}: it must be a file of one of the controllers {}",
            CONTROLLERS.join(", ")
        )));
    }
    if value.is_empty() || value.len() > MAX_VALUE || value.contains('\0') {
        return Err(Error::invalid(format!(
            "`unified` gives {file} no value, or one of more than {MAX_VALUE} bytes"
        )));
    }
    Ok(())
}

/// Writes settings into a cgroup's directory: all, or none.
///
/// # Errors
/// See [`Containers::update`](super::Containers::update).
pub fn apply(dir: &Path, settings: &[Setting]) -> Result<()> {
    let mut done: Vec<(&Setting, Option<String>)> = Vec::new();
    for setting in settings {
        // A few files can only be written: there is nothing to put back.
        let before = fs::read_to_string(dir.join(&setting.file)).ok();
        if let Err(why) = write(dir, setting) {
            for (setting, before) in done.into_iter().rev() {
                put_back(dir, setting, before);
            }
            return Err(why);
        }
        done.push((setting, before));
    }
    Ok(())
}

fn write(dir: &Path, setting: &Setting) -> Result<()> {
    if setting.file == "memory.max"
        && let Ok(limit) = setting.value.parse()
    {
        make_room(dir, limit)?;
    }
    // Never make a file: outside of a cgroup file system that would "work".
    let written = fs::OpenOptions::new()
        .write(true)
        .truncate(true)
        .open(dir.join(&setting.file))
        .and_then(|mut file| io::Write::write_all(&mut file, setting.value.as_bytes()));
    let Err(why) = written else {
        return Ok(());
    };
    let refused = matches!(
        why.raw_os_error(),
        Some(
            libc::EINVAL
                | libc::ERANGE
                | libc::ENODEV
                | libc::EOPNOTSUPP
                | libc::ENOENT
                | libc::EACCES
        )
    );
    let what = format!("write {:?} to {}", setting.value, setting.file);
    if refused {
        return Err(Error::invalid(format!("{what}: {why}")));
    }
    Err(why).context(|| what)
}

/// Makes the kernel take back what is over the limit, as far as it can.
fn make_room(dir: &Path, limit: u64) -> Result<()> {
    let held = || fs::read_to_string(dir.join("memory.current")).map(|it| parse::number(&it));
    let before = held().context(|| "read memory.current")?;
    if before <= limit {
        return Ok(());
    }
    // Fails with EAGAIN when it could not reclaim all: the next look decides.
    let _ = fs::write(dir.join("memory.reclaim"), (before - limit).to_string());
    let after = held().context(|| "read memory.current")?;
    if after > limit {
        return Err(Error::precondition(format!(
            "the container holds {after} bytes of memory that it cannot give back, more than the \
             limit of {limit}; lower its use first"
        )));
    }
    Ok(())
}

fn put_back(dir: &Path, setting: &Setting, before: Option<String>) {
    let Some(before) = before else { return };
    if let Err(why) = fs::write(dir.join(&setting.file), before.trim_end()) {
        tracing::error!("put back {}: {why}", setting.file);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn files(json: &str) -> Vec<(String, String)> {
        let settings = parse(json.as_bytes()).unwrap();
        settings.into_iter().map(|it| (it.file, it.value)).collect()
    }

    fn pairs(list: &[(&str, &str)]) -> Vec<(String, String)> {
        list.iter()
            .map(|(file, value)| ((*file).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn limits_become_files() {
        let json = r#"{
            "cpu": {"shares": 1024, "quota": 50000, "period": 100000, "cpus": "0-1"},
            "memory": {"limit": 67108864, "reservation": 0},
            "pids": {"limit": 100},
            "unified": {"memory.high": "60000000", "cpu.idle": "0"}
        }"#;
        let wanted = [
            ("cpu.weight", "39"),
            ("cpu.max", "50000 100000"),
            ("cpuset.cpus", "0-1"),
            ("pids.max", "100"),
            ("memory.low", "0"),
            ("memory.max", "67108864"),
            ("cpu.idle", "0"),
            ("memory.high", "60000000"),
        ];
        assert_eq!(files(json), pairs(&wanted));
        assert_eq!(files("{}"), pairs(&[]));
        let none = r#"{"cpu": {"quota": -1}, "memory": {"limit": -1}, "pids": {"limit": -1}}"#;
        let wanted = [
            ("cpu.max", "max"),
            ("pids.max", "max"),
            ("memory.max", "max"),
        ];
        assert_eq!(files(none), pairs(&wanted));
    }

    #[test]
    fn shares_become_weights() {
        assert_eq!([2, 1024, 262_144].map(weight), [1, 39, 10_000]);
        assert_eq!([0, u64::MAX].map(weight), [1, 10_000]);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for bad in [
            "",
            "7",
            r#"{"cpu": {"quota": 0}}"#,
            r#"{"cpu": {"quota": -7}}"#,
            r#"{"cpu": {"period": 100000}}"#,
            r#"{"cpu": {"cpus": "0-1\nx"}}"#,
            r#"{"cpu": {"realtimeRuntime": 1}}"#,
            r#"{"memory": {"limit": 0}}"#,
            r#"{"memory": {"limit": -2}}"#,
            r#"{"pids": {"limit": 0}}"#,
            r#"{"unified": {"cgroup.kill": "1"}}"#,
            r#"{"unified": {"../memory.max": "1"}}"#,
            r#"{"unified": {"memory/max": "1"}}"#,
            r#"{"unified": {"memory": "1"}}"#,
            r#"{"unified": {"memory.max": ""}}"#,
        ] {
            let error = parse(bad.as_bytes()).unwrap_err();
            assert_eq!(
                error.code(),
                ttrpc::Code::INVALID_ARGUMENT,
                "{bad}: {error}"
            );
        }
    }

    /// A directory with a few files stands for a cgroup.
    fn cgroup(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (file, content) in files {
            fs::write(dir.path().join(file), content).unwrap();
        }
        dir
    }

    #[test]
    fn all_of_it_or_nothing() {
        let dir = cgroup(&[
            ("cpu.weight", "100\n"),
            ("memory.max", "max\n"),
            ("memory.current", "5\n"),
        ]);
        let settings = parse(br#"{"cpu": {"shares": 2}, "memory": {"limit": 4096}}"#).unwrap();
        apply(dir.path(), &settings).unwrap();
        let read = |file: &str| fs::read_to_string(dir.path().join(file)).unwrap();
        assert_eq!(
            (read("cpu.weight").as_str(), read("memory.max").as_str()),
            ("1", "4096")
        );

        let settings = parse(br#"{"cpu": {"shares": 262144}, "pids": {"limit": 7}}"#).unwrap();
        let error = apply(dir.path(), &settings).unwrap_err();
        assert!(error.to_string().contains("pids.max"), "{error}");
        assert_eq!(read("cpu.weight"), "1");
        assert!(!dir.path().join("pids.max").exists());
    }

    #[test]
    fn a_limit_below_what_is_held_is_refused_after_an_attempt() {
        let dir = cgroup(&[
            ("cpu.weight", "100"),
            ("memory.max", "max"),
            ("memory.current", "10000"),
            ("memory.reclaim", ""),
        ]);
        let settings = parse(br#"{"cpu": {"shares": 2}, "memory": {"limit": 4096}}"#).unwrap();
        let error = apply(dir.path(), &settings).unwrap_err();
        assert_eq!(error.code(), ttrpc::Code::FAILED_PRECONDITION);
        let read = |file: &str| fs::read_to_string(dir.path().join(file)).unwrap();
        assert_eq!(read("memory.reclaim"), "5904");
        assert_eq!(
            (read("cpu.weight").as_str(), read("memory.max").as_str()),
            ("100", "max")
        );
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = parse(&bytes);
        }
    }
}
