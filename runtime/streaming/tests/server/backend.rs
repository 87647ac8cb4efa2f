//! Processes and ports that tests look into.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{io::DuplexStream, sync::mpsc};

use bulkhead_streaming::{
    Command, Connection, Failure, Output, Ports, Process, Terminal, WindowSize,
};

/// What a process does.
#[derive(Clone, Copy, Debug)]
#[allow(dead_code, reason = "the leak test needs fewer")]
pub(super) enum Program {
    /// Writes so many bytes to each output, then ends with a status.
    Write(usize, i32),
    /// Writes what it reads, to the end of it.
    Cat,
    /// Neither reads nor writes nor ends.
    Sleep,
    /// Writes for ever.
    Yes,
    /// Can't be run.
    Missing,
    /// Ends with status 3 without reading its stdin.
    Deaf,
}

/// A command, and what is known of its processes.
pub(super) struct Shell {
    program: Program,
    /// Processes that live.
    pub(super) living: Arc<AtomicUsize>,
    pub(super) sizes: Arc<Mutex<Vec<WindowSize>>>,
}

impl Shell {
    pub(super) fn new(program: Program) -> Arc<Self> {
        Arc::new(Self {
            program,
            living: Arc::default(),
            sizes: Arc::default(),
        })
    }

    pub(super) fn living(&self) -> usize {
        self.living.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Command for Shell {
    async fn start(&self) -> Result<Box<dyn Process>, Failure> {
        if matches!(self.program, Program::Missing) {
            return Err(Failure("exec \"missing\": no such file".to_owned()));
        }
        self.living.fetch_add(1, Ordering::SeqCst);
        let (sender, stdin) = mpsc::channel(1);
        Ok(Box::new(Running {
            program: self.program,
            living: Arc::clone(&self.living),
            sizes: Arc::clone(&self.sizes),
            stdin,
            sender: Some(sender),
            written: [0; 2],
        }))
    }
}

struct Running {
    program: Program,
    living: Arc<AtomicUsize>,
    sizes: Arc<Mutex<Vec<WindowSize>>>,
    stdin: mpsc::Receiver<Vec<u8>>,
    sender: Option<mpsc::Sender<Vec<u8>>>,
    /// Bytes to each output.
    written: [usize; 2],
}

impl Drop for Running {
    fn drop(&mut self) {
        self.living.fetch_sub(1, Ordering::SeqCst);
    }
}

const PIECE: usize = 100_000;

#[async_trait]
impl Process for Running {
    async fn next(&mut self) -> Output {
        match self.program {
            Program::Write(len, code) => {
                let turn = usize::from(self.written[0] > self.written[1]);
                let bytes = PIECE.min(len - self.written[turn]);
                self.written[turn] += bytes;
                let bytes = Bytes::from(vec![b'x'; bytes]);
                match turn {
                    _ if bytes.is_empty() => Output::End(Ok(code)),
                    0 => Output::Stdout(bytes),
                    _ => Output::Stderr(bytes),
                }
            }
            Program::Cat => match self.stdin.recv().await {
                Some(bytes) => Output::Stdout(bytes.into()),
                None => Output::End(Ok(0)),
            },
            Program::Deaf => {
                self.stdin.close();
                tokio::time::sleep(Duration::from_millis(300)).await;
                Output::End(Ok(3))
            }
            Program::Yes => Output::Stdout(Bytes::from(vec![b'y'; PIECE])),
            Program::Sleep | Program::Missing => std::future::pending().await,
        }
    }

    fn stdin(&mut self) -> Option<mpsc::Sender<Vec<u8>>> {
        self.sender.take()
    }

    fn terminal(&self) -> Arc<dyn Terminal> {
        Arc::new(Sizes(Arc::clone(&self.sizes)))
    }
}

struct Sizes(Arc<Mutex<Vec<WindowSize>>>);

#[async_trait]
impl Terminal for Sizes {
    async fn resize(&self, size: WindowSize) {
        self.0.lock().unwrap().push(size);
    }
}

/// Port 7 echoes, 9 takes what comes and says nothing, 13 breaks when it is sent
/// something; nothing listens on the others.
#[derive(Default)]
pub(super) struct Pod {
    /// Connections that live.
    pub(super) living: Arc<AtomicUsize>,
}

impl Pod {
    pub(super) fn living(&self) -> usize {
        self.living.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Ports for Pod {
    async fn dial(&self, port: u16) -> Result<Box<dyn Connection>, Failure> {
        if ![7, 9, 13].contains(&port) {
            return Err(Failure(format!("connect to port {port}: refused")));
        }
        let (ours, theirs) = tokio::io::duplex(64 << 10);
        let living = Arc::clone(&self.living);
        living.fetch_add(1, Ordering::SeqCst);
        tokio::spawn(async move {
            answer(port, ours).await;
            living.fetch_sub(1, Ordering::SeqCst);
        });
        Ok(Box::new(theirs))
    }
}

async fn answer(port: u16, socket: DuplexStream) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let (mut from, mut to) = tokio::io::split(socket);
    match port {
        7 => {
            let _ = tokio::io::copy(&mut from, &mut to).await;
            let _ = to.shutdown().await;
        }
        9 => {
            let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
        }
        _ => {
            let _ = from.read_u8().await;
        }
    }
}
