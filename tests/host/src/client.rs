//! `testhost exec` and `shell`: one command in the test host, its streams here.

use std::fmt;
use std::io::{self, IsTerminal, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use rustix::termios::{self, OptionalActions, Termios};

use crate::events::Event;
use crate::instance::Endpoint;
use crate::wire::{CHUNK, Call, Reply, Request};

/// What timeout(1) returns for a command that took too long.
pub(crate) const TIMED_OUT: i32 = 124;
/// Chunks of standard input under way at once.
const WINDOW: usize = 4;
/// What a command may take to end once it was told to.
const GRACE: Duration = Duration::from_secs(5);

/// A command and how to run it.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) argv: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) cwd: String,
    pub(crate) stdin: bool,
    /// Give it a terminal of its own, and ours in raw mode.
    pub(crate) terminal: bool,
    pub(crate) timeout: Option<Duration>,
}

/// The connection ended before the command did.
#[derive(Debug)]
pub(crate) struct Gone;

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the test host went away")
    }
}

impl std::error::Error for Gone {}

type Connection = Arc<Mutex<TcpStream>>;

/// Runs the command and returns its exit status.
///
/// # Errors
/// The command could not be started, or the test host went away.
pub(crate) fn run(
    endpoint: &Endpoint,
    command: Command,
    sender: Sender<Event>,
    events: &Receiver<Event>,
) -> Result<i32> {
    let deadline = command.timeout.map(|timeout| Instant::now() + timeout);
    let stream = TcpStream::connect(("127.0.0.1", endpoint.port))
        .context("connecting to the test host: is it still up?")?;
    stream.set_nodelay(true)?;
    let replies = stream.try_clone()?;
    let connection: Connection = Arc::new(Mutex::new(stream));

    let raw = if command.terminal {
        Some(RawTerminal::enter()?)
    } else {
        None
    };
    send(
        &connection,
        &Call::Start(Request {
            token: endpoint.token.clone(),
            argv: command.argv,
            env: command.env,
            cwd: command.cwd,
            stdin: command.stdin,
            terminal: raw.as_ref().map(|_| window_size()),
        }),
    )?;

    let (taken, credits) = sync_channel(WINDOW);
    for _ in 0..WINDOW {
        taken.try_send(())?;
    }
    if command.stdin {
        let connection = connection.clone();
        thread::spawn(move || send_stdin(&connection, &credits));
    }
    thread::spawn(move || {
        let outcome = receive(replies, || {
            // A full channel means more acknowledgements than chunks.
            let _ = taken.try_send(());
        });
        let _ = sender.send(Event::Finished(outcome));
    });

    let status = wait(&connection, deadline, events);
    let _ = lock(&connection).shutdown(Shutdown::Both);
    drop(raw);
    status
}

fn wait(
    connection: &Connection,
    mut deadline: Option<Instant>,
    events: &Receiver<Event>,
) -> Result<i32> {
    let mut timed_out = false;
    let mut interrupted = false;
    loop {
        let patience = deadline.map_or(Duration::from_secs(3600), |deadline| {
            deadline.saturating_duration_since(Instant::now())
        });
        match events.recv_timeout(patience) {
            Ok(Event::Finished(status)) => {
                return if timed_out { Ok(TIMED_OUT) } else { status };
            }
            Ok(Event::Signal(Signal::SIGWINCH)) => {
                let (rows, columns) = window_size();
                send(connection, &Call::Resize(rows, columns))?;
            }
            Ok(Event::Signal(signal)) => {
                // The second one is meant for us.
                if interrupted {
                    return Ok(128 + signal as i32);
                }
                interrupted = true;
                send(connection, &Call::Signal(signal as i32))?;
            }
            Err(RecvTimeoutError::Timeout) if deadline.is_none() => {}
            Err(RecvTimeoutError::Timeout) if timed_out => return Ok(TIMED_OUT),
            Err(RecvTimeoutError::Timeout) => {
                eprintln!("testhost: the command took too long and is ended");
                timed_out = true;
                deadline = Some(Instant::now() + GRACE);
                send(connection, &Call::Signal(Signal::SIGTERM as i32))?;
            }
            Err(RecvTimeoutError::Disconnected) => bail!("the event queue broke"),
        }
    }
}

/// Writes the command's output where ours goes, until it ends.
fn receive(mut replies: TcpStream, mut taken: impl FnMut()) -> Result<i32> {
    loop {
        match Reply::read(&mut replies).context(Gone)? {
            Some(Reply::Stdout(bytes)) => {
                let mut out = io::stdout().lock();
                out.write_all(&bytes)
                    .and_then(|()| out.flush())
                    .context("writing to stdout")?;
            }
            Some(Reply::Stderr(bytes)) => {
                io::stderr()
                    .write_all(&bytes)
                    .context("writing to stderr")?;
            }
            Some(Reply::Taken) => taken(),
            Some(Reply::Exit(status)) => return Ok(status),
            Some(Reply::Refused(reason)) => bail!(reason),
            None => return Err(Gone.into()),
        }
    }
}

/// Sends standard input as fast as it is taken; empty chunk at its end.
fn send_stdin(connection: &Connection, credits: &Receiver<()>) {
    let mut buffer = vec![0; CHUNK];
    while credits.recv().is_ok() {
        let length = io::stdin().read(&mut buffer).unwrap_or(0);
        let chunk = buffer[..length].to_vec();
        if send(connection, &Call::Stdin(chunk)).is_err() || length == 0 {
            return;
        }
    }
}

fn send(connection: &Connection, call: &Call) -> Result<()> {
    call.write(&mut *lock(connection)).context(Gone)
}

fn lock(connection: &Connection) -> std::sync::MutexGuard<'_, TcpStream> {
    connection.lock().unwrap_or_else(PoisonError::into_inner)
}

fn window_size() -> (u16, u16) {
    termios::tcgetwinsize(io::stdout()).map_or((24, 80), |size| (size.ws_row, size.ws_col))
}

/// Our terminal, passing every key on; as it was again when the value goes.
struct RawTerminal(Termios);

impl RawTerminal {
    fn enter() -> Result<Self> {
        if !io::stdin().is_terminal() {
            bail!("standard input is no terminal: use `testhost exec -i`");
        }
        let before = termios::tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        termios::tcsetattr(io::stdin(), OptionalActions::Now, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = termios::tcsetattr(io::stdin(), OptionalActions::Drain, &self.0);
    }
}
