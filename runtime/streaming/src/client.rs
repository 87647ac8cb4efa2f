//! A client of the server, for tests and measurements. Each session comes in two
//! halves, so that one task can send while another receives.

use std::io;

use bytes::{Bytes, BytesMut};
use futures::{
    SinkExt as _, StreamExt as _,
    stream::{SplitSink, SplitStream},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf},
    net::TcpStream,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest as _},
};

use crate::{
    backend::{Connection as Socket, Standard},
    remote,
    spdy::{
        connection::{Connection, Event, Role},
        headers::Headers,
    },
    websocket::{
        channels::{self, Dialect, ERROR, Encoding, RESIZE, STDERR, STDIN, STDOUT},
        tunnel::Tunnel,
    },
};

/// What to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// SPDY/3.1 with this version of the streams.
    Spdy(&'static str),
    /// WebSocket with this subprotocol; "" for none.
    WebSocket(&'static str),
}

type BoxedSocket = Box<dyn Socket>;

/// The parts of `http://host:port/path`.
fn parts(url: &str) -> io::Result<(&str, &str)> {
    let rest = url.strip_prefix("http://");
    let parts = rest.and_then(|rest| rest.split_at_checked(rest.find('/')?));
    parts.ok_or_else(|| other(format!("{url:?} is no http URL")))
}

fn other(what: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::other(what)
}

/// Connects and upgrades to SPDY.
async fn upgrade_to_spdy(url: &str, version: &str) -> io::Result<BoxedSocket> {
    let (host, path) = parts(url)?;
    let mut socket = TcpStream::connect(host).await?;
    socket.set_nodelay(true)?;
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n\
         X-Stream-Protocol-Version: {version}\r\nContent-Length: 0\r\n\r\n"
    );
    socket.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(socket.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    if !head.starts_with("HTTP/1.1 101 ") {
        return Err(other(head));
    }
    Ok(Box::new(socket))
}

/// Connects and upgrades to a WebSocket.
async fn upgrade_to_websocket(
    url: &str,
    subprotocol: &str,
) -> io::Result<WebSocketStream<BoxedSocket>> {
    let (host, path) = parts(url)?;
    let socket: BoxedSocket = Box::new(TcpStream::connect(host).await?);
    let mut request = format!("ws://{host}{path}")
        .into_client_request()
        .map_err(other)?;
    if !subprotocol.is_empty() {
        let value = subprotocol.parse().map_err(other)?;
        request
            .headers_mut()
            .insert("Sec-WebSocket-Protocol", value);
    }
    let (socket, _) = client_async(request, socket).await.map_err(other)?;
    Ok(socket)
}

/// What one SPDY connection sends.
pub struct SpdySender {
    socket: WriteHalf<BoxedSocket>,
    connection: Connection,
}

/// What one SPDY connection receives.
pub struct SpdyReceiver {
    socket: ReadHalf<BoxedSocket>,
    connection: Connection,
    input: BytesMut,
}

/// Both halves over a socket. Streams that the sender opens must be known to the
/// receiver: see [`SpdyReceiver::expect`].
fn spdy(socket: BoxedSocket) -> (SpdySender, SpdyReceiver) {
    let (read, write) = tokio::io::split(socket);
    (
        SpdySender {
            socket: write,
            connection: Connection::new(Role::Client),
        },
        SpdyReceiver {
            socket: read,
            connection: Connection::new(Role::Client),
            input: BytesMut::new(),
        },
    )
}

impl SpdySender {
    /// Opens a stream.
    ///
    /// # Errors
    /// The connection's.
    pub async fn open(&mut self, headers: &[(&str, &str)]) -> io::Result<u32> {
        let headers: Headers = headers.iter().copied().collect();
        let id = self.connection.open(&headers).map_err(other)?;
        self.flush().await?;
        Ok(id)
    }

    /// Sends bytes.
    ///
    /// # Errors
    /// The connection's.
    pub async fn send(&mut self, id: u32, bytes: &[u8]) -> io::Result<()> {
        self.connection.send(id, bytes);
        self.flush().await
    }

    /// Ends what a stream sends.
    ///
    /// # Errors
    /// The connection's.
    pub async fn finish(&mut self, id: u32) -> io::Result<()> {
        self.connection.finish(id);
        self.flush().await
    }

    /// Gives a stream up.
    ///
    /// # Errors
    /// The connection's.
    pub async fn reset(&mut self, id: u32) -> io::Result<()> {
        self.connection.reset(id);
        self.flush().await
    }

    async fn flush(&mut self) -> io::Result<()> {
        let out = self.connection.out();
        self.socket.write_all(out).await?;
        out.clear();
        self.socket.flush().await
    }
}

impl SpdyReceiver {
    /// Takes note of a stream that the sender opens next.
    ///
    /// # Errors
    /// None in practice.
    pub fn expect(&mut self) -> io::Result<u32> {
        let id = self.connection.open(&Headers::default()).map_err(other)?;
        self.connection.out().clear();
        Ok(id)
    }

    /// What comes next; `None` at the connection's end.
    ///
    /// # Errors
    /// The connection's.
    pub async fn next(&mut self) -> io::Result<Option<Event>> {
        loop {
            if let Some(event) = self.connection.receive(&mut self.input).map_err(other)? {
                return Ok(Some(event));
            }
            self.connection.out().clear();
            self.input.reserve(64 << 10);
            if self.socket.read_buf(&mut self.input).await? == 0 {
                return Ok(None);
            }
        }
    }
}

/// Forwards ports over SPDY, or over SPDY in a WebSocket.
///
/// # Errors
/// The connection's, and a refusal.
pub async fn port_forward(url: &str, tunnel: bool) -> io::Result<(SpdySender, SpdyReceiver)> {
    let socket: BoxedSocket = if tunnel {
        let socket = upgrade_to_websocket(url, "SPDY/3.1+portforward.k8s.io").await?;
        Box::new(Tunnel::new(socket))
    } else {
        upgrade_to_spdy(url, "portforward.k8s.io").await?
    };
    Ok(spdy(socket))
}

/// Opens the two streams of a forwarded connection; returns error and data.
///
/// # Errors
/// The connection's.
pub async fn open_pair(
    sender: &mut SpdySender,
    receiver: &mut SpdyReceiver,
    port: u16,
    request: u32,
) -> io::Result<(u32, u32)> {
    let (port, request) = (port.to_string(), request.to_string());
    let mut ids = [0; 2];
    for (id, kind) in ids.iter_mut().zip(["error", "data"]) {
        receiver.expect()?;
        let headers = [
            ("streamType", kind),
            ("port", &port),
            ("requestID", &request),
        ];
        *id = sender.open(&headers).await?;
    }
    let [error, data] = ids;
    Ok((error, data))
}

/// What a process says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// On standard output.
    Stdout(Bytes),
    /// On standard error.
    Stderr(Bytes),
    /// On the error stream: how it ended.
    Status(Bytes),
    /// The end of a stream that ends alone: of standard output, for example.
    End,
}

