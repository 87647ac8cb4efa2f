//! Port-forward over a WebSocket's channels: for the request's n-th port, channel
//! 2n has the data and channel 2n+1 the error. The first message of each, from the
//! server, is the port's number, little-endian.

use std::sync::Arc;

use futures::future::join_all;

use crate::{
    backend::Ports,
    link::Link,
    mux::{Inlet, Mux, Outlet, Streams},
    websocket::channels::{Dialect, Encoding},
};

/// Versions of the protocol; they differ in encoding only.
pub(crate) const VERSIONS: &[(&str, Dialect)] = &[
    ("v4.channel.k8s.io", dialect(Encoding::Binary)),
    ("v4.base64.channel.k8s.io", dialect(Encoding::Base64)),
    ("", dialect(Encoding::Binary)),
];

/// The name for SPDY's pairs in a WebSocket.
pub(crate) const TUNNEL: &str = "SPDY/3.1+portforward.k8s.io";

/// Most ports of one request: their channels are digits in base64, and no client
/// asks for many.
pub(crate) const PORTS_MAX: usize = 64;

const fn dialect(encoding: Encoding) -> Dialect {
    Dialect {
        encoding,
        half_close: false,
    }
}

/// One port's channels.
pub(crate) struct Pair {
    port: u16,
    data: Inlet,
    out: Outlet,
    error: Outlet,
}

/// The channels of all ports.
pub(crate) fn pairs<L: Link>(ports: &[u16], mux: &mut Mux<L>, streams: &Streams) -> Vec<Pair> {
    let channels = (0..).step_by(2).zip(ports.iter().take(PORTS_MAX));
    channels
        .map(|(channel, port)| Pair {
            port: *port,
            data: mux.inlet(channel),
            out: streams.outlet(channel),
            error: streams.outlet(channel + 1),
        })
        .collect()
}

/// Serves all ports until the last has ended.
pub(crate) async fn serve(ports: Arc<dyn Ports>, pairs: Vec<Pair>, streams: Streams) {
    drop(streams);
    let ports = ports.as_ref();
    join_all(pairs.into_iter().map(async |pair| {
        let number = pair.port.to_le_bytes().to_vec();
        pair.out.send(number.clone()).await;
        pair.error.send(number).await;
        super::forward(ports, pair.port, pair.data, &pair.out, &pair.error).await;
    }))
    .await;
}
