//! Framing of process input and output.
//!
//! Each stream of each process (stdin, stdout, stderr) is a connection of its
//! own to the agent's port [`STDIO_PORT`](crate::STDIO_PORT). Nothing is lost
//! when either the connection or the daemon goes away: the sender keeps every
//! byte until the receiver has acknowledged it, and a new connection names the
//! offset to go on from.
//!
//! ```text
//!  daemon                                   agent
//!    | -- Hello{process, stream, offset} ---> |
//!    | <------------- Accepted{offset} ------ |   (or Refused{reason}, then close)
//!    |                                        |
//!    |   output: <------ Data{offset, bytes}  |
//!    |           Ack{offset} ------>          |   everything below is on disk
//!    |           <------ Eof{offset}          |   no writer is left
//!    |                                        |
//!    |   input:  Data{offset, bytes} ------>  |
//!    |           <------ Ack{offset}          |   written to the process
//!    |           Eof{offset} ------>          |   closes the process's stdin
//! ```
//!
//! Offsets count the stream's bytes from its beginning. For output, `Accepted`
//! carries the offset the agent really starts from: the one asked for, unless
//! those bytes have been acknowledged and dropped before. For input it is the
//! number of bytes the agent has taken so far. A stream has one connection at a
//! time; a newer one ends the older.
//!
//! A frame is a little-endian `u32` with the length of what follows, one type
//! byte, and the body: a protobuf message for `Hello`, UTF-8 text for `Refused`,
//! a little-endian `u64` offset for the rest, followed in `Data` by the bytes.

use protobuf::Message as _;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::agent::StdioHello;

/// Most bytes in one `Data` frame.
pub const MAX_DATA: usize = 64 << 10;
/// Most bytes in a `Hello` or `Refused` body.
pub const MAX_TEXT: usize = 4 << 10;
/// Largest value of a frame's length field: type byte, offset, data.
pub const MAX_FRAME: usize = 1 + 8 + MAX_DATA;
/// Bytes of output kept per stream when the daemon names no other bound.
pub const DEFAULT_BUFFER: usize = 1 << 20;

const HELLO: u8 = 1;
const ACCEPTED: u8 = 2;
const REFUSED: u8 = 3;
const DATA: u8 = 4;
const ACK: u8 = 5;
const EOF: u8 = 6;

/// One frame.
#[derive(Clone, Debug, PartialEq)]
pub enum Frame {
    /// Opens the stream.
    Hello(StdioHello),
    /// The agent's consent, with the offset it stands at.
    Accepted(u64),
    /// The agent's refusal; the connection ends.
    Refused(String),
    /// Bytes of the stream, the first of them at this offset. At most [`MAX_DATA`].
    Data(u64, Vec<u8>),
    /// Everything below this offset need not be kept.
    Ack(u64),
    /// The stream ends at this offset.
    Eof(u64),
}

