//! Processes: who they are, how they ended, and their streams.

mod early;
pub mod input;
pub mod output;
pub mod server;
pub mod stream;

use std::{
    os::fd::OwnedFd,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use bulkhead_agent_api::{agent, stdio::DEFAULT_BUFFER};
use rustix::process::{Pid, Signal};
use tokio::{sync::watch, task::AbortHandle};

use crate::error::{Context as _, Error, Result};
use stream::{InputStream, OutputStream, Pipe};

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Exit {
    /// Exit status 0..=255, or 128 + signal.
    pub code: i32,
    /// The signal that ended it, or 0.
    pub signal: u32,
    /// Ended by the kernel for its cgroup's memory limit.
    pub oom_killed: bool,
    /// Unix time, guest clock, in ns.
    pub finished_unix_ns: i64,
    /// How much it had written.
    pub written: Written,
}

/// Lengths of a process's output streams at its end, bytes; `None` where nobody
/// can know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Standard output.
    pub stdout: Option<u64>,
    /// Standard error.
    pub stderr: Option<u64>,
}

impl From<Exit> for agent::Exit {
    fn from(exit: Exit) -> Self {
        Self {
            exit_code: exit.code,
            signal: exit.signal,
            oom_killed: exit.oom_killed,
            finished_unix_ns: exit.finished_unix_ns,
            stdout_bytes: exit.written.stdout,
            stderr_bytes: exit.written.stderr,
            ..Default::default()
        }
    }
}

/// Now, as Unix time in ns.
#[must_use]
pub fn unix_now_ns() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| i64::try_from(since.as_nanos()).ok())
        .unwrap_or(0)
}

/// What a process wants of its streams.
#[derive(Clone, Copy, Debug, Default)]
pub struct StdioOptions {
    /// One terminal instead of three pipes.
    pub terminal: bool,
    /// Input comes from the daemon; otherwise it is empty.
    pub stdin: bool,
    /// Input ends with its first connection.
    pub stdin_once: bool,
    /// Bytes kept per output stream; 0 for the default.
    pub output_buffer: u64,
}

/// Largest output buffer a daemon may ask for.
const MAX_BUFFER: u64 = 64 << 20;

impl StdioOptions {
    fn buffer(&self) -> usize {
        match self.output_buffer {
            0 => DEFAULT_BUFFER,
            bytes => usize::try_from(bytes.min(MAX_BUFFER)).unwrap_or(DEFAULT_BUFFER),
        }
    }
}

/// The process's own ends of its pipes, to be handed to it and then closed.
#[derive(Debug)]
pub struct ChildStdio {
    /// Read end, or /dev/null.
    pub stdin: OwnedFd,
    /// Write end.
    pub stdout: OwnedFd,
    /// Write end.
    pub stderr: OwnedFd,
}

/// The agent's side of a process's streams.
#[derive(Debug, Default)]
pub struct Streams {
    stdin: Option<Arc<InputStream>>,
    stdout: Option<Arc<OutputStream>>,
    stderr: Option<Arc<OutputStream>>,
    terminal: Mutex<Option<Pipe>>,
    tasks: Mutex<Vec<AbortHandle>>,
}

impl Drop for Streams {
    fn drop(&mut self) {
        let tasks = self.tasks.get_mut().unwrap_or_else(PoisonError::into_inner);
        tasks.iter().for_each(AbortHandle::abort);
    }
}

impl Streams {
    /// Streams over three pipes, and the ends that go to the process.
    ///
    /// # Errors
    /// When descriptors are exhausted.
    pub fn over_pipes(options: &StdioOptions) -> Result<(Self, ChildStdio)> {
        let make = || {
            rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)
                .context(|| "make a pipe for a process")
        };
        let (out_read, stdout) = make()?;
        let (err_read, stderr) = make()?;
        let mut streams = Self::default();
        streams.stdout = Some(streams.pump_output(options, pollable(out_read)?));
        streams.stderr = Some(streams.pump_output(options, pollable(err_read)?));
        let stdin = if options.stdin {
            let (stdin, write) = make()?;
            streams.stdin = Some(streams.pump_input(options, pollable(write)?));
            stdin
        } else {
            std::fs::File::open("/dev/null")
                .context(|| "open /dev/null")?
                .into()
        };
        let child = ChildStdio {
            stdin,
            stdout,
            stderr,
        };
        Ok((streams, child))
    }

    /// Streams over the master side of a terminal.
    ///
    /// # Errors
    /// When the terminal cannot be polled.
    pub fn over_terminal(options: &StdioOptions, master: OwnedFd) -> Result<Self> {
        let master = pollable(master)?;
        let mut streams = Self::default();
        streams.stdout = Some(streams.pump_output(options, Arc::clone(&master)));
        if options.stdin {
            streams.stdin = Some(streams.pump_input(options, Arc::clone(&master)));
        }
        *lock(&streams.terminal) = Some(master);
        Ok(streams)
    }

    /// How much was written to each so far. A terminal passes its output on in its
    /// own time, so only its end tells.
    fn written(&self) -> Written {
        if lock(&self.terminal).is_some() {
            return Written::default();
        }
        let length = |stream: &Option<Arc<OutputStream>>| stream.as_ref()?.length();
        Written {
            stdout: length(&self.stdout),
            stderr: length(&self.stderr),
        }
    }

    fn pump_output(&self, options: &StdioOptions, from: Pipe) -> Arc<OutputStream> {
        let stream = Arc::new(OutputStream::new(from, options.buffer()));
        let task = tokio::spawn({
            let stream = Arc::clone(&stream);
            async move { stream.pump().await }
        });
        lock(&self.tasks).push(task.abort_handle());
        stream
    }

    fn pump_input(&self, options: &StdioOptions, to: Pipe) -> Arc<InputStream> {
        let stream = Arc::new(InputStream::new(options.stdin_once));
        let task = tokio::spawn({
            let stream = Arc::clone(&stream);
            async move { stream.pump(to).await }
        });
        lock(&self.tasks).push(task.abort_handle());
        stream
    }
}

