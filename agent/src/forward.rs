//! The forward port: connections to servers in the pod, dialled where the pod's
//! own processes would dial them, so that a server on 127.0.0.1 is reached.

use std::{
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use bulkhead_agent_api::{forward, stdio::FrameError};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    sync::watch,
};
use tracing::debug;

use crate::{listen::Listener, process::stream::is_hangup};

/// How long a peer may take to say which port it wants.
const ASK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a server may take to accept, each address.
const DIAL_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a peer that sends no more is asked whether it still receives.
const PROBE: Duration = Duration::from_millis(250);
/// Largest piece passed on at once, bytes.
const PIECE: usize = 64 << 10;

/// Serves connections for as long as the agent lives.
pub async fn serve(listener: Listener) {
    loop {
        match listener.accept().await {
            Ok(connection) => {
                tokio::spawn(async move {
                    match serve_one(connection).await.map_err(FrameError::from) {
                        Err(why) if !is_hangup(&why) => debug!("forwarded connection: {why}"),
                        _ => {}
                    }
                });
            }
            Err(why) => {
                debug!("accept on the forward port: {why}");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

async fn serve_one<C>(mut connection: C) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite + Unpin,
{
    let port = tokio::time::timeout(ASK_TIMEOUT, forward::asked(&mut connection))
        .await
        .map_err(|_elapsed| io::Error::from(io::ErrorKind::TimedOut))??;
    match dial(port).await {
        Ok(server) => {
            forward::answer(&mut connection, None).await?;
            join(connection, server).await
        }
        Err(why) => {
            let reason = format!("connect to port {port} in the pod: {why}");
            forward::answer(&mut connection, Some(&reason)).await
        }
    }
}

/// Reaches a server of this network namespace on IPv4, then on IPv6.
async fn dial(port: u16) -> io::Result<TcpStream> {
    let mut first = None;
    for address in [
        SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        SocketAddr::from((Ipv6Addr::LOCALHOST, port)),
    ] {
        let dialled = tokio::time::timeout(DIAL_TIMEOUT, TcpStream::connect(address))
            .await
            .unwrap_or_else(|_elapsed| Err(io::ErrorKind::TimedOut.into()));
        match dialled {
            Ok(server) => {
                server.set_nodelay(true)?;
                return Ok(server);
            }
            // What IPv4 said is what the user expects to read.
            Err(why) => first = first.or(Some(why)),
        }
    }
    Err(first.unwrap_or_else(|| io::ErrorKind::ConnectionRefused.into()))
}

/// Joins the two until both ways have ended, or one end is gone.
async fn join<C>(peer: C, server: TcpStream) -> io::Result<()>
where
    C: AsyncRead + AsyncWrite,
{
    let (mut from_peer, mut to_peer) = tokio::io::split(peer);
    let (mut from_server, mut to_server) = server.into_split();
    let (ended, mut peer_ended) = watch::channel(false);
    let up = async {
        let mut piece = vec![0_u8; PIECE];
        loop {
            let len = from_peer.read(&mut piece).await?;
            let Some(bytes) = piece.get(..len).filter(|bytes| !bytes.is_empty()) else {
                break;
            };
            to_server.write_all(bytes).await?;
        }
        to_server.shutdown().await?;
        ended.send_replace(true);
        Ok::<(), io::Error>(())
    };
    let down = async {
        let mut piece = vec![0_u8; PIECE];
        loop {
            let len = tokio::select! {
                len = from_server.read(&mut piece) => len?,
                gone = receives_no_more(&mut to_peer, &mut peer_ended) => return Err(gone),
            };
            let Some(bytes) = piece.get(..len).filter(|bytes| !bytes.is_empty()) else {
                return to_peer.shutdown().await;
            };
            to_peer.write_all(bytes).await?;
        }
    };
    tokio::try_join!(up, down).map(drop)
}

/// Returns when a peer that has ended its sending receives no more either. A peer
/// that has closed its end and one that has closed half of it look the same until
/// something is written; nothing, for example, which the kernel refuses (EPIPE).
async fn receives_no_more(
    peer: &mut (impl AsyncWrite + Unpin),
    ended: &mut watch::Receiver<bool>,
) -> io::Error {
    if ended.wait_for(|ended| *ended).await.is_err() {
        std::future::pending::<()>().await;
    }
    loop {
        tokio::time::sleep(PROBE).await;
        if let Err(gone) = peer.write(&[]).await {
            return gone;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::{TcpListener, UnixStream};

    async fn connected(port: u16) -> (UnixStream, tokio::task::JoinHandle<io::Result<()>>) {
        let (mut peer, agent) = UnixStream::pair().unwrap();
        let serving = tokio::spawn(serve_one(agent));
        forward::ask(&mut peer, port).await.unwrap();
        assert_eq!(forward::answered(&mut peer).await.unwrap(), None);
        (peer, serving)
    }

    #[tokio::test]
    async fn bytes_go_both_ways_and_each_way_ends_by_itself() {
        for host in ["127.0.0.1:0", "[::1]:0"] {
            let Ok(listener) = TcpListener::bind(host).await else {
                continue; // a machine without IPv6
            };
            let port = listener.local_addr().unwrap().port();
            let server = tokio::spawn(async move {
                let (mut connection, _) = listener.accept().await.unwrap();
                let mut got = Vec::new();
                connection.read_to_end(&mut got).await.unwrap();
                connection.write_all(&got).await.unwrap();
            });
            let (mut peer, serving) = connected(port).await;
            let sent = vec![7_u8; 300_000];
            peer.write_all(&sent).await.unwrap();
            peer.shutdown().await.unwrap();
            let mut got = Vec::new();
            peer.read_to_end(&mut got).await.unwrap();
            assert_eq!(got, sent);
            serving.await.unwrap().unwrap();
            server.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_peer_that_goes_takes_the_servers_connection_along() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (peer, serving) = connected(listener.local_addr().unwrap().port()).await;
        // It neither reads nor writes nor closes.
        let (_kept, _) = listener.accept().await.unwrap();
        drop(peer);
        let ended = tokio::time::timeout(Duration::from_secs(10), serving).await;
        assert!(ended.unwrap().unwrap().is_err());
    }

    #[tokio::test]
    async fn a_port_that_nobody_listens_on_is_answered_with_the_reason() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let (mut peer, agent) = UnixStream::pair().unwrap();
        let serving = tokio::spawn(serve_one(agent));
        forward::ask(&mut peer, port).await.unwrap();
        let reason = forward::answered(&mut peer).await.unwrap().unwrap();
        assert!(reason.contains(&format!("port {port}")), "{reason}");
        assert!(reason.contains("refused"), "{reason}");
        serving.await.unwrap().unwrap();
    }
}
