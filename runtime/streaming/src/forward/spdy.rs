//! Pairs of streams as the client opens them: `streamType` error and data, with the
//! same `requestID` and `port`.

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    backend::Ports,
    mux::{Inlet, Opened, Outlet, Streams},
    spdy::headers::Headers,
};

/// The protocol's only version.
pub(crate) const PROTOCOL: &str = "portforward.k8s.io";

/// How long a stream may wait for the other of its pair.
const PAIRING: Duration = Duration::from_secs(30);
/// Longest request id, bytes: clients count.
const REQUEST_MAX: usize = 64;

/// What a stream says it is.
#[derive(Debug, PartialEq, Eq)]
struct Kind {
    /// Of the pair.
    request: String,
    port: u16,
    is_error: bool,
}

impl Kind {
    /// Reads a stream's headers; `None` when they make no sense.
    fn read(id: u32, headers: &Headers) -> Option<Self> {
        let is_error = match headers.get("streamtype")? {
            "error" => true,
            "data" => false,
            _ => return None,
        };
        // Clients of old send no request ids; their data stream follows its error
        // stream at once.
        let request = match headers.get("requestid") {
            Some(request) => request.to_owned(),
            None if is_error => format!("#{id}"),
            None => format!("#{}", id.checked_sub(2)?),
        };
        let port = headers
            .get("port")?
            .parse()
            .ok()
            .filter(|port| *port != 0)?;
        (request.len() <= REQUEST_MAX).then_some(Self {
            request,
            port,
            is_error,
        })
    }
}

/// A pair that is not whole.
struct Half {
    port: u16,
    until: Instant,
    error: Option<Outlet>,
    data: Option<(Inlet, Outlet)>,
}

/// Serves pairs until the client is gone.
pub(crate) async fn serve(ports: Arc<dyn Ports>, mut streams: Streams) {
    let mut halves: HashMap<String, Half> = HashMap::new();
    // Ended with this scope.
    let mut pairs = JoinSet::new();
    loop {
        let oldest = halves.values().map(|half| half.until).min();
        let overdue = async {
            match oldest {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            opened = streams.opened.recv() => match opened {
                Some(opened) => pair(opened, &mut halves, &ports, &mut pairs).await,
                None => return,
            },
            Some(_) = pairs.join_next() => {}
            () = overdue => {
                let now = Instant::now();
                for (_, half) in halves.extract_if(|_, half| half.until <= now) {
                    tracing::debug!(port = half.port, "a stream without the other of its pair");
                    for outlet in half.error.iter().chain(half.data.as_ref().map(|it| &it.1)) {
                        outlet.reset().await;
                    }
                }
            }
        }
    }
}

/// Puts a stream to the other of its pair, and starts the pair when it is whole.
async fn pair(
    opened: Opened,
    halves: &mut HashMap<String, Half>,
    ports: &Arc<dyn Ports>,
    pairs: &mut JoinSet<()>,
) {
    let Opened {
        headers,
        inlet,
        outlet,
    } = opened;
    let Some(kind) = Kind::read(outlet.id(), &headers) else {
        tracing::debug!(stream = outlet.id(), "a stream that is no part of a pair");
        return outlet.reset().await;
    };
    let half = halves.entry(kind.request.clone()).or_insert_with(|| Half {
        port: kind.port,
        until: Instant::now() + PAIRING,
        error: None,
        data: None,
    });
    let taken = if kind.is_error {
        half.error.is_some()
    } else {
        half.data.is_some()
    };
    if taken || half.port != kind.port {
        tracing::debug!(stream = outlet.id(), "a stream too many for its pair");
        return outlet.reset().await;
    }
    if kind.is_error {
        half.error = Some(outlet);
    } else {
        half.data = Some((inlet, outlet));
    }
    let port = half.port;
    if half.error.is_none() || half.data.is_none() {
        return;
    }
    if let Some(Half {
        error: Some(error),
        data: Some((data, out)),
        ..
    }) = halves.remove(&kind.request)
    {
        let ports = Arc::clone(ports);
        pairs.spawn(async move {
            super::forward(ports.as_ref(), port, data, &out, &error).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(headers: &[(&str, &str)]) -> Option<Kind> {
        Kind::read(5, &headers.iter().copied().collect())
    }

    #[test]
    fn streams_say_what_they_are() {
        let kind = |request: &str, is_error| {
            Some(Kind {
                request: request.to_owned(),
                port: 80,
                is_error,
            })
        };
        let (error, data) = (("streamType", "error"), ("streamType", "data"));
        let (port, request) = (("port", "80"), ("requestID", "7"));
        assert_eq!(read(&[error, port, request]), kind("7", true));
        assert_eq!(read(&[data, port, request]), kind("7", false));
        assert_eq!(read(&[error, port]), kind("#5", true));
        assert_eq!(read(&[data, port]), kind("#3", false));
        for bad in [
            &[port, request][..],
            &[error, request],
            &[("streamType", "x"), port],
            &[data, ("port", "0")],
            &[data, ("port", "65536")],
        ] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
        let long = "1".repeat(REQUEST_MAX + 1);
        assert_eq!(read(&[data, port, ("requestID", &long)]), None);
    }
}
