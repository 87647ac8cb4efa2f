//! Connections to servers in the pod.
//!
//! Each is a connection of its own to the agent's port
//! [`FORWARD_PORT`](crate::FORWARD_PORT), which becomes the server's once the agent
//! has reached it.
//!
//! ```text
//!  daemon                               agent
//!    | -- TCP port: u16 -----------------> |  dials 127.0.0.1, then ::1
//!    | <-- length: u16, reason: UTF-8 ---- |  length 0: connected
//!    |                                     |
//!    | <========== bytes ================> |  each way ends by itself
//! ```
//!
//! Numbers are little-endian. After a reason the connection ends.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

/// Longest reason, bytes.
pub const MAX_REASON: usize = 512;

/// Names the TCP port that is wanted.
///
/// # Errors
/// The connection's.
pub async fn ask(to: &mut (impl AsyncWrite + Unpin), port: u16) -> io::Result<()> {
    to.write_all(&port.to_le_bytes()).await
}

/// Reads which port is wanted. Any number is one; 0 cannot be reached.
///
/// # Errors
/// The connection's, also when it ends before.
pub async fn asked(from: &mut (impl AsyncRead + Unpin)) -> io::Result<u16> {
    let mut port = [0_u8; 2];
    from.read_exact(&mut port).await?;
    Ok(u16::from_le_bytes(port))
}

/// Answers: `None` when connected, or why not, cut to [`MAX_REASON`].
///
/// # Errors
/// The connection's.
pub async fn answer(to: &mut (impl AsyncWrite + Unpin), reason: Option<&str>) -> io::Result<()> {
    let reason = match reason {
        None => "",
        Some("") => "no reason given",
        Some(reason) => reason
            .get(..reason.floor_char_boundary(MAX_REASON))
            .unwrap_or(""),
    };
    let length = u16::try_from(reason.len()).map_err(io::Error::other)?;
    let mut wire = length.to_le_bytes().to_vec();
    wire.extend_from_slice(reason.as_bytes());
    to.write_all(&wire).await
}

/// Reads the answer: `None` when connected, or why not. What follows stays in the
/// connection.
///
/// # Errors
/// [`io::ErrorKind::InvalidData`] for a reason over its bound, and the
/// connection's.
pub async fn answered(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<String>> {
    let mut length = [0_u8; 2];
    from.read_exact(&mut length).await?;
    let length = usize::from(u16::from_le_bytes(length));
    if length > MAX_REASON {
        let what = format!("a reason of {length} bytes; at most {MAX_REASON} are allowed");
        return Err(io::Error::new(io::ErrorKind::InvalidData, what));
    }
    if length == 0 {
        return Ok(None);
    }
    let mut reason = vec![0_u8; length];
    from.read_exact(&mut reason).await?;
    Ok(Some(String::from_utf8_lossy(&reason).into_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_sent_is_read() {
        let mut wire = Vec::new();
        ask(&mut wire, 8080).await.unwrap();
        assert_eq!(asked(&mut wire.as_slice()).await.unwrap(), 8080);
        assert!(asked(&mut &wire[..1]).await.is_err());
        for (sent, got) in [
            (None, None),
            (Some("refused"), Some("refused".to_owned())),
            (Some(""), Some("no reason given".to_owned())),
            (
                Some("é".repeat(MAX_REASON).as_str()),
                Some("é".repeat(MAX_REASON / 2)),
            ),
        ] {
            let mut wire = Vec::new();
            answer(&mut wire, sent).await.unwrap();
            wire.extend_from_slice(b"rest");
            let mut from = wire.as_slice();
            assert_eq!(answered(&mut from).await.unwrap(), got);
            assert_eq!(from, b"rest");
        }
    }

    #[tokio::test]
    async fn a_reason_over_its_bound_is_refused_before_it_is_read() {
        let error = answered(&mut [0xff_u8, 0xff].as_slice()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