fn pollable(fd: OwnedFd) -> Result<Pipe> {
    stream::pipe(fd).context(|| "poll a process's stream")
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process of a container: its init (empty exec id) or an exec.
#[derive(Debug)]
pub struct Process {
    container_id: String,
    exec_id: String,
    pid: Pid,
    streams: Streams,
    exit: watch::Sender<Option<Exit>>,
    started_unix_ns: AtomicI64,
}

impl Process {
    /// A process that has been made, and not yet started.
    #[must_use]
    pub fn new(container_id: &str, exec_id: &str, pid: Pid, streams: Streams) -> Self {
        Self {
            container_id: container_id.to_owned(),
            exec_id: exec_id.to_owned(),
            pid,
            streams,
            exit: watch::Sender::new(None),
            started_unix_ns: AtomicI64::new(0),
        }
    }

    /// The container it belongs to.
    #[must_use]
    pub fn container_id(&self) -> &str {
        &self.container_id
    }

    /// Empty for a container's init.
    #[must_use]
    pub fn exec_id(&self) -> &str {
        &self.exec_id
    }

    /// In the agent's PID namespace.
    #[must_use]
    pub fn pid(&self) -> Pid {
        self.pid
    }

    /// Records that the user's program runs; returns the time told as its start.
    pub fn mark_started(&self) -> i64 {
        let now = unix_now_ns();
        self.started_unix_ns.store(now, Ordering::Relaxed);
        now
    }

    /// Unix time in ns; 0 before the start.
    #[must_use]
    pub fn started_unix_ns(&self) -> i64 {
        self.started_unix_ns.load(Ordering::Relaxed)
    }

    /// Records the end, and how much it had written by then. Input that is still
    /// pending has no reader any more.
    pub fn mark_exited(&self, exit: Exit) {
        if let Some(stdin) = &self.streams.stdin {
            stdin.discard();
        }
        let written = self.streams.written();
        self.exit.send_replace(Some(Exit { written, ..exit }));
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn exit(&self) -> Option<Exit> {
        *self.exit.borrow()
    }

    /// Waits for the end.
    pub async fn wait(&self) -> Exit {
        let mut exit = self.exit.subscribe();
        loop {
            if let Some(exit) = *exit.borrow_and_update() {
                return exit;
            }
            if exit.changed().await.is_err() {
                // The sender lives in `self`: this cannot be reached.
                std::future::pending::<()>().await;
            }
        }
    }

    /// Sends a signal, as soon as the process can take it; it may be gone already.
    /// Inside a tokio runtime.
    ///
    /// # Errors
    /// `NOT_FOUND` when it is gone, `INVALID_ARGUMENT` for no signal.
    pub fn signal(self: &Arc<Self>, number: u32) -> Result<()> {
        let signal = signal_from(number)?;
        // An exit is recorded when the pid is reaped: until then it is ours.
        if self.exit().is_some() {
            return Err(self.gone());
        }
        if early::is_too_early(self.pid, signal) {
            early::hold(Arc::clone(self), signal);
            return Ok(());
        }
        match rustix::process::kill_process(self.pid, signal) {
            Err(rustix::io::Errno::SRCH) => Err(self.gone()),
            other => other.context(|| format!("send signal {number} to process {:?}", self.pid)),
        }
    }

    fn gone(&self) -> Error {
        Error::not_found(format!(
            "process {:?} of container {} has ended",
            self.exec_id, self.container_id
        ))
    }

    /// Sets the terminal's size.
    ///
    /// # Errors
    /// `FAILED_PRECONDITION` for a process without a terminal.
    pub fn resize(&self, rows: u32, columns: u32) -> Result<()> {
        let terminal = lock(&self.streams.terminal)
            .clone()
            .ok_or_else(|| Error::precondition("the process has no terminal to resize"))?;
        resize(terminal.get_ref(), rows, columns)
    }

    /// The input stream, if the process has one.
    #[must_use]
    pub fn stdin(&self) -> Option<&Arc<InputStream>> {
        self.streams.stdin.as_ref()
    }

    /// Standard output, or the terminal's.
    #[must_use]
    pub fn stdout(&self) -> Option<&Arc<OutputStream>> {
        self.streams.stdout.as_ref()
    }

    /// Standard error; none with a terminal.
    #[must_use]
    pub fn stderr(&self) -> Option<&Arc<OutputStream>> {
        self.streams.stderr.as_ref()
    }
}

/// Sets a terminal's size, in characters. Values past `u16` are clipped.
///
/// # Errors
/// When the descriptor is no terminal.
pub fn resize(terminal: &impl std::os::fd::AsFd, rows: u32, columns: u32) -> Result<()> {
    let clip = |value: u32| u16::try_from(value).unwrap_or(u16::MAX);
    let size = rustix::termios::Winsize {
        ws_row: clip(rows),
        ws_col: clip(columns),
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::termios::tcsetwinsize(terminal, size).context(|| "resize a terminal")
}

/// The signal of a number, real-time signals included.
///
/// # Errors
/// `INVALID_ARGUMENT` for a number that is none.
pub fn signal_from(number: u32) -> Result<Signal> {
    i32::try_from(number)
        .ok()
        .and_then(sys_signal)
        .ok_or_else(|| Error::invalid(format!("{number} is not a signal")))
}

fn sys_signal(number: i32) -> Option<Signal> {
    Signal::from_named_raw(number).or_else(|| crate::sys::realtime_signal(number))
}