/// Why a frame could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// The connection failed or ended inside a frame.
    #[error("stdio connection: {0}")]
    Io(#[from] std::io::Error),
    /// The peer broke the framing; the connection is of no further use.
    #[error("stdio peer broke the framing: {0}")]
    Malformed(&'static str),
}

impl Frame {
    /// The frame's bytes, length field included.
    ///
    /// # Errors
    /// When the body is larger than its bound.
    pub fn encode(&self) -> Result<Vec<u8>, FrameError> {
        let (kind, offset, body): (u8, Option<u64>, &[u8]) = match self {
            Self::Hello(hello) => {
                let body = hello
                    .write_to_bytes()
                    .map_err(|_| FrameError::Malformed("hello cannot be encoded"))?;
                return Self::assemble(HELLO, None, &body, MAX_TEXT);
            }
            Self::Accepted(offset) => (ACCEPTED, Some(*offset), &[]),
            Self::Refused(reason) => {
                let end = reason.floor_char_boundary(MAX_TEXT);
                (REFUSED, None, reason.get(..end).unwrap_or("").as_bytes())
            }
            Self::Data(offset, bytes) => (DATA, Some(*offset), bytes),
            Self::Ack(offset) => (ACK, Some(*offset), &[]),
            Self::Eof(offset) => (EOF, Some(*offset), &[]),
        };
        Self::assemble(kind, offset, body, MAX_DATA)
    }

    /// Writes the head of a [`Frame::Data`] of `len` bytes at `offset` to `wire`;
    /// the bytes themselves are to follow. For senders that have them elsewhere.
    /// `len` is 1..=[`MAX_DATA`].
    pub fn encode_data_header(offset: u64, len: usize, wire: &mut Vec<u8>) {
        debug_assert!(
            (1..=MAX_DATA).contains(&len),
            "data of a length out of bounds"
        );
        let length = u32::try_from(1 + 8 + len).unwrap_or(u32::MAX);
        wire.extend_from_slice(&length.to_le_bytes());
        wire.push(DATA);
        wire.extend_from_slice(&offset.to_le_bytes());
    }

    /// Writes a whole [`Frame::Eof`] to `wire`.
    pub fn encode_eof(offset: u64, wire: &mut Vec<u8>) {
        wire.extend_from_slice(&9_u32.to_le_bytes());
        wire.push(EOF);
        wire.extend_from_slice(&offset.to_le_bytes());
    }

    fn assemble(
        kind: u8,
        offset: Option<u64>,
        body: &[u8],
        max: usize,
    ) -> Result<Vec<u8>, FrameError> {
        if body.len() > max {
            return Err(FrameError::Malformed("frame body is too large to send"));
        }
        let len = 1 + if offset.is_some() { 8 } else { 0 } + body.len();
        let len = u32::try_from(len).map_err(|_| FrameError::Malformed("frame is too large"))?;
        let mut out = Vec::with_capacity(4 + len as usize);
        out.extend_from_slice(&len.to_le_bytes());
        out.push(kind);
        if let Some(offset) = offset {
            out.extend_from_slice(&offset.to_le_bytes());
        }
        out.extend_from_slice(body);
        Ok(out)
    }

    /// Parses what follows the length field.
    ///
    /// # Errors
    /// [`FrameError::Malformed`] for an unknown type, a body of the wrong length,
    /// or one over its bound.
    pub fn decode(frame: &[u8]) -> Result<Self, FrameError> {
        let (&kind, body) = frame
            .split_first()
            .ok_or(FrameError::Malformed("empty frame"))?;
        match kind {
            HELLO if body.len() > MAX_TEXT => Err(FrameError::Malformed("hello is too large")),
            HELLO => StdioHello::parse_from_bytes(body)
                .map(Self::Hello)
                .map_err(|_| FrameError::Malformed("hello is not a StdioHello message")),
            REFUSED if body.len() > MAX_TEXT => Err(FrameError::Malformed("refusal is too large")),
            REFUSED => Ok(Self::Refused(String::from_utf8_lossy(body).into_owned())),
            ACCEPTED => exact_offset(body).map(Self::Accepted),
            ACK => exact_offset(body).map(Self::Ack),
            EOF => exact_offset(body).map(Self::Eof),
            DATA => match Self::data(frame)? {
                Some((offset, bytes)) => Ok(Self::Data(offset, bytes.to_vec())),
                None => Err(FrameError::Malformed("unknown frame type")),
            },
            _ => Err(FrameError::Malformed("unknown frame type")),
        }
    }

    /// The offset and bytes of a `Data` frame, without copying them; `None` for
    /// every other frame. Checked as [`Frame::decode`] does.
    ///
    /// # Errors
    /// [`FrameError::Malformed`] for data out of its bounds.
    pub fn data(frame: &[u8]) -> Result<Option<(u64, &[u8])>, FrameError> {
        let Some((&DATA, body)) = frame.split_first() else {
            return Ok(None);
        };
        let (offset, bytes) = body
            .split_first_chunk::<8>()
            .ok_or(FrameError::Malformed("data without an offset"))?;
        if bytes.is_empty() || bytes.len() > MAX_DATA {
            return Err(FrameError::Malformed("data of a length out of bounds"));
        }
        let offset = u64::from_le_bytes(*offset);
        if offset.checked_add(bytes.len() as u64).is_none() {
            return Err(FrameError::Malformed("data past the largest offset"));
        }
        Ok(Some((offset, bytes)))
    }

    /// Reads one frame; `None` when the connection ended between two frames.
    ///
    /// # Errors
    /// [`FrameError`], after which the connection is of no further use.
    pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<Self>, FrameError> {
        let mut len = [0_u8; 4];
        let first = from.read(&mut len).await?;
        if first == 0 {
            return Ok(None);
        }
        if let Some(rest) = len.get_mut(first..) {
            from.read_exact(rest).await?;
        }
        let len = u32::from_le_bytes(len) as usize;
        if len == 0 || len > MAX_FRAME {
            return Err(FrameError::Malformed("frame of a length out of bounds"));
        }
        let mut frame = vec![0_u8; len];
        from.read_exact(&mut frame).await?;
        Self::decode(&frame).map(Some)
    }

    /// Writes the frame whole.
    ///
    /// # Errors
    /// [`FrameError`], after which the connection is of no further use.
    pub async fn write(&self, to: &mut (impl AsyncWrite + Unpin)) -> Result<(), FrameError> {
        to.write_all(&self.encode()?).await?;
        Ok(())
    }
}

fn exact_offset(body: &[u8]) -> Result<u64, FrameError> {
    let bytes: [u8; 8] = body
        .try_into()
        .map_err(|_| FrameError::Malformed("frame without its offset"))?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_frame() -> impl Strategy<Value = Frame> {
        prop_oneof![
            ("[a-z0-9]{0,64}", any::<u64>()).prop_map(|(id, offset)| {
                Frame::Hello(StdioHello {
                    container_id: id,
                    offset,
                    ..Default::default()
                })
            }),
            any::<u64>().prop_map(Frame::Accepted),
            ".{0,100}".prop_map(Frame::Refused),
            (
                0..u64::MAX / 2,
                proptest::collection::vec(any::<u8>(), 1..5000)
            )
                .prop_map(|(offset, bytes)| Frame::Data(offset, bytes)),
            any::<u64>().prop_map(Frame::Ack),
            any::<u64>().prop_map(Frame::Eof),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(frames in proptest::collection::vec(any_frame(), 0..8)) {
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let mut wire = Vec::new();
                for frame in &frames {
                    frame.write(&mut wire).await.unwrap();
                }
                let mut from = wire.as_slice();
                for frame in &frames {
                    assert_eq!(Frame::read(&mut from).await.unwrap().as_ref(), Some(frame));
                }
                assert!(Frame::read(&mut from).await.unwrap().is_none());
            });
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Frame::decode(&bytes);
        }
    }

    #[test]
    fn heads_written_apart_are_the_same_frames() {
        let mut wire = Vec::new();
        Frame::encode_data_header(7, 3, &mut wire);
        wire.extend_from_slice(b"abc");
        assert_eq!(wire, Frame::Data(7, b"abc".to_vec()).encode().unwrap());
        wire.clear();
        Frame::encode_eof(9, &mut wire);
        assert_eq!(wire, Frame::Eof(9).encode().unwrap());
    }

    #[test]
    fn lengths_out_of_bounds_are_refused_before_anything_is_allocated() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        for len in [0_u32, u32::try_from(MAX_FRAME).unwrap() + 1, u32::MAX] {
            let wire = len.to_le_bytes();
            let got = runtime.block_on(Frame::read(&mut wire.as_slice()));
            assert!(
                matches!(got, Err(FrameError::Malformed(_))),
                "{len}: {got:?}"
            );
        }
        assert!(Frame::Data(0, vec![0; MAX_DATA + 1]).encode().is_err());
        assert!(Frame::decode(&[DATA, 0, 0, 0, 0, 0, 0, 0, 0]).is_err());
    }
}
