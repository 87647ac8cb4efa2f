//! `testhost serve`: runs commands for `testhost exec`, inside the test host.
//!
//! A command is a process group (with a terminal: a session). Its two output
//! streams are pumped by a thread each; when the process has ended, what is
//! still in the pipes is sent and the rest is let go: a daemon that the command
//! left behind may keep them open for ever.

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use nix::sys::signal::Signal;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::instance::READY;
use crate::wire::{CHUNK, Call, Reply, Request};

/// What a command may take to end after its client has gone.
const GRACE: Duration = Duration::from_secs(2);

/// Commands under way.
static RUNNING: AtomicUsize = AtomicUsize::new(0);

/// Serves until the test host is switched off.
pub(crate) fn serve(token_file: &Path, port: u16, netns: &Path) -> Result<()> {
    let token: Arc<str> = fs::read_to_string(token_file)
        .with_context(|| format!("reading {}", token_file.display()))?
        .into();
    let listener = listen(port, netns)?;
    File::options()
        .write(true)
        .open("/dev/console")?
        .write_all(format!("{READY}\n").as_bytes())?;
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        let token = token.clone();
        thread::spawn(move || {
            if let Err(error) = handle(&stream, &token) {
                eprintln!("testhost serve: {error:#}");
            }
            let _ = stream.shutdown(Shutdown::Both);
        });
    }
    bail!("the listening socket broke")
}

/// A socket stays in the network name space it was made in: it is made in the
/// one with the way out, and everything after that happens in our own.
fn listen(port: u16, netns: &Path) -> Result<TcpListener> {
    let own = File::open("/proc/self/ns/net")?;
    let control =
        File::open(netns).with_context(|| format!("the control network {}", netns.display()))?;
    let enter = |file: &File| {
        move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network))
            .context("entering a network name space")
    };
    enter(&control)?;
    let listener = TcpListener::bind(("0.0.0.0", port)).context("listening");
    enter(&own)?;
    listener
}

fn handle(stream: &TcpStream, token: &str) -> Result<()> {
    stream.set_nodelay(true)?;
    let out = Out(Arc::new(Mutex::new(stream.try_clone()?)));
    let Some(Call::Start(request)) = Call::read(&mut &*stream)? else {
        bail!("a connection without a request");
    };
    if request.token != token {
        bail!("a connection without the token");
    }

    if RUNNING.fetch_add(1, Ordering::SeqCst) == 0 {
        drop_caches();
    }
    let outcome = run(stream, &request, &out);
    RUNNING.fetch_sub(1, Ordering::SeqCst);
    match outcome {
        Ok(status) => out.send(&Reply::Exit(status)),
        Err(error) => out.send(&Reply::Refused(format!("{error:#}"))),
    }
    Ok(())
}

/// Makes what was changed on the machine outside visible: its root is cached
/// without ever looking again.
fn drop_caches() {
    if let Err(error) = fs::write("/proc/sys/vm/drop_caches", "3") {
        eprintln!("testhost serve: drop_caches: {error}");
    }
}

/// The client's connection, written to by several threads. A client that has
/// gone is noticed by the thread that reads, so failures are left to it.
#[derive(Clone)]
struct Out(Arc<Mutex<TcpStream>>);

impl Out {
    fn send(&self, reply: &Reply) {
        let mut stream = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let _ = reply.write(&mut *stream);
    }
}

/// The command's process group for as long as its leader is not reaped: after
/// that the number may belong to somebody else.
#[derive(Clone)]
struct Group(Arc<Mutex<Option<Pid>>>);

impl Group {
    fn lock(&self) -> MutexGuard<'_, Option<Pid>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Signals the group; false once the leader is gone.
    fn signal(&self, number: i32) -> bool {
        let guard = self.lock();
        let (Some(pid), Ok(signal)) = (*guard, Signal::try_from(number)) else {
            return false;
        };
        let group = nix::unistd::Pid::from_raw(pid.as_raw_nonzero().get());
        let _ = nix::sys::signal::killpg(group, signal);
        true
    }

