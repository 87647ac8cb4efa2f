//! A test host by its name: where its files are, whether it runs, how it starts
//! and ends.
//!
//! `~/.cache/bulkhead/testhost/<name>/` exists as long as the host does:
//! `process` (id and start time), `port`, `token`, `accel`, `initramfs`,
//! `console.log`, `qemu.log`.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{BufWriter, ErrorKind, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::Signal;
use rustix::process::{Pid, WaitOptions, kill_process, waitpid};

use crate::accel::{self, Wish};
use crate::events::Event;
use crate::initramfs::{self, Kernel, Parameters};
use crate::qemu::Machine;

/// What `testhost serve` prints on the console when it listens.
pub(crate) const READY: &str = "testhost: ready";
/// How the scripts begin their last words.
const FAILED: &str = "testhost: failed: ";

/// Hosts for one command are named after the process that started them.
const OWNED: &str = "run-";

/// How a host is started.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    pub(crate) accel: Wish,
    pub(crate) cpus: u32,
    pub(crate) memory_mib: u32,
    pub(crate) shares: Vec<PathBuf>,
    pub(crate) boot_timeout: Duration,
}

/// A host that may or may not exist.
#[derive(Debug)]
pub(crate) struct Instance {
    name: String,
    cache: PathBuf,
    directory: PathBuf,
}

/// Where a running host takes commands.
#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) port: u16,
    pub(crate) token: String,
}

/// The process of a running host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) id: i32,
    start_time: u64,
}

