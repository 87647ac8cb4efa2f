//! The ready notice: the one frame that the guest sends on its outgoing
//! connection to [`READY_PORT`](crate::READY_PORT).
//!
//! A little-endian `u32` length, then that many bytes of a serialised
//! [`Ready`]. The guest may leave the connection open; nothing more follows.

use protobuf::Message as _;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use crate::{agent::Ready, stdio::FrameError};

/// Most bytes of a serialised [`Ready`].
pub const MAX_READY: usize = 4 << 10;

/// The notice's bytes, length field included.
///
/// # Errors
/// When the message is larger than [`MAX_READY`].
pub fn encode(ready: &Ready) -> Result<Vec<u8>, FrameError> {
    let body = ready
        .write_to_bytes()
        .map_err(|_| FrameError::Malformed("ready notice cannot be encoded"))?;
    let len = u32::try_from(body.len())
        .ok()
        .filter(|_| body.len() <= MAX_READY)
        .ok_or(FrameError::Malformed("ready notice is too large to send"))?;
    let mut out = Vec::with_capacity(4 + body.len());
    out.extend_from_slice(&len.to_le_bytes());
    out.extend_from_slice(&body);
    Ok(out)
}

/// Reads the notice.
///
/// # Errors
/// [`FrameError`] when the connection ends before it, or it is not one.
pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> Result<Ready, FrameError> {
    let mut len = [0_u8; 4];
    from.read_exact(&mut len).await?;
    let len = u32::from_le_bytes(len) as usize;
    if len > MAX_READY {
        return Err(FrameError::Malformed(
            "ready notice of a length out of bounds",
        ));
    }
    let mut body = vec![0_u8; len];
    from.read_exact(&mut body).await?;
    Ready::parse_from_bytes(&body)
        .map_err(|_| FrameError::Malformed("ready notice is not a Ready message"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_sent_is_read() {
        let sent = Ready {
            agent_version: "0.1.0".into(),
            ready_ns: 7,
            ..Default::default()
        };
        let wire = encode(&sent).unwrap();
        assert_eq!(read(&mut wire.as_slice()).await.unwrap(), sent);
        assert!(read(&mut &wire[..wire.len() - 1]).await.is_err());
        assert!(read(&mut u32::MAX.to_le_bytes().as_slice()).await.is_err());
    }
}
