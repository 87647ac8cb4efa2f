//! What a client's request asks to be upgraded to. Pure.
//!
//! | session | `Upgrade` | version, client's preference first |
//! |---|---|---|
//! | exec, attach | `SPDY/3.1` | `X-Stream-Protocol-Version`: v4 to v1 |
//! | exec, attach | `websocket` | `Sec-WebSocket-Protocol`: v5, v4, v1, base64 variants, none |
//! | port-forward | `SPDY/3.1` | `portforward.k8s.io` |
//! | port-forward | `websocket` | SPDY inside, v4, base64 variant, none |

use hyper::{
    HeaderMap, StatusCode,
    header::{
        CONNECTION, HeaderName, HeaderValue, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY,
        SEC_WEBSOCKET_PROTOCOL, SEC_WEBSOCKET_VERSION, UPGRADE,
    },
};
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;

use crate::{
    forward,
    remote::{self, status::Form},
    spdy,
    websocket::channels::Dialect,
};

/// Where a SPDY client offers versions, and is told which was chosen.
const STREAM_VERSION: HeaderName = HeaderName::from_static("x-stream-protocol-version");
/// Where a client that offers none of ours is told which there are.
const ACCEPTED_VERSIONS: HeaderName =
    HeaderName::from_static("x-accepted-stream-protocol-versions");

/// Most versions of an offer that are looked at.
const OFFERS_MAX: usize = 16;

/// What is spoken after the upgrade.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speech {
    /// Exec or attach over SPDY.
    RemoteSpdy(remote::spdy::Version),
    /// Exec or attach over a WebSocket.
    RemoteWebSocket(Dialect, Form),
    /// Port-forward over SPDY.
    ForwardSpdy,
    /// Port-forward over SPDY in a WebSocket.
    ForwardTunnel,
    /// Port-forward over a WebSocket.
    ForwardWebSocket(Dialect),
}

/// The two kinds of sessions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Exec and attach.
    Remote,
    /// Port-forward.
    Forward,
}

/// What is agreed on, and the headers that say so.
#[derive(Debug)]
pub(crate) struct Agreed {
    pub(crate) speech: Speech,
    pub(crate) headers: HeaderMap,
}

/// Why nothing is agreed on.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) header: Option<(HeaderName, HeaderValue)>,
    pub(crate) message: String,
}

impl Refusal {
    pub(crate) fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self {
            status,
            header: None,
            message: message.into(),
        }
    }
}

/// Agrees on what is spoken.
pub(crate) fn negotiate(kind: Kind, request: &HeaderMap) -> Result<Agreed, Refusal> {
    let upgrades = words(request, &CONNECTION).any(|word| word.eq_ignore_ascii_case("upgrade"));
    let mut wanted = words(request, &UPGRADE);
    match wanted.next().filter(|_| upgrades) {
        Some(word) if word.eq_ignore_ascii_case(spdy::PROTOCOL) => spdy(kind, request),
        Some(word) if word.eq_ignore_ascii_case("websocket") => websocket(kind, request),
        _ => Err(Refusal::new(
            StatusCode::BAD_REQUEST,
            "unable to upgrade: the request must have the headers Connection: Upgrade and \
             Upgrade: SPDY/3.1 or websocket",
        )),
    }
}

fn spdy(kind: Kind, request: &HeaderMap) -> Result<Agreed, Refusal> {
    let known: Vec<(&str, Speech)> = match kind {
        Kind::Remote => remote::spdy::VERSIONS
            .iter()
            .map(|(name, version)| (*name, Speech::RemoteSpdy(*version)))
            .collect(),
        Kind::Forward => vec![(forward::spdy::PROTOCOL, Speech::ForwardSpdy)],
    };
    let offered: Vec<&str> = words(request, &STREAM_VERSION).take(OFFERS_MAX).collect();
    // A client that names no version speaks the oldest.
    let chosen = match offered.is_empty() {
        true => known.last().copied(),
        false => choose(&offered, &known),
    };
    let (name, speech) = chosen.ok_or_else(|| unknown(&offered, &known))?;
    let mut headers = HeaderMap::new();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static(spdy::PROTOCOL));
    if !offered.is_empty() {
        headers.insert(STREAM_VERSION, HeaderValue::from_static(name));
    }
    Ok(Agreed { speech, headers })
}

fn websocket(kind: Kind, request: &HeaderMap) -> Result<Agreed, Refusal> {
    let known: Vec<(&'static str, Speech)> = match kind {
        Kind::Remote => remote::websocket::VERSIONS
            .iter()
            .map(|(name, dialect, form)| (*name, Speech::RemoteWebSocket(*dialect, *form)))
            .collect(),
        Kind::Forward => [(forward::websocket::TUNNEL, Speech::ForwardTunnel)]
            .into_iter()
            .chain(
                forward::websocket::VERSIONS
                    .iter()
                    .map(|(name, dialect)| (*name, Speech::ForwardWebSocket(*dialect))),
            )
            .collect(),
    };
    let key = match request.get(SEC_WEBSOCKET_KEY) {
        Some(key) if words(request, &SEC_WEBSOCKET_VERSION).any(|version| version == "13") => key,
        _ => {
            let mut refusal = Refusal::new(
                StatusCode::BAD_REQUEST,
                "unable to upgrade: a WebSocket needs Sec-WebSocket-Key and \
                 Sec-WebSocket-Version: 13",
            );
            refusal.header = Some((SEC_WEBSOCKET_VERSION, HeaderValue::from_static("13")));
            return Err(refusal);
        }
    };
    let mut offered: Vec<&str> = words(request, &SEC_WEBSOCKET_PROTOCOL)
        .take(OFFERS_MAX)
        .collect();
    if offered.is_empty() {
        offered.push("");
    }
    let (name, speech) = choose(&offered, &known).ok_or_else(|| unknown(&offered, &known))?;
    let mut headers = HeaderMap::new();
    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(UPGRADE, HeaderValue::from_static("websocket"));
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes()));
    let accept = accept
        .map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    headers.insert(SEC_WEBSOCKET_ACCEPT, accept);
    if !name.is_empty() {
        headers.insert(SEC_WEBSOCKET_PROTOCOL, HeaderValue::from_static(name));
    }
    Ok(Agreed { speech, headers })
}

