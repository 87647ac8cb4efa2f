//! The server: from an RPC's request for a session to the session's end.
//!
//! ```text
//!   RPC ──► token ──► URL ─ ─ ─ ► client connects ──► upgrade ──► session
//!                                                                 one task
//! ```
//!
//! A session is one task, and all that it starts lives in its scope. It ends with
//! the client's connection, the process, or the server, whichever is first.

use std::{
    io,
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    backend::{Command, Ports, Standard},
    http,
    negotiate::Kind,
    remote::Remote,
    tls,
    tokens::Tokens,
};

/// Most connections at once. Each is a session, or about to be one.
pub const CONNECTIONS_MAX: usize = 2048;
/// How long the sessions may take to be gone at the end.
const ENDING: Duration = Duration::from_secs(1);

/// How the server is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Where it listens; port 0 is any free one.
    pub address: SocketAddr,
    /// PEM files of certificate chain and key, for TLS.
    pub tls: Option<(PathBuf, PathBuf)>,
    /// How long a session may be silent both ways.
    pub idle: Duration,
}

impl Default for Settings {
    /// Loopback, a free port, no TLS, 4 hours: what the kubelet expects.
    fn default() -> Self {
        Self {
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            tls: None,
            idle: Duration::from_secs(4 * 60 * 60),
        }
    }
}

/// Why a session can't be had.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Too many wait for their clients.
    #[error(
        "{} sessions wait for their clients already; retry when they have connected",
        crate::tokens::OUTSTANDING_MAX
    )]
    Full,
    /// No ports, or too many.
    #[error(
        "a port-forward over channels names 1 to {} ports",
        crate::forward::websocket::PORTS_MAX
    )]
    Ports,
    /// No token could be made.
    #[error("no random bytes for a token: {0}")]
    Random(#[source] io::Error),
}

/// What a token stands for.
pub(crate) enum Session {
    Exec(Remote),
    Attach(Remote),
    Forward(Forward),
}

impl Session {
    /// The first part of its path, which a client can't choose.
    pub(crate) fn path(&self) -> &'static str {
        match self {
            Self::Exec(_) => "exec",
            Self::Attach(_) => "attach",
            Self::Forward(_) => "portforward",
        }
    }

    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Exec(_) | Self::Attach(_) => Kind::Remote,
            Self::Forward(_) => Kind::Forward,
        }
    }
}

/// Ports of a pod, and which of them are forwarded over channels.
#[derive(Clone)]
pub(crate) struct Forward {
    pub(crate) ports: Arc<dyn Ports>,
    pub(crate) numbers: Vec<u16>,
}

/// Makes URLs. Clones share everything.
#[derive(Clone)]
pub struct Server {
    shared: Arc<Shared>,
}

pub(crate) struct Shared {
    base: String,
    pub(crate) idle: Duration,
    tokens: Mutex<Tokens<Session>>,
    connections: Arc<Semaphore>,
}

impl Shared {
    fn tokens(&self) -> MutexGuard<'_, Tokens<Session>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The session of a token.
    pub(crate) fn take(&self, token: &str) -> Option<Session> {
        self.tokens().take(token, Instant::now())
    }
}

impl Server {
    /// A URL for running a command.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Random`].
    pub fn exec(&self, streams: Standard, command: Arc<dyn Command>) -> Result<String, Error> {
        self.url(Session::Exec(Remote { streams, command }))
    }

    /// A URL for attaching to a process.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Random`].
    pub fn attach(&self, streams: Standard, command: Arc<dyn Command>) -> Result<String, Error> {
        self.url(Session::Attach(Remote { streams, command }))
    }

    /// A URL for forwarding to ports. `numbers` are those that a client without
    /// SPDY gets.
    ///
    /// # Errors
    /// [`Error::Full`], [`Error::Random`], [`Error::Ports`] for too many numbers.
    pub fn port_forward(&self, ports: Arc<dyn Ports>, numbers: Vec<u16>) -> Result<String, Error> {
        if numbers.len() > crate::forward::websocket::PORTS_MAX {
            return Err(Error::Ports);
        }
        self.url(Session::Forward(Forward { ports, numbers }))
    }

    /// Connections that are there.
    #[must_use]
    pub fn connections(&self) -> usize {
        CONNECTIONS_MAX - self.shared.connections.available_permits()
    }

    fn url(&self, session: Session) -> Result<String, Error> {
        let path = session.path();
        let token = self.shared.tokens().put(session, Instant::now());
        let token = token.map_err(Error::Random)?.ok_or(Error::Full)?;
        Ok(format!("{}/{path}/{token}", self.shared.base))
    }
}

/// A server that listens and does not answer yet.
pub struct Listening {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
}

/// Listens.
///
/// # Errors
/// The address can't be had, or the certificate can't be used.
pub async fn listen(settings: &Settings) -> io::Result<(Server, Listening)> {
    let tls = match &settings.tls {
        Some((certificate, key)) => Some(tls::acceptor(certificate, key)?),
        None => None,
    };
    let listener = TcpListener::bind(settings.address).await.map_err(|error| {
        io::Error::new(
            error.kind(),
            format!("listen on {}: {error}", settings.address),
        )
    })?;
    let scheme = if tls.is_some() { "https" } else { "http" };
    let shared = Arc::new(Shared {
        base: format!("{scheme}://{}", listener.local_addr()?),
        idle: settings.idle,
        tokens: Mutex::default(),
        connections: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
    });
    let server = Server {
        shared: Arc::clone(&shared),
    };
    let listening = Listening {
        listener,
        tls,
        shared,
    };
    Ok((server, listening))
}

impl Listening {
    /// Serves until `end`; the sessions end then too.
    pub async fn serve(self, end: impl Future<Output = ()>) {
        let mut connections = JoinSet::new();
        tokio::pin!(end);
        loop {
            tokio::select! {
                () = &mut end => break,
                accepted = self.accept() => {
                    let (socket, permit) = accepted;
                    let (tls, shared) = (self.tls.clone(), Arc::clone(&self.shared));
                    connections.spawn(async move {
                        let _permit = permit;
                        http::serve(socket, tls, shared).await;
                    });
                }
                Some(_) = connections.join_next() => {}
            }
        }
        drop(self.listener);
        connections.abort_all();
        let gone = async { while connections.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(ENDING, gone).await;
    }

    /// The next connection, and its place among those that may be.
    async fn accept(&self) -> (TcpStream, OwnedSemaphorePermit) {
        loop {
            // Waits for room; only this task takes it.
            drop(self.shared.connections.acquire().await);
            match self.listener.accept().await {
                Ok((socket, _)) => {
                    // Keystrokes must not wait for each other.
                    let _ = socket.set_nodelay(true);
                    if let Ok(permit) = Arc::clone(&self.shared.connections).try_acquire_owned() {
                        return (socket, permit);
                    }
                }
                Err(error) => {
                    // Too many open files, for example: it passes.
                    tracing::warn!(%error, "a streaming connection could not be accepted");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
    }
}
