//! Port-forward: connections to servers in the pod, each a pair of the client's
//! streams: data, and an error stream that says why there are none.
//!
//! * `spdy`: pairs as the client opens them, over SPDY or SPDY in a WebSocket.
//! * `websocket`: a pair for each port of the request, as channels.

pub(crate) mod spdy;
pub(crate) mod websocket;

use std::io;

use bytes::BytesMut;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};

use crate::{
    backend::{Connection, Ports},
    mux::{Inlet, Outlet},
};

/// Largest piece passed on at once, bytes.
const PIECE: usize = 64 << 10;

/// One forwarded connection, from its dialling to its end. Whatever becomes of it,
/// the client's other connections are not concerned: an error is told only when the
/// server could not be reached, since clients give up all their connections when
/// they read one.
async fn forward(ports: &dyn Ports, port: u16, data: Inlet, out: &Outlet, error: &Outlet) {
    let given_up = data.reset();
    let forwarded = async {
        match ports.dial(port).await {
            Ok(connection) => {
                if let Err(why) = join(connection, data, out).await {
                    tracing::debug!(port, %why, "a forwarded connection broke");
                    out.reset().await;
                }
            }
            Err(failure) => {
                tracing::debug!(port, %failure, "nothing to forward to");
                error.send(failure.0.into_bytes()).await;
                out.reset().await;
            }
        }
    };
    tokio::select! {
        () = forwarded => {}
        () = given_up => {}
    }
    error.finish().await;
}

/// Passes bytes on until both directions have ended.
async fn join(connection: Box<dyn Connection>, data: Inlet, out: &Outlet) -> io::Result<()> {
    let (from_server, to_server) = tokio::io::split(connection);
    tokio::try_join!(up(data, to_server), down(from_server, out)).map(drop)
}

async fn up(mut data: Inlet, mut to_server: WriteHalf<Box<dyn Connection>>) -> io::Result<()> {
    while let Some(piece) = data.next().await {
        to_server.write_all(&piece).await?;
    }
    to_server.shutdown().await
}

async fn down(mut from_server: ReadHalf<Box<dyn Connection>>, out: &Outlet) -> io::Result<()> {
    loop {
        let mut piece = BytesMut::with_capacity(PIECE);
        if from_server.read_buf(&mut piece).await? == 0 {
            out.finish().await;
            return Ok(());
        }
        out.send(piece.freeze()).await;
    }
}
