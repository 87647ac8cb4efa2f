//! Connecting this program's streams to a process in a container.
//!
//! ```text
//! stdin ─► chunks ──┐                          ┌─► stdout
//! SIGWINCH ─► size ─┼─► request stream … answers ─► stderr
//! SIGINT … ─► signal┘                          └─► exit status
//! ```
//!
//! Exec and attach differ in their first message only; [`Peer`] hides it.

use std::io;
use std::time::Duration;

use bulkhead_cri_api::operator::process_output::Output;
use bulkhead_cri_api::operator::{
    AttachInput, AttachStart, CloseStdin, ExecInput, ExecStart, ProcessExit, ProcessOutput,
    WindowSize, attach_input, exec_input,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use super::client::{Daemon, in_words};
use super::terminal::window;

/// Bytes of standard input in a message.
const CHUNK: usize = 32 << 10;
/// Messages on their way to the daemon; when it doesn't take them, stdin waits.
const IN_FLIGHT: usize = 8;
/// A second Ctrl-C within this time means it.
const INSIST_WITHIN: Duration = Duration::from_secs(2);

/// Something for the process.
#[derive(Debug)]
enum Input {
    Stdin(Vec<u8>),
    CloseStdin,
    Resize(WindowSize),
    Signal(u32),
}

/// The two calls that connect to a process.
pub(super) enum Peer {
    Exec(mpsc::Sender<ExecInput>),
    Attach(mpsc::Sender<AttachInput>),
}

impl Peer {
    /// Passes something on; whether the daemon still listens.
    async fn send(&self, input: Input) -> bool {
        match self {
            Self::Exec(sender) => {
                let input = match input {
                    Input::Stdin(bytes) => exec_input::Input::Stdin(bytes.into()),
                    Input::CloseStdin => exec_input::Input::CloseStdin(CloseStdin {}),
                    Input::Resize(size) => exec_input::Input::Resize(size),
                    Input::Signal(number) => exec_input::Input::Signal(number),
                };
                sender.send(ExecInput { input: Some(input) }).await.is_ok()
            }
            Self::Attach(sender) => {
                let input = match input {
                    Input::Stdin(bytes) => attach_input::Input::Stdin(bytes.into()),
                    Input::CloseStdin => attach_input::Input::CloseStdin(CloseStdin {}),
                    Input::Resize(size) => attach_input::Input::Resize(size),
                    Input::Signal(number) => attach_input::Input::Signal(number),
                };
                sender
                    .send(AttachInput { input: Some(input) })
                    .await
                    .is_ok()
            }
        }
    }
}

/// A process that is connected, and whose output hasn't been read yet.
pub(super) struct Connection {
    peer: Peer,
    output: Streaming<ProcessOutput>,
}

/// How a conversation with a process ended.
#[derive(Debug)]
pub(super) enum Ending {
    /// The process has ended.
    Exited(ProcessExit),
    /// The user insisted, or the terminal has gone: the process may still run.
    Abandoned {
        /// The signal that said so.
        signal: u8,
    },
}

/// What to do with the user's end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Streams {
    /// Pass standard input on.
    pub(super) stdin: bool,
    /// The process has a terminal: keys and sizes go to it, signals don't.
    pub(super) terminal: bool,
}

impl Connection {
    /// Starts a command in a container.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub(super) async fn exec(daemon: &mut Daemon, start: ExecStart) -> anyhow::Result<Self> {
        let (sender, receiver) = mpsc::channel(IN_FLIGHT);
        let first = ExecInput {
            input: Some(exec_input::Input::Start(start)),
        };
        sender.send(first).await?;
        let answer = daemon.operator.exec(ReceiverStream::new(receiver)).await;
        let output = answer.map_err(|status| in_words(&status))?.into_inner();
        Self {
            peer: Peer::Exec(sender),
            output,
        }
        .connected()
        .await
    }

    /// Connects to a container's own process; nothing that it writes from the return
    /// on is missed.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub(super) async fn attach(daemon: &mut Daemon, start: AttachStart) -> anyhow::Result<Self> {
        let (sender, receiver) = mpsc::channel(IN_FLIGHT);
        let first = AttachInput {
            input: Some(attach_input::Input::Start(start)),
        };
        sender.send(first).await?;
        let answer = daemon.operator.attach(ReceiverStream::new(receiver)).await;
        let output = answer.map_err(|status| in_words(&status))?.into_inner();
        Self {
            peer: Peer::Attach(sender),
            output,
        }
        .connected()
        .await
    }

    async fn connected(mut self) -> anyhow::Result<Self> {
        match next(&mut self.output).await? {
            Some(Output::Connected(_)) => Ok(self),
            other => anyhow::bail!("the daemon began with {other:?}; see `bulkhead version`"),
        }
    }

    /// Lets the user and the process talk until one of them ends.
    ///
    /// `first_output` is called when the process first says something.
    ///
    /// # Errors
    /// The daemon went away, or our own output can't be written.
    pub(super) async fn talk(
        self,
        streams: Streams,
        first_output: impl FnOnce(),
    ) -> anyhow::Result<Ending> {
        let Self { peer, mut output } = self;
        let mut first_output = Some(first_output);
        // Dropping it at the end closes the request stream.
        let speaking = speak(&peer, streams);
        tokio::pin!(speaking);
        let mut may_speak = true;
        let (mut stdout, mut stderr) = (tokio::io::stdout(), tokio::io::stderr());
        loop {
            let output = tokio::select! {
                output = next(&mut output) => output?,
                spoken = &mut speaking, if may_speak => match spoken? {
                    Spoken::Abandon(signal) => return Ok(Ending::Abandoned { signal }),
                    Spoken::Done => {
                        may_speak = false;
                        continue;
                    }
                },
            };
            let bytes = match output {
                Some(Output::Stdout(bytes)) => {
                    stdout.write_all(&bytes).await?;
                    stdout.flush().await?;
                    bytes
                }
                Some(Output::Stderr(bytes)) => {
                    stderr.write_all(&bytes).await?;
                    stderr.flush().await?;
                    bytes
                }
                Some(Output::Exit(exit)) => return Ok(Ending::Exited(exit)),
                Some(Output::Connected(_)) => continue,
                None => anyhow::bail!("the daemon hung up before the command ended"),
            };
            if !bytes.is_empty()
                && let Some(first_output) = first_output.take()
            {
                first_output();
            }
        }
    }
}