/// What is sent to a process.
pub struct Input(InputWire);

enum InputWire {
    Spdy {
        sender: Box<SpdySender>,
        stdin: u32,
        resize: u32,
    },
    WebSocket {
        sink: SplitSink<WebSocketStream<BoxedSocket>, Message>,
        dialect: Dialect,
    },
}

/// What a process sends.
pub struct Output(OutputWire);

enum OutputWire {
    Spdy {
        receiver: Box<SpdyReceiver>,
        stdout: u32,
        stderr: u32,
        error: u32,
    },
    WebSocket {
        stream: SplitStream<WebSocketStream<BoxedSocket>>,
        dialect: Dialect,
    },
}

/// Connects to an exec or attach.
///
/// # Errors
/// The connection's, and a refusal.
pub async fn remote(
    url: &str,
    protocol: Protocol,
    streams: Standard,
) -> io::Result<(Input, Output)> {
    match protocol {
        Protocol::Spdy(version) => {
            let (mut sender, mut receiver) = spdy(upgrade_to_spdy(url, version).await?);
            let mut ids = [0; 5];
            let wanted = [
                ("error", true),
                ("stdin", streams.stdin),
                ("stdout", streams.stdout),
                ("stderr", streams.stderr),
                ("resize", streams.tty),
            ];
            for (id, (kind, wanted)) in ids.iter_mut().zip(wanted) {
                if wanted {
                    receiver.expect()?;
                    *id = sender.open(&[("streamType", kind)]).await?;
                }
            }
            let [error, stdin, stdout, stderr, resize] = ids;
            Ok((
                Input(InputWire::Spdy {
                    sender: Box::new(sender),
                    stdin,
                    resize,
                }),
                Output(OutputWire::Spdy {
                    receiver: Box::new(receiver),
                    stdout,
                    stderr,
                    error,
                }),
            ))
        }
        Protocol::WebSocket(name) => {
            let known = remote::websocket::VERSIONS.iter();
            let dialect = known.clone().find(|(it, ..)| *it == name);
            let (_, dialect, _) =
                dialect.ok_or_else(|| other(format!("subprotocol {name:?} is unknown")))?;
            let (sink, stream) = upgrade_to_websocket(url, name).await?.split();
            Ok((
                Input(InputWire::WebSocket {
                    sink,
                    dialect: *dialect,
                }),
                Output(OutputWire::WebSocket {
                    stream,
                    dialect: *dialect,
                }),
            ))
        }
    }
}