impl Instance {
    /// # Errors
    /// A name that is no file name.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let fine = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        ensure!(
            !name.is_empty()
                && name.len() <= 64
                && name.chars().all(fine)
                && !name.starts_with('.'),
            "{name:?} is no name for a test host: letters, digits, '-', '_' and '.' are"
        );
        ensure!(
            name != "kernel",
            "the name \"kernel\" is taken by the test host's kernel"
        );
        let cache = cache_directory()?.join("testhost");
        Ok(Self {
            name: name.into(),
            directory: cache.join(name),
            cache,
        })
    }

    /// A host for one command of this process. Removes what such hosts of killed
    /// processes left behind: the hosts themselves died with them.
    pub(crate) fn of_this_process() -> Result<Self> {
        let instance = Self::new(&format!("{OWNED}{}", std::process::id()))?;
        for entry in fs::read_dir(&instance.cache)
            .into_iter()
            .flatten()
            .flatten()
        {
            let lives = |id: i32| Process::of(id).is_some();
            if is_abandoned(&entry.file_name().to_string_lossy(), lives) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(instance)
    }

    pub(crate) fn console(&self) -> PathBuf {
        self.directory.join("console.log")
    }

    /// The console's last lines, if the host has died or is about to: the reason
    /// is among them.
    pub(crate) fn last_words(&self) -> Option<String> {
        let deadline = Instant::now() + Duration::from_secs(2);
        while self.process().is_some() {
            if Instant::now() > deadline {
                return None;
            }
            thread::sleep(Duration::from_millis(20));
        }
        Some(tail(&self.console()))
    }

    /// The process, if it lives.
    pub(crate) fn process(&self) -> Option<Process> {
        let recorded = Process::parse(&fs::read_to_string(self.directory.join("process")).ok()?)?;
        (Process::of(recorded.id) == Some(recorded)).then_some(recorded)
    }

    /// What [`Instance::start`] wrote about the acceleration.
    pub(crate) fn accel(&self) -> String {
        fs::read_to_string(self.directory.join("accel")).unwrap_or_default()
    }

    /// # Errors
    /// The host is not up.
    pub(crate) fn endpoint(&self) -> Result<Endpoint> {
        ensure!(
            self.process().is_some(),
            "the test host {:?} is not up: run `testhost up` first, or `testhost run`",
            self.name
        );
        let read = |file: &str| {
            fs::read_to_string(self.directory.join(file))
                .with_context(|| format!("the test host {:?} is still starting", self.name))
        };
        Ok(Endpoint {
            port: read("port")?.parse()?,
            token: read("token")?,
        })
    }

    /// Boots the host and waits until it takes commands.
    ///
    /// `tied` makes the host end with this process, however that ends; otherwise
    /// it stays.
    ///
    /// # Errors
    /// Whatever failed, with the console's last lines; nothing is left behind.
    pub(crate) fn start(
        &self,
        options: &Options,
        tied: bool,
        events: &Receiver<Event>,
    ) -> Result<()> {
        ensure!(
            self.process().is_none(),
            "the test host {:?} is already up",
            self.name
        );
        self.remove_files()?;
        DirBuilder::new()
            .mode(0o700)
            .recursive(true)
            .create(&self.directory)
            .with_context(|| format!("creating {}", self.directory.display()))?;
        let outcome = self.boot(options, tied, events);
        if outcome.is_err() {
            self.remove_files()?;
        }
        outcome
    }

    fn boot(&self, options: &Options, tied: bool, events: &Receiver<Event>) -> Result<()> {
        let (accel, reason) = accel::choose(options.accel)?;
        fs::write(self.directory.join("accel"), format!("{accel} ({reason})"))?;
        let kernel = Kernel::find(&self.cache.join("kernel/current"))?;
        let token = random_token()?;
        write_private(&self.directory.join("token"), token.as_bytes())?;
        let mut shares = Vec::new();
        for share in &options.shares {
            shares.push(
                share
                    .canonicalize()
                    .with_context(|| format!("cannot share {}", share.display()))?,
            );
        }

        let initramfs = self.directory.join("initramfs");
        let file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&initramfs)?;
        let program = std::env::current_exe().context("finding this program")?;
        let visible = [std::env::current_dir().context("the current directory")?];
        let parameters = Parameters {
            kernel: &kernel,
            accel,
            program: &program,
            shares: &shares,
            visible: &visible,
            token: &token,
        };
        initramfs::write(BufWriter::new(file), &parameters)?;

        let port = free_port()?;
        fs::write(self.directory.join("port"), port.to_string())?;
        let machine = Machine {
            accel,
            cpus: options.cpus,
            memory_mib: options.memory_mib,
            kernel: kernel.image(),
            initramfs,
            console: self.console(),
            port,
            shares,
        };
        let log = self.directory.join("qemu.log");
        let mut child = spawn(&machine, &log, tied)?;
        let outcome = Process::of(i32::try_from(child.id())?)
            .context("QEMU ended at once")
            .and_then(|process| {
                fs::write(self.directory.join("process"), process.to_string())?;
                self.wait_ready(&mut child, options.boot_timeout, events)
            });
        if let Err(error) = outcome {
            let _ = child.kill();
            let _ = child.wait();
            let said = [self.console(), log].map(|path| tail(&path)).concat();
            return Err(error.context(format!("the test host did not start\n{said}")));
        }
        Ok(())
    }

    fn wait_ready(
        &self,
        child: &mut Child,
        timeout: Duration,
        events: &Receiver<Event>,
    ) -> Result<()> {
        let deadline = Instant::now() + timeout;
        loop {
            let console = fs::read(self.console()).unwrap_or_default();
            match verdict(&String::from_utf8_lossy(&console)) {
                Some(Ok(())) => return Ok(()),
                Some(Err(reason)) => bail!(reason),
                None => {}
            }
            if let Some(status) = child.try_wait()? {
                bail!("QEMU ended ({status})");
            }
            ensure!(
                Instant::now() < deadline,
                "no sign of life in {} s",
                timeout.as_secs()
            );
            match events.recv_timeout(Duration::from_millis(20)) {
                Ok(Event::Signal(Signal::SIGWINCH)) | Err(RecvTimeoutError::Timeout) => {}
                Ok(Event::Signal(signal)) => bail!("interrupted by {signal}"),
                Ok(Event::Finished(_)) | Err(RecvTimeoutError::Disconnected) => {
                    bail!("the event queue broke")
                }
            }
        }
    }

    /// Ends the host if it runs, and removes its files. Returns whether it ran.
    pub(crate) fn stop(&self) -> Result<bool> {
        let process = self.process();
        if let Some(process) = process {
            process.end()?;
        }
        self.remove_files()?;
        Ok(process.is_some())
    }

    fn remove_files(&self) -> Result<()> {
        match fs::remove_dir_all(&self.directory) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| format!("removing {}", self.directory.display()))
            }
            _ => Ok(()),
        }
    }
}

/// Ends a host when the value goes: for a host that lives for one command.
#[derive(Debug)]
pub(crate) struct Guard<'a>(pub(crate) &'a Instance);

impl Drop for Guard<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.0.stop() {
            eprintln!("testhost: {error:#}");
        }
    }
}

impl Process {
    /// The living process with this id; a zombie does not live.
    pub(crate) fn of(id: i32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        let (state, start_time) = parse_stat(&stat)?;
        (state != 'Z').then_some(Self { id, start_time })
    }

    fn parse(text: &str) -> Option<Self> {
        let (id, start_time) = text.trim().split_once(' ')?;
        Some(Self {
            id: id.parse().ok()?,
            start_time: start_time.parse().ok()?,
        })
    }

    /// Asks QEMU to end, then makes it. The root is read-only and shares are
    /// written through, so nothing is lost either way.
    fn end(self) -> Result<()> {
        for (signal, patience) in [
            (rustix::process::Signal::TERM, 3),
            (rustix::process::Signal::KILL, 5),
        ] {
            let pid = Pid::from_raw(self.id).context("a process id of zero")?;
            if kill_process(pid, signal).is_err() {
                return Ok(());
            }
            let deadline = Instant::now() + Duration::from_secs(patience);
            while Instant::now() < deadline {
                if Self::of(self.id) != Some(self) {
                    // If it was our child, it is ours to reap.
                    let _ = waitpid(Some(pid), WaitOptions::NOHANG);
                    return Ok(());
                }
                thread::sleep(Duration::from_millis(10));
            }
        }
        bail!("QEMU (process {}) does not end", self.id)
    }
}

