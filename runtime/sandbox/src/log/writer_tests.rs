//! Tests of [`super::ContainerLog`].

use super::*;

struct Bench {
    dir: tempfile::TempDir,
    target: LogTarget,
}

impl Bench {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let target = LogTarget {
            directory: dir.path().join("logs"),
            path: "web/0.log".into(),
        };
        Self { dir, target }
    }
    fn checkpoint(&self) -> PathBuf {
        self.dir.path().join("checkpoint")
    }
    fn create(&self) -> ContainerLog {
        ContainerLog::create(self.target.clone(), self.checkpoint()).unwrap()
    }
    fn resume(&self) -> ContainerLog {
        ContainerLog::resume(self.target.clone(), self.checkpoint()).unwrap()
    }
    fn path(&self) -> PathBuf {
        self.target.directory.join(&self.target.path)
    }
    fn text(&self) -> String {
        strip(&fs::read_to_string(self.path()).unwrap())
    }
}

/// The log without its timestamps.
fn strip(log: &str) -> String {
    log.lines()
        .map(|line| format!("{}\n", &line[31..]))
        .collect()
}

#[test]
fn what_may_be_acknowledged_is_what_is_in_the_file() {
    let bench = Bench::new();
    let mut log = bench.create();
    assert_eq!(log.append(Stream::Stdout, [&b"one\ntw"[..]], 1).settled, 4);
    assert_eq!(log.append(Stream::Stderr, [&b"err\n"[..]], 2).settled, 4);
    assert_eq!(
        log.append(Stream::Stdout, [&b"o"[..], b"\nx"], 3).settled,
        8
    );
    assert_eq!(bench.text(), "stdout F one\nstderr F err\nstdout F two\n");
    assert_eq!(log.end(Stream::Stdout, 4).settled, 9);
    assert!(bench.text().ends_with("stdout P x\n"));
}

#[test]
fn a_new_daemon_goes_on_where_the_log_ends() {
    let bench = Bench::new();
    let mut log = bench.create();
    log.append(Stream::Stdout, [&b"one\ntw"[..]], 1);
    drop(log);
    // Killed in the middle of a write:
    let mut file = fs::OpenOptions::new()
        .append(true)
        .open(bench.path())
        .unwrap();
    file.write_all(b"2026-08-22T10:00:00.123456789Z stdout F tw")
        .unwrap();
    let mut log = bench.resume();
    assert_eq!(log.progress(Stream::Stdout).settled, 4);
    log.append(Stream::Stdout, [&b"two\n"[..]], 2);
    assert_eq!(bench.text(), "stdout F one\nstdout F two\n");
}

#[test]
fn rotation_moves_on_and_a_crash_in_its_middle_loses_nothing() {
    let bench = Bench::new();
    let mut log = bench.create();
    log.append(Stream::Stdout, [&b"one\n"[..]], 1);
    let rotated = bench.path().with_file_name("0.log.20260822-100000");
    fs::rename(bench.path(), &rotated).unwrap();
    // Renamed, not yet told to reopen: still the old file.
    log.append(Stream::Stdout, [&b"two\n"[..]], 2);
    drop(log);
    let mut log = bench.resume();
    assert_eq!(log.progress(Stream::Stdout).settled, 8);
    log.append(Stream::Stdout, [&b"three\n"[..]], 3);
    assert_eq!(
        strip(&fs::read_to_string(&rotated).unwrap()),
        "stdout F one\nstdout F two\n"
    );
    assert_eq!(bench.text(), "stdout F three\n");

    fs::rename(bench.path(), bench.path().with_file_name("0.log.2")).unwrap();
    log.reopen().unwrap();
    log.append(Stream::Stdout, [&b"four\n"[..]], 4);
    assert_eq!(bench.text(), "stdout F four\n");
    drop(log);
    assert_eq!(bench.resume().progress(Stream::Stdout).settled, 19);
}

#[test]
fn a_truncated_log_costs_at_most_a_repeat() {
    let bench = Bench::new();
    let mut log = bench.create();
    log.append(Stream::Stdout, [&b"one\n"[..]], 1);
    log.reopen().unwrap(); // writes a checkpoint
    log.append(Stream::Stdout, [&b"two\n"[..]], 2);
    File::create(bench.path()).unwrap();
    log.append(Stream::Stdout, [&b"six\n"[..]], 3);
    drop(log);
    let settled = bench.resume().progress(Stream::Stdout).settled;
    assert!(
        (4..=12).contains(&settled),
        "{settled}: from the checkpoint to what was acknowledged"
    );
}

#[test]
fn a_full_disk_drops_output_and_counts_it() {
    let bench = Bench::new();
    let mut log = bench.create();
    log.append(Stream::Stdout, [&b"one\n"[..]], 1);
    // /dev/full stands for the disk: every write is ENOSPC.
    let disk = log.file.replace(
        fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap(),
    );
    assert_eq!(
        log.append(Stream::Stdout, [&b"two\nthree"[..]], 2).settled,
        8
    );
    assert_eq!(log.dropped(), 4);
    log.file = disk;
    log.append(Stream::Stdout, [&b"\nfour\n"[..]], 3);
    assert_eq!(
        bench.text(),
        "stdout F one\nstdout F three\nstdout F four\n"
    );
    drop(log);
    // The last checkpoint was of /dev/full, so the log is counted anew: too
    // little, never too much. The agent's own offset decides then.
    assert!(bench.resume().progress(Stream::Stdout).settled >= 4);
}

#[test]
fn without_a_log_everything_is_settled_at_once() {
    let bench = Bench::new();
    let target = LogTarget {
        directory: PathBuf::new(),
        path: PathBuf::new(),
    };
    let mut log = ContainerLog::create(target, bench.checkpoint()).unwrap();
    assert_eq!(
        log.append(Stream::Stdout, [&b"no newline"[..]], 1).settled,
        10
    );
}

#[test]
fn a_reconnect_sends_unfinished_lines_again_and_a_gap_is_counted() {
    let bench = Bench::new();
    let mut log = bench.create();
    log.append(Stream::Stdout, [&b"one\ntw"[..]], 1);
    assert_eq!(log.rewind(Stream::Stdout).settled, 4);
    assert_eq!(log.skip_to(Stream::Stdout, 10, 2), 6);
    assert_eq!(log.append(Stream::Stdout, [&b"z\n"[..]], 3).settled, 12);
    assert_eq!(log.dropped(), 6);
    assert_eq!(bench.text(), "stdout F one\nstdout F z\n");
    drop(log);
    assert_eq!(bench.resume().progress(Stream::Stdout).settled, 12);
}