impl Input {
    /// Sends to the process's stdin.
    ///
    /// # Errors
    /// The connection's.
    pub async fn stdin(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.send(STDIN, bytes).await
    }

    /// Ends the process's stdin.
    ///
    /// # Errors
    /// The connection's.
    pub async fn end(&mut self) -> io::Result<()> {
        match &mut self.0 {
            InputWire::Spdy { sender, stdin, .. } => sender.finish(*stdin).await,
            InputWire::WebSocket { sink, dialect } => {
                let end = dialect.write_end(STDIN);
                let end = end.ok_or_else(|| other("this version has no end of stdin"))?;
                sink.send(Message::Binary(end.into())).await.map_err(other)
            }
        }
    }

    /// Changes the size of the process's terminal.
    ///
    /// # Errors
    /// The connection's.
    pub async fn resize(&mut self, columns: u16, rows: u16) -> io::Result<()> {
        let size = format!("{{\"Width\":{columns},\"Height\":{rows}}}");
        self.send(RESIZE, size.as_bytes()).await
    }

    async fn send(&mut self, channel: u8, bytes: &[u8]) -> io::Result<()> {
        match &mut self.0 {
            InputWire::Spdy {
                sender,
                stdin,
                resize,
            } => {
                let id = if channel == STDIN { *stdin } else { *resize };
                sender.send(id, bytes).await
            }
            InputWire::WebSocket { sink, dialect } => {
                let written = dialect.write(channel, bytes);
                let message = match dialect.encoding {
                    Encoding::Binary => Message::Binary(written.into()),
                    Encoding::Base64 => {
                        Message::Text(String::from_utf8(written).map_err(other)?.into())
                    }
                };
                sink.send(message).await.map_err(other)
            }
        }
    }
}

impl Output {
    /// What comes next; `None` at the connection's end.
    ///
    /// # Errors
    /// The connection's.
    pub async fn next(&mut self) -> io::Result<Option<Said>> {
        loop {
            let (channel, bytes) = match &mut self.0 {
                OutputWire::Spdy {
                    receiver,
                    stdout,
                    stderr,
                    error,
                } => match receiver.next().await? {
                    None => return Ok(None),
                    Some(Event::Data(id, bytes)) if id == *stdout => (STDOUT, bytes),
                    Some(Event::Data(id, bytes)) if id == *stderr => (STDERR, bytes),
                    Some(Event::Data(id, bytes)) if id == *error => (ERROR, bytes),
                    Some(Event::Ended(_)) => return Ok(Some(Said::End)),
                    Some(_) => continue,
                },
                OutputWire::WebSocket { stream, dialect } => {
                    let bytes: Bytes = match stream.next().await.transpose().map_err(other)? {
                        Some(Message::Binary(bytes)) => bytes,
                        Some(Message::Text(text)) => text.into(),
                        Some(Message::Close(_)) | None => return Ok(None),
                        Some(_) => continue,
                    };
                    match dialect.read(bytes).map_err(other)? {
                        channels::Message::Data(channel, bytes) => (channel, bytes),
                        channels::Message::End(_) => return Ok(Some(Said::End)),
                        channels::Message::Empty => continue,
                    }
                }
            };
            return Ok(Some(match channel {
                STDOUT => Said::Stdout(bytes),
                STDERR => Said::Stderr(bytes),
                _ => Said::Status(bytes),
            }));
        }
    }

    /// Everything to the end: standard output, standard error, status.
    ///
    /// # Errors
    /// The connection's; also when output follows the status.
    pub async fn rest(&mut self) -> io::Result<(Vec<u8>, Vec<u8>, String)> {
        let (mut stdout, mut stderr, mut status) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(said) = self.next().await? {
            match said {
                Said::Status(bytes) => status.extend_from_slice(&bytes),
                Said::End => {}
                _ if !status.is_empty() => return Err(other("output after the status")),
                Said::Stdout(bytes) => stdout.extend_from_slice(&bytes),
                Said::Stderr(bytes) => stderr.extend_from_slice(&bytes),
            }
        }
        let status = String::from_utf8(status).map_err(other)?;
        Ok((stdout, stderr, status))
    }
}