/// The first of the client's offers that is known.
fn choose(offered: &[&str], known: &[(&'static str, Speech)]) -> Option<(&'static str, Speech)> {
    offered
        .iter()
        .find_map(|offer| known.iter().find(|(name, _)| name == offer).copied())
}

fn unknown(offered: &[&str], known: &[(&str, Speech)]) -> Refusal {
    let names: Vec<&str> = known
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| !name.is_empty())
        .collect();
    let names = names.join(", ");
    let mut refusal = Refusal::new(
        StatusCode::FORBIDDEN,
        format!("unable to upgrade: none of {offered:?} is known here, only {names}"),
    );
    if let Ok(value) = HeaderValue::from_str(&names) {
        refusal.header = Some((ACCEPTED_VERSIONS, value));
    }
    refusal
}

/// The words of all headers of a name, which commas separate.
fn words<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(name)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .filter(|word| !word.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::websocket::channels::Encoding;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_static(value),
            )
        };
        let mut map = HeaderMap::new();
        for (name, value) in pairs.iter().map(pair) {
            map.append(name, value);
        }
        map
    }

    const SPDY: [(&str, &str); 2] = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")];
    const WEBSOCKET: [(&str, &str); 4] = [
        ("Connection", "keep-alive, Upgrade"),
        ("Upgrade", "WebSocket"),
        ("Sec-WebSocket-Version", "13"),
        // The example of RFC 6455, section 1.3.
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];

    fn with(
        base: &[(&'static str, &'static str)],
        more: &[(&'static str, &'static str)],
    ) -> HeaderMap {
        headers(&[base, more].concat())
    }

    #[test]
    fn the_clients_preference_counts() {
        let request = with(
            &SPDY,
            &[
                ("X-Stream-Protocol-Version", "v9.channel.k8s.io"),
                (
                    "X-Stream-Protocol-Version",
                    "v3.channel.k8s.io, v4.channel.k8s.io",
                ),
            ],
        );
        let agreed = negotiate(Kind::Remote, &request).unwrap();
        assert_eq!(agreed.headers[&STREAM_VERSION], "v3.channel.k8s.io");
        assert_eq!(agreed.headers[UPGRADE], "SPDY/3.1");
        let Speech::RemoteSpdy(version) = agreed.speech else {
            panic!("{agreed:?}");
        };
        assert_eq!((version.form, version.sizes), (Form::Text, true));
    }

    #[test]
    fn websockets_are_accepted_as_the_rfc_says() {
        let offers = [(
            "Sec-WebSocket-Protocol",
            "v5.channel.k8s.io, v4.channel.k8s.io",
        )];
        let agreed = negotiate(Kind::Remote, &with(&WEBSOCKET, &offers)).unwrap();
        assert_eq!(
            agreed.headers[SEC_WEBSOCKET_ACCEPT],
            "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
        );
        assert_eq!(agreed.headers[SEC_WEBSOCKET_PROTOCOL], "v5.channel.k8s.io");
        assert!(matches!(
            agreed.speech,
            Speech::RemoteWebSocket(dialect, Form::Json) if dialect.half_close
        ));
        let none = negotiate(Kind::Remote, &headers(&WEBSOCKET)).unwrap();
        assert!(!none.headers.contains_key(SEC_WEBSOCKET_PROTOCOL));
        let offers = [("Sec-WebSocket-Protocol", "v4.base64.channel.k8s.io")];
        let agreed = negotiate(Kind::Forward, &with(&WEBSOCKET, &offers)).unwrap();
        assert!(matches!(
            agreed.speech,
            Speech::ForwardWebSocket(dialect) if dialect.encoding == Encoding::Base64
        ));
        let offers = [("Sec-WebSocket-Protocol", "SPDY/3.1+portforward.k8s.io")];
        let agreed = negotiate(Kind::Forward, &with(&WEBSOCKET, &offers)).unwrap();
        assert_eq!(agreed.speech, Speech::ForwardTunnel);
    }

    #[test]
    fn what_cannot_be_agreed_on_says_what_could_be() {
        let refusal = negotiate(Kind::Remote, &HeaderMap::new()).unwrap_err();
        assert_eq!(refusal.status, StatusCode::BAD_REQUEST);
        let request = with(
            &SPDY,
            &[("X-Stream-Protocol-Version", "portforward.k8s.io")],
        );
        let refusal = negotiate(Kind::Remote, &request).unwrap_err();
        assert_eq!(refusal.status, StatusCode::FORBIDDEN);
        let (name, accepted) = refusal.header.unwrap();
        assert_eq!(name, ACCEPTED_VERSIONS);
        let accepted = accepted.to_str().unwrap();
        assert!(accepted.contains("v4.channel.k8s.io"), "{accepted}");
        let request = with(&WEBSOCKET, &[("Sec-WebSocket-Protocol", "chat")]);
        let refusal = negotiate(Kind::Forward, &request).unwrap_err();
        assert_eq!(refusal.status, StatusCode::FORBIDDEN);
        let refusal = negotiate(Kind::Remote, &headers(&WEBSOCKET[..2])).unwrap_err();
        assert_eq!(refusal.status, StatusCode::BAD_REQUEST);
    }
}