/// The next message that means something.
async fn next(output: &mut Streaming<ProcessOutput>) -> anyhow::Result<Option<Output>> {
    loop {
        match output.message().await {
            Ok(Some(ProcessOutput {
                output: Some(output),
            })) => return Ok(Some(output)),
            // Something of a newer daemon.
            Ok(Some(ProcessOutput { output: None })) => {}
            Ok(None) => return Ok(None),
            Err(status) => return Err(in_words(&status)),
        }
    }
}

/// Why nothing more will be said to the process.
enum Spoken {
    /// There is nothing more to say.
    Done,
    /// The user wants to go.
    Abandon(u8),
}

/// Passes on what the user has to say.
async fn speak(peer: &Peer, streams: Streams) -> anyhow::Result<Spoken> {
    let mut stdin = tokio::io::stdin();
    let mut buffer = vec![0; CHUNK];
    let mut reading = streams.stdin;
    let mut resized = signal(SignalKind::window_change())?;
    let mut signals = Signals::new()?;
    let mut insisted = Insistence::default();
    if streams.terminal
        && let Some(size) = window()
        && !peer.send(Input::Resize(size)).await
    {
        return Ok(Spoken::Done);
    }
    loop {
        let input = tokio::select! {
            read = stdin.read(&mut buffer), if reading => match read? {
                0 => {
                    reading = false;
                    Input::CloseStdin
                }
                length => Input::Stdin(buffer.get(..length).unwrap_or_default().to_vec()),
            },
            _ = resized.recv(), if streams.terminal => match window() {
                Some(size) => Input::Resize(size),
                None => continue,
            },
            number = signals.next() => {
                // A terminal that hangs up takes its user away.
                if number == SIGHUP || insisted.on(number, Instant::now()) {
                    return Ok(Spoken::Abandon(number));
                }
                Input::Signal(number.into())
            }
        };
        if !peer.send(input).await {
            return Ok(Spoken::Done);
        }
    }
}

/// Numbers of signal(7) on x86-64.
const SIGHUP: u8 = 1;
const SIGINT: u8 = 2;
const SIGQUIT: u8 = 3;
const SIGTERM: u8 = 15;

/// The signals that are passed on.
pub(super) struct Signals {
    hangup: Signal,
    interrupt: Signal,
    quit: Signal,
    terminate: Signal,
}

impl Signals {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    /// The number of the next one.
    pub(super) async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.hangup.recv() => SIGHUP,
            _ = self.interrupt.recv() => SIGINT,
            _ = self.quit.recv() => SIGQUIT,
            _ = self.terminate.recv() => SIGTERM,
        }
    }
}

/// Notices when the user asks a second time.
#[derive(Debug, Default)]
struct Insistence {
    last: Option<(u8, Instant)>,
}

impl Insistence {
    /// Whether this is the second of its kind within [`INSIST_WITHIN`].
    fn on(&mut self, signal: u8, now: Instant) -> bool {
        let before = self.last.replace((signal, now));
        before.is_some_and(|(last, at)| last == signal && now.duration_since(at) <= INSIST_WITHIN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_twice_within_two_seconds_is_insisting() {
        let start = Instant::now();
        let mut insistence = Insistence::default();
        assert!(!insistence.on(SIGINT, start));
        assert!(!insistence.on(SIGTERM, start), "another signal");
        assert!(!insistence.on(SIGINT, start));
        assert!(
            !insistence.on(SIGINT, start + Duration::from_secs(3)),
            "too late"
        );
        assert!(insistence.on(SIGINT, start + Duration::from_secs(4)));
    }
}
