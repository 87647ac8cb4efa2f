//! One connection: HTTP until it is upgraded, then its session.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Incoming,
    header::{ALLOW, CONNECTION, HeaderValue},
    server::conn::http1,
    service::service_fn,
    upgrade::OnUpgrade,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

use crate::{
    forward,
    link::Link,
    mux::{End, Mux},
    negotiate::{Agreed, Refusal, Speech, negotiate},
    remote,
    server::{Session, Shared},
    spdy::link::SpdyLink,
    websocket::{self, link::ChannelLink, tunnel::Tunnel},
};

/// How long a client may take for the TLS handshake, and for its request's head.
const REQUEST: Duration = Duration::from_secs(10);
/// Largest request head, bytes.
const HEAD_MAX: usize = 32 << 10;
/// Most headers of a request.
const HEADERS_MAX: usize = 64;

/// Serves a connection to its end.
pub(crate) async fn serve(socket: TcpStream, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    match tls {
        None => serve_on(socket, &shared).await,
        Some(tls) => match timeout(REQUEST, tls.accept(socket)).await {
            Ok(Ok(socket)) => serve_on(socket, &shared).await,
            Ok(Err(error)) => tracing::debug!(%error, "TLS handshake failed"),
            Err(_elapsed) => tracing::debug!("TLS handshake took more than {REQUEST:?}"),
        },
    }
}

/// What a request was answered with an upgrade for.
struct Upgraded {
    upgrade: OnUpgrade,
    speech: Speech,
    session: Session,
}

async fn serve_on<S>(socket: S, shared: &Arc<Shared>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let upgraded: Mutex<Option<Upgraded>> = Mutex::default();
    let answer = |request: Request<Incoming>| {
        let (response, agreed) = respond(request, shared);
        if agreed.is_some() {
            *upgraded.lock().unwrap_or_else(PoisonError::into_inner) = agreed;
        }
        std::future::ready(Ok::<_, Infallible>(response))
    };
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST)
        .max_buf_size(HEAD_MAX)
        .max_headers(HEADERS_MAX)
        .serve_connection(TokioIo::new(socket), service_fn(answer))
        .with_upgrades();
    if let Err(error) = connection.await {
        tracing::debug!(%error, "a streaming connection failed before its session");
        return;
    }
    let upgraded = upgraded
        .into_inner()
        .unwrap_or_else(PoisonError::into_inner);
    let Some(Upgraded {
        upgrade,
        speech,
        session,
    }) = upgraded
    else {
        return;
    };
    match upgrade.await {
        Ok(socket) => run(TokioIo::new(socket), speech, session, shared).await,
        Err(error) => tracing::debug!(%error, "a streaming connection was not upgraded"),
    }
}

fn respond(
    mut request: Request<Incoming>,
    shared: &Shared,
) -> (Response<Full<Bytes>>, Option<Upgraded>) {
    match agree(&request, shared) {
        Ok((Agreed { speech, headers }, session)) => {
            let upgraded = Upgraded {
                upgrade: hyper::upgrade::on(&mut request),
                speech,
                session,
            };
            let answer = response(StatusCode::SWITCHING_PROTOCOLS, headers, String::new());
            (answer, Some(upgraded))
        }
        Err(refusal) => {
            tracing::debug!(status = %refusal.status, why = refusal.message, "refused");
            let mut headers: HeaderMap = refusal.header.into_iter().collect();
            // One request a connection: each token is good for one.
            headers.insert(CONNECTION, HeaderValue::from_static("close"));
            let answer = response(refusal.status, headers, refusal.message);
            (answer, None)
        }
    }
}

fn response(status: StatusCode, headers: HeaderMap, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(text.into()));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn agree(request: &Request<Incoming>, shared: &Shared) -> Result<(Agreed, Session), Refusal> {
    if !matches!(*request.method(), Method::GET | Method::POST) {
        let mut refusal = Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "GET and POST only");
        refusal.header = Some((ALLOW, HeaderValue::from_static("GET, POST")));
        return Err(refusal);
    }
    let absent = || {
        let why = "no session waits at this address: each works once, for a minute";
        Refusal::new(StatusCode::NOT_FOUND, why)
    };
    let mut parts = request.uri().path().split('/').skip(1);
    let (Some(path), Some(token), None) = (parts.next(), parts.next(), parts.next()) else {
        return Err(absent());
    };
    let session = shared.take(token).ok_or_else(absent)?;
    if session.path() != path {
        return Err(absent());
    }
    let agreed = negotiate(session.kind(), request.headers())?;
    if let (Speech::ForwardWebSocket(_), Session::Forward(forward)) = (agreed.speech, &session)
        && forward.numbers.is_empty()
    {
        let why = "a port-forward over channels needs the ports in the runtime's PortForward call";
        return Err(Refusal::new(StatusCode::BAD_REQUEST, why));
    }
    Ok((agreed, session))
}

async fn run<S>(socket: S, speech: Speech, session: Session, shared: &Shared)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let name = session.path();
    tracing::debug!(session = name, ?speech, "begins");
    let idle = shared.idle;
    let end = match (speech, session) {
        (Speech::RemoteSpdy(version), Session::Exec(remote) | Session::Attach(remote)) => {
            let (mux, streams) = Mux::new(SpdyLink::new(socket), idle);
            mux.run(remote::spdy::serve(remote, version, streams)).await
        }
        (Speech::RemoteWebSocket(dialect, form), Session::Exec(it) | Session::Attach(it)) => {
            let socket = websocket::accept(socket).await;
            let (mut mux, streams) = Mux::new(ChannelLink::new(socket, dialect), idle);
            let wires = remote::websocket::wires(&it, form, &mut mux, &streams);
            mux.run(remote::websocket::serve(it, wires, streams)).await
        }
        (Speech::ForwardSpdy, Session::Forward(it)) => {
            pairs(SpdyLink::new(socket), it.ports, idle).await
        }
        (Speech::ForwardTunnel, Session::Forward(it)) => {
            let socket = Tunnel::new(websocket::accept(socket).await);
            pairs(SpdyLink::new(socket), it.ports, idle).await
        }
        (Speech::ForwardWebSocket(dialect), Session::Forward(it)) => {
            let socket = websocket::accept(socket).await;
            let (mut mux, streams) = Mux::new(ChannelLink::new(socket, dialect), idle);
            let pairs = forward::websocket::pairs(&it.numbers, &mut mux, &streams);
            mux.run(forward::websocket::serve(it.ports, pairs, streams))
                .await
        }
        // What is negotiated fits the session.
        (_, _) => return,
    };
    match end {
        End::Done => tracing::debug!(session = name, "done"),
        End::Gone(None) => tracing::debug!(session = name, "the client went"),
        End::Gone(Some(why)) => tracing::debug!(session = name, %why, "broke off"),
        End::Idle => tracing::debug!(session = name, "silent for {idle:?}: ended"),
    }
}

async fn pairs(link: impl Link, ports: Arc<dyn crate::backend::Ports>, idle: Duration) -> End {
    let (mux, streams) = Mux::new(link, idle);
    mux.run(forward::spdy::serve(ports, streams)).await
}