    /// Ends the group, with time to do it well.
    fn end(&self) {
        if self.signal(Signal::SIGTERM as i32) {
            thread::sleep(GRACE);
            self.signal(Signal::SIGKILL as i32);
        }
    }
}

/// Names the stream that some output belongs to.
type Wrap = fn(Vec<u8>) -> Reply;

/// A started command and our ends of its streams.
struct Started {
    child: Child,
    stdin: Option<Box<dyn Write + Send>>,
    outputs: Vec<(OwnedFd, Wrap)>,
    terminal: Option<OwnedFd>,
}

fn run(stream: &TcpStream, request: &Request, out: &Out) -> Result<i32> {
    let Started {
        mut child,
        stdin,
        outputs,
        terminal,
    } = start(request)?;
    let pid = Pid::from_child(&child);
    let group = Group(Arc::new(Mutex::new(Some(pid))));
    let ended = Arc::new(eventfd(0, EventfdFlags::CLOEXEC).context("eventfd")?);

    let mut pumps = Vec::new();
    for (source, wrap) in outputs {
        let (out, ended) = (out.clone(), ended.clone());
        pumps.push(thread::spawn(move || {
            pump(source, &ended, |bytes| out.send(&wrap(bytes)))
        }));
    }
    let (to_stdin, chunks) = channel();
    if let Some(stdin) = stdin {
        let out = out.clone();
        thread::spawn(move || feed(stdin, &chunks, &out));
    }
    let (calls, listener_group) = (stream.try_clone()?, group.clone());
    thread::spawn(move || listen_to_client(calls, &to_stdin, &listener_group, terminal.as_ref()));

    // Wait without reaping, so that the number stays ours until no thread uses it.
    while let Err(error) = waitid(
        WaitId::Pid(pid),
        WaitIdOptions::EXITED | WaitIdOptions::NOWAIT,
    ) {
        if error != rustix::io::Errno::INTR {
            return Err(error).context("waiting for the command");
        }
    }
    let status = {
        let mut guard = group.lock();
        *guard = None;
        child.wait().context("reaping the command")?
    };
    rustix::io::write(&*ended, &1_u64.to_ne_bytes()).context("waking the pumps")?;
    for pump in pumps {
        let _ = pump.join();
    }
    Ok(exit_code(status))
}

fn start(request: &Request) -> Result<Started> {
    let [program, arguments @ ..] = request.argv.as_slice() else {
        bail!("an empty command")
    };
    let failed = || format!("cannot run {program}");
    let mut command;
    let mut terminal = None;
    if let Some((rows, columns)) = request.terminal {
        // setsid(1) makes its standard input the controlling terminal.
        command = Command::new("setsid");
        command.arg("--ctty").args(&request.argv);
        let (controller, user) = open_terminal(rows, columns).context("opening a terminal")?;
        command
            .stdin(user.try_clone()?)
            .stdout(user.try_clone()?)
            .stderr(user);
        terminal = Some(controller);
    } else {
        command = Command::new(program);
        command.args(arguments).process_group(0);
        command.stdin(if request.stdin {
            Stdio::piped()
        } else {
            Stdio::null()
        });
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
    }
    command
        .envs(request.env.iter().map(|(name, value)| (name, value)))
        .current_dir(&request.cwd);
    let mut child = command.spawn().with_context(failed)?;
    // Our copies of the terminal's far end go with `command`.
    drop(command);

    if let Some(controller) = terminal {
        return Ok(Started {
            child,
            stdin: Some(Box::new(File::from(controller.try_clone()?))),
            outputs: vec![(controller.try_clone()?, Reply::Stdout)],
            terminal: Some(controller),
        });
    }
    let stdout = child.stdout.take().context("no stdout")?;
    let stderr = child.stderr.take().context("no stderr")?;
    let stdin = child
        .stdin
        .take()
        .map(|stdin| Box::new(stdin) as Box<dyn Write + Send>);
    Ok(Started {
        child,
        stdin,
        outputs: vec![
            (stdout.into(), Reply::Stdout),
            (stderr.into(), Reply::Stderr),
        ],
        terminal: None,
    })
}