impl std::fmt::Display for Process {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.id, self.start_time)
    }
}

/// Whether `name` is of a host for one command, whose process lives no more.
fn is_abandoned(name: &str, lives: impl Fn(i32) -> bool) -> bool {
    let owner = name.strip_prefix(OWNED).and_then(|id| id.parse().ok());
    owner.is_some_and(|id| !lives(id))
}

/// State and start time (field 22) of a `/proc/PID/stat`: see proc(5). The
/// program's name, in parentheses, may itself hold spaces and parentheses.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut fields = fields.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.nth(18)?.trim().parse().ok()?))
}

/// What the console tells so far.
fn verdict(console: &str) -> Option<Result<(), String>> {
    for line in console.lines() {
        if line.trim_end() == READY {
            return Some(Ok(()));
        }
        if let Some(reason) = line.strip_prefix(FAILED) {
            return Some(Err(reason.trim_end().into()));
        }
        if line.contains("Kernel panic") {
            return Some(Err(line.trim_end().into()));
        }
    }
    None
}

fn spawn(machine: &Machine, log: &Path, tied: bool) -> Result<Child> {
    let log = File::create(log)?;
    let mut command = Command::new("qemu-system-x86_64");
    command
        .args(machine.arguments())
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        // A Ctrl-C at the terminal is ours to handle, not QEMU's.
        .process_group(0);
    if tied {
        // SAFETY: between fork and exec only prctl(2) is called, which is
        // async-signal-safe; it allocates nothing and takes no lock.
        unsafe {
            command.pre_exec(|| {
                Ok(rustix::process::set_parent_process_death_signal(Some(
                    rustix::process::Signal::KILL,
                ))?)
            });
        }
    }
    command
        .spawn()
        .context("starting qemu-system-x86_64: run `make setup`")
}

/// `~/.cache/bulkhead`, or what the variables say.
fn cache_directory() -> Result<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(directory) = variable("BULKHEAD_CACHE") {
        return Ok(std::path::absolute(directory)?);
    }
    if let Some(directory) = variable("XDG_CACHE_HOME") {
        return Ok(std::path::absolute(directory)?.join("bulkhead"));
    }
    let home = variable("HOME").context("HOME is not set")?;
    Ok(Path::new(&home).join(".cache/bulkhead"))
}

/// 128 random bits in hexadecimal.
fn random_token() -> Result<String> {
    let mut bytes = [0; 16];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)?;
    Ok(())
}

/// A port that was free a moment ago; QEMU fails, and says so, if it no longer is.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

/// The last lines of a file, each indented.
fn tail(path: &Path) -> String {
    const LINES: usize = 30;
    let bytes = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let lines: Vec<_> = text.lines().collect();
    let from = lines.len().saturating_sub(LINES);
    lines[from..]
        .iter()
        .map(|line| format!("  | {}\n", line.trim_end()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_file_names() {
        for name in ["default", "e2e-1", "a.b_c"] {
            assert!(Instance::new(name).is_ok(), "{name}");
        }
        for name in ["", "../x", "a/b", ".hidden", "kernel", &"x".repeat(65)] {
            assert!(Instance::new(name).is_err(), "{name}");
        }
    }

    #[test]
    fn only_hosts_of_dead_processes_are_swept() {
        let lives = |id| id == 7;
        assert!(is_abandoned("run-8", lives));
        assert!(!is_abandoned("run-7", lives));
        assert!(!is_abandoned("run-fast", lives));
        assert!(!is_abandoned("default", lives));
    }

    #[test]
    fn the_start_time_is_found_behind_odd_names() {
        let stat = "42 (a) b (c) S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 98765 20\n";
        assert_eq!(parse_stat(stat), Some(('S', 98765)));
        assert_eq!(parse_stat("42 (x) S 1 2"), None);
    }

    #[test]
    fn this_process_is_recognised_and_others_are_not() {
        let own = Process::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        assert_eq!(Process::parse(&own.to_string()), Some(own));
        assert_ne!(
            Process::of(own.id),
            Some(Process {
                start_time: own.start_time + 1,
                ..own
            })
        );
    }

    #[test]
    fn the_console_tells_how_it_went() {
        assert_eq!(verdict("Booting\r\n"), None);
        assert_eq!(verdict("x\r\ntesthost: ready\r\n"), Some(Ok(())));
        assert_eq!(
            verdict("testhost: failed: mounting the overlay\r\n"),
            Some(Err("mounting the overlay".into()))
        );
        assert!(matches!(
            verdict("[1.0] Kernel panic - not syncing"),
            Some(Err(_))
        ));
    }

    #[test]
    fn tokens_differ() {
        let (one, other) = (random_token().unwrap(), random_token().unwrap());
        assert_eq!(one.len(), 32);
        assert_ne!(one, other);
    }
}
