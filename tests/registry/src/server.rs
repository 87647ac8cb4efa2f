//! A server that answers as a test says: HTTP/1.1, as far as clients of registries use
//! it, with connections that end in the middle, or stand still.

use std::{
    collections::HashMap,
    fmt::Write as _,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    task::JoinHandle,
};
use tokio_rustls::TlsAcceptor;

/// What a client asked.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Path and query.
    pub target: String,
    /// `GET`, mostly.
    pub method: String,
    /// By lower-case names.
    pub headers: HashMap<String, String>,
    /// Of a form, mostly.
    pub body: String,
}

impl Asked {
    /// Without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.split('?').next().unwrap_or_default()
    }

    /// Empty if there is none.
    #[must_use]
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", String::as_str)
    }
}

/// What it is answered.
#[derive(Debug, Clone, Default)]
pub struct Answer {
    /// Such as 200.
    pub status: u16,
    /// Beside the length.
    pub headers: Vec<(String, String)>,
    /// What is announced.
    pub body: Vec<u8>,
    /// Only so much of the body is sent, and the connection closed.
    pub cut: Option<usize>,
    /// Only so much of the body is sent, and the connection stays as it is.
    pub stall: Option<usize>,
    /// The body is sent a byte at a time, with such a pause after each.
    pub drip: Option<Duration>,
    /// Nothing is sent for ever, no status either.
    pub silent: bool,
}

impl Answer {
    /// A status and a body.
    #[must_use]
    pub fn new(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self {
            status,
            body: body.into(),
            ..Self::default()
        }
    }

    /// The part of a body that `Range` asks for; all of it where none is asked for.
    #[must_use]
    pub fn part_of(body: &[u8], asked: &Asked) -> Self {
        let range = asked.header("range");
        let begin = range
            .strip_prefix("bytes=")
            .and_then(|it| it.strip_suffix('-'))
            .and_then(|it| it.parse::<usize>().ok());
        match begin.and_then(|begin| Some((begin, body.get(begin..)?))) {
            None => Self::new(200, body),
            Some((begin, part)) => {
                let range = format!("bytes {begin}-{}/{}", body.len() - 1, body.len());
                Self::new(206, part).header("Content-Range", range)
            }
        }
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Closed after so many bytes of the body.
    #[must_use]
    pub fn cut(mut self, at: usize) -> Self {
        self.cut = Some(at);
        self
    }

    /// Left standing after so many bytes of the body.
    #[must_use]
    pub fn stall(mut self, at: usize) -> Self {
        self.stall = Some(at);
        self
    }

    /// Sent a byte at a time.
    #[must_use]
    pub fn drip(mut self, pause: Duration) -> Self {
        self.drip = Some(pause);
        self
    }

    fn head(&self) -> String {
        let mut head = format!("HTTP/1.1 {} x\r\n", self.status);
        for (name, value) in &self.headers {
            let _ = write!(head, "{name}: {value}\r\n");
        }
        let _ = write!(head, "content-length: {}\r\n\r\n", self.body.len());
        head
    }
}

type Handler = dyn Fn(&Asked) -> Answer + Send + Sync;

/// A server on a loopback port; ends when it is dropped.
pub struct Server {
    /// Where it listens.
    pub address: SocketAddr,
    log: Arc<Mutex<Vec<Asked>>>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// One in the open.
    pub async fn plain(handler: impl Fn(&Asked) -> Answer + Send + Sync + 'static) -> Self {
        Self::start(None, handler).await
    }

    /// One that speaks TLS.
    pub async fn tls(
        acceptor: TlsAcceptor,
        handler: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
    ) -> Self {
        Self::start(Some(acceptor), handler).await
    }

    async fn start(
        acceptor: Option<TlsAcceptor>,
        handler: impl Fn(&Asked) -> Answer + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let log: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (handler, kept): (Arc<Handler>, _) = (Arc::new(handler), Arc::clone(&log));
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (handler, log) = (Arc::clone(&handler), Arc::clone(&kept));
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    match acceptor {
                        None => serve(stream, &*handler, &log).await,
                        Some(acceptor) => {
                            if let Ok(stream) = acceptor.accept(stream).await {
                                serve(stream, &*handler, &log).await;
                            }
                        }
                    }
                });
            }
        });
        Self { address, log, task }
    }

    /// What was asked so far.
    #[must_use]
    pub fn log(&self) -> Vec<Asked> {
        self.log.lock().unwrap().clone()
    }

    /// The same as `METHOD target`.
    #[must_use]
    pub fn asked(&self) -> Vec<String> {
        let text = |asked: &Asked| format!("{} {}", asked.method, asked.target);
        self.log().iter().map(text).collect()
    }
}

async fn serve<S>(mut stream: S, handler: &Handler, log: &Mutex<Vec<Asked>>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    while let Some(asked) = request(&mut stream).await {
        let answer = handler(&asked);
        let only_head = asked.method == "HEAD";
        log.lock().unwrap().push(asked);
        if answer.silent {
            return std::future::pending().await;
        }
        let end = answer.cut.or(answer.stall).unwrap_or(answer.body.len());
        let body = answer.body.get(..end).unwrap_or(&answer.body);
        // RFC 9110, section 9.3.2.
        let body = if only_head { &[] } else { body };
        if let Some(pause) = answer.drip {
            if drip(&mut stream, answer.head().as_bytes(), body, pause)
                .await
                .is_err()
            {
                return;
            }
            continue;
        }
        let sent = [answer.head().as_bytes(), body].concat();
        if stream.write_all(&sent).await.is_err() || answer.cut.is_some() {
            let _ = stream.shutdown().await;
            return;
        }
        if answer.stall.is_some() {
            return std::future::pending().await;
        }
    }
}

async fn drip<S: AsyncWrite + Unpin>(
    stream: &mut S,
    head: &[u8],
    body: &[u8],
    pause: Duration,
) -> std::io::Result<()> {
    stream.write_all(head).await?;
    for byte in body {
        stream.write_all(&[*byte]).await?;
        stream.flush().await?;
        tokio::time::sleep(pause).await;
    }
    Ok(())
}

async fn request<S: AsyncRead + Unpin>(stream: &mut S) -> Option<Asked> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).unwrap();
    let mut lines = head.lines();
    let mut first = lines.next()?.split(' ');
    let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
    let headers: HashMap<String, String> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length = headers
        .get("content-length")
        .map_or(0, |it| it.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    Some(Asked {
        target,
        method,
        headers,
        body: String::from_utf8(body).unwrap(),
    })
}
