//! WebSocket (RFC 6455) as Kubernetes uses it.
//!
//! * [`channels`]: streams as the first byte of every message.
//! * `link`: those over a socket.
//! * `tunnel`: one byte stream in binary messages, for SPDY inside.

pub mod channels;
pub(crate) mod link;
pub(crate) mod tunnel;

use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::protocol::{Role, WebSocketConfig},
};

/// Largest message that is taken. Clients send what one reading of theirs gave.
pub const MESSAGE_MAX: usize = 1 << 20;

/// The server's end over an upgraded connection.
pub(crate) async fn accept<S>(socket: S) -> WebSocketStream<S>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let config = WebSocketConfig::default()
        .max_message_size(Some(MESSAGE_MAX))
        .max_frame_size(Some(MESSAGE_MAX));
    WebSocketStream::from_raw_socket(socket, Role::Server, Some(config)).await
}