fn open_terminal(rows: u16, columns: u16) -> Result<(OwnedFd, OwnedFd)> {
    let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&controller)?;
    unlockpt(&controller)?;
    set_size(&controller, rows, columns);
    let name = ptsname(&controller, Vec::new())?;
    use rustix::fs::{Mode, OFlags, open};
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let user = open(&*name, flags, Mode::empty())?;
    Ok((controller, user))
}

fn set_size(terminal: &OwnedFd, rows: u16, columns: u16) {
    let size = Winsize {
        ws_row: rows,
        ws_col: columns,
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    let _ = tcsetwinsize(terminal, size);
}

/// Follows what the client says until it goes; then ends the command.
fn listen_to_client(
    mut calls: TcpStream,
    stdin: &Sender<Vec<u8>>,
    group: &Group,
    terminal: Option<&OwnedFd>,
) {
    loop {
        match Call::read(&mut calls) {
            Ok(Some(Call::Stdin(chunk))) => {
                let _ = stdin.send(chunk);
            }
            Ok(Some(Call::Signal(number))) => {
                group.signal(number);
            }
            Ok(Some(Call::Resize(rows, columns))) => {
                if let Some(terminal) = terminal {
                    set_size(terminal, rows, columns);
                }
            }
            Ok(Some(Call::Start(_)) | None) | Err(_) => return group.end(),
        }
    }
}

/// Writes standard input; an empty chunk closes it.
fn feed(mut stdin: Box<dyn Write + Send>, chunks: &Receiver<Vec<u8>>, out: &Out) {
    for chunk in chunks {
        if chunk.is_empty() || stdin.write_all(&chunk).is_err() {
            return;
        }
        out.send(&Reply::Taken);
    }
}

/// Sends what `source` gives until its end, or until `ended` and nothing is left.
fn pump(source: OwnedFd, ended: &OwnedFd, mut send: impl FnMut(Vec<u8>)) {
    let mut file = File::from(source);
    let mut buffer = vec![0; CHUNK];
    loop {
        let (readable, over) = {
            let mut both = [
                PollFd::new(&file, PollFlags::IN),
                PollFd::new(ended, PollFlags::IN),
            ];
            match poll(&mut both, None) {
                Ok(_) => {}
                Err(rustix::io::Errno::INTR) => continue,
                Err(_) => return,
            }
            (!both[0].revents().is_empty(), !both[1].revents().is_empty())
        };
        if !readable {
            if over {
                return;
            }
            continue;
        }
        match file.read(&mut buffer) {
            Ok(0) => return,
            Ok(length) => send(buffer[..length].to_vec()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            // A terminal whose last user has gone says EIO.
            Err(_) => return,
        }
    }
}

/// As a shell tells it.
fn exit_code(status: ExitStatus) -> i32 {
    status
        .code()
        .or_else(|| status.signal().map(|signal| 128 + signal))
        .unwrap_or(255)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::SocketAddr;

    /// A server for one connection, without the parts that need a test host.
    fn server() -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::spawn(move || {
            let (stream, _) = listener.accept().unwrap();
            let out = Out(Arc::new(Mutex::new(stream.try_clone().unwrap())));
            let Some(Call::Start(request)) = Call::read(&mut &stream).unwrap() else {
                panic!("no request");
            };
            match run(&stream, &request, &out) {
                Ok(status) => out.send(&Reply::Exit(status)),
                Err(error) => out.send(&Reply::Refused(format!("{error:#}"))),
            }
            let _ = stream.shutdown(Shutdown::Both);
        });
        address
    }

    fn request(argv: &[&str]) -> Request {
        Request {
            token: String::new(),
            argv: argv.iter().map(ToString::to_string).collect(),
            env: vec![("GREETING".into(), "hello".into())],
            cwd: "/".into(),
            stdin: false,
            terminal: None,
        }
    }

    fn begin(request: Request) -> TcpStream {
        let mut stream = TcpStream::connect(server()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        Call::Start(request).write(&mut stream).unwrap();
        stream
    }

    /// Standard output, standard error, and how it ended.
    fn finish(mut stream: TcpStream) -> (String, String, Reply) {
        let (mut out, mut err) = (Vec::new(), Vec::new());
        loop {
            match Reply::read(&mut stream).unwrap().unwrap() {
                Reply::Stdout(bytes) => out.extend(bytes),
                Reply::Stderr(bytes) => err.extend(bytes),
                Reply::Taken => {}
                last => {
                    let text = |bytes| String::from_utf8(bytes).unwrap();
                    return (text(out), text(err), last);
                }
            }
        }
    }

    #[test]
    fn streams_and_status_come_back() {
        let script = "echo $GREETING; pwd; echo oops >&2; exit 7";
        let (out, err, last) = finish(begin(request(&["sh", "-c", script])));
        assert_eq!(out, "hello\n/\n");
        assert_eq!(err, "oops\n");
        assert_eq!(last, Reply::Exit(7));
    }

    #[test]
    fn standard_input_is_byte_exact() {
        let mut stream = begin(Request {
            stdin: true,
            ..request(&["sh", "-c", "cat; echo end"])
        });
        for chunk in [&b"one\n"[..], b"\0two", b""] {
            Call::Stdin(chunk.to_vec()).write(&mut stream).unwrap();
        }
        assert_eq!(
            finish(stream),
            ("one\n\0twoend\n".into(), String::new(), Reply::Exit(0))
        );
    }

    /// The number in the first line that a command prints.
    fn printed_pid(stream: &mut TcpStream) -> i32 {
        let Some(Reply::Stdout(line)) = Reply::read(stream).unwrap() else {
            panic!("no line")
        };
        String::from_utf8(line).unwrap().trim().parse().unwrap()
    }

    fn ends(pid: i32) -> bool {
        (0..200).any(|_| {
            thread::sleep(Duration::from_millis(20));
            crate::instance::Process::of(pid).is_none()
        })
    }

    #[test]
    fn a_signal_reaches_the_whole_group() {
        let script = "sh -c 'echo $$; exec sleep 60'; echo not reached";
        let mut stream = begin(request(&["sh", "-c", script]));
        let grandchild = printed_pid(&mut stream);
        Call::Signal(Signal::SIGTERM as i32)
            .write(&mut stream)
            .unwrap();
        let (out, _, last) = finish(stream);
        assert_eq!((out.as_str(), last), ("", Reply::Exit(143)));
        assert!(ends(grandchild));
    }

    #[test]
    fn a_daemon_that_keeps_the_pipe_does_not_hold_us() {
        let (out, _, last) = finish(begin(request(&["sh", "-c", "sleep 20 & echo $!"])));
        assert_eq!(last, Reply::Exit(0));
        let pid: i32 = out.trim().parse().unwrap();
        let pid = nix::unistd::Pid::from_raw(pid);
        nix::sys::signal::kill(pid, Signal::SIGKILL).expect("the daemon lives on");
    }

    #[test]
    fn a_command_with_a_terminal_has_its_size() {
        let request = Request {
            terminal: Some((7, 42)),
            ..request(&["sh", "-c", "tty -s && stty size"])
        };
        let (out, _, last) = finish(begin(request));
        assert_eq!((out.as_str(), last), ("7 42\r\n", Reply::Exit(0)));
    }

    #[test]
    fn what_cannot_run_is_refused_by_name() {
        let (_, _, last) = finish(begin(request(&["/nonesuch/program"])));
        let Reply::Refused(reason) = last else {
            panic!("{last:?}")
        };
        assert!(reason.contains("/nonesuch/program"), "{reason}");
    }

    #[test]
    fn a_client_that_goes_takes_its_command_along() {
        let mut stream = begin(request(&["sh", "-c", "echo $$; exec sleep 60"]));
        let pid = printed_pid(&mut stream);
        drop(stream);
        assert!(ends(pid));
    }
}
