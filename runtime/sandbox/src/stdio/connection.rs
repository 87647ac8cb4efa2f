//! One connection of one output stream.
//!
//! Frames are read many at a time into one buffer and parsed in place, so that a
//! fast stream costs a read, a write and a copy per 256 KiB; the buffer grows
//! with the traffic and is given back when the stream is silent, so that a
//! thousand silent streams cost nothing.

use std::{io, ops::Range, time::Duration};

use bulkhead_agent_api::{
    STDIO_PORT,
    agent::{StdioHello, stdio_hello},
    stdio::{Frame, FrameError, MAX_FRAME},
};
use tokio::{net::UnixStream, time::timeout};

use crate::{
    agent::Dialer,
    spec::{ProcessId, Stream},
};

/// Smallest and largest reading buffer, bytes.
const BUFFER: (usize, usize) = (4 << 10, 256 << 10);
/// Longest time an agent may take to answer a `Hello`.
const ANSWER: Duration = Duration::from_secs(10);

/// Why a stream cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The agent says so: it knows no such process or stream.
    #[error("the guest agent refused the stream: {0}")]
    Refused(String),
    /// The connection failed; another may not.
    #[error(transparent)]
    Broken(#[from] FrameError),
}

impl From<io::Error> for OpenError {
    fn from(e: io::Error) -> Self {
        Self::Broken(e.into())
    }
}

/// Opens a stream and says hello; returns the connection and the offset that the
/// agent stands at.
///
/// # Errors
/// [`OpenError`].
pub async fn open(
    dialer: &Dialer,
    process: &ProcessId,
    stream: stdio_hello::Stream,
    offset: u64,
) -> Result<(UnixStream, u64), OpenError> {
    let mut connection = dialer.dial(STDIO_PORT).await?;
    let hello = Frame::Hello(StdioHello {
        container_id: process.container_id.clone(),
        exec_id: process.exec_id.clone(),
        stream: stream.into(),
        offset,
        ..Default::default()
    });
    let answer = async {
        hello.write(&mut connection).await?;
        Frame::read(&mut connection).await
    };
    match timeout(ANSWER, answer).await {
        Ok(Ok(Some(Frame::Accepted(at)))) => Ok((connection, at)),
        Ok(Ok(Some(Frame::Refused(why)))) => Err(OpenError::Refused(why)),
        Ok(Ok(Some(_))) => Err(FrameError::Malformed("no answer to a hello").into()),
        Ok(Ok(None)) => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        Ok(Err(e)) => Err(e.into()),
        Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
    }
}

/// A stream as the agent's contract names it.
#[must_use]
pub fn wire_stream(stream: Stream) -> stdio_hello::Stream {
    match stream {
        Stream::Stdout => stdio_hello::Stream::STDOUT,
        Stream::Stderr => stdio_hello::Stream::STDERR,
    }
}

/// Bytes of a stream, in order, and whether it ends behind them.
#[derive(Debug, Default)]
pub struct Batch {
    buffer: Vec<u8>,
    data: Vec<Range<usize>>,
    /// The stream has ended; no byte follows this batch.
    pub ended: bool,
}

impl Batch {
    /// The bytes, piece by piece.
    pub fn pieces(&self) -> impl Iterator<Item = &[u8]> {
        self.data
            .iter()
            .map(|range| self.buffer.get(range.clone()).unwrap_or_default())
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.data.iter().map(ExactSizeIterator::len).sum()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }
}

/// The daemon's end of an accepted output stream.
#[derive(Debug)]
pub struct OutputConnection {
    stream: UnixStream,
    buffer: Vec<u8>,
    capacity: usize,
    next: u64,
}

impl OutputConnection {
    /// Opens an output stream at `offset`; see [`OutputConnection::offset`] for
    /// where it really goes on.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(
        dialer: &Dialer,
        process: &ProcessId,
        stream: Stream,
        offset: u64,
    ) -> Result<Self, OpenError> {
        let (stream, next) = open(dialer, process, wire_stream(stream), offset).await?;
        if next < offset {
            return Err(FrameError::Malformed("a stream that goes back").into());
        }
        Ok(Self::new(stream, next))
    }

    fn new(stream: UnixStream, next: u64) -> Self {
        Self {
            stream,
            buffer: Vec::new(),
            capacity: BUFFER.0,
            next,
        }
    }

    /// Offset of the next byte.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.next
    }

    /// The next bytes, at least one or the end. Cancel safe: nothing is lost when
    /// the future is dropped.
    ///
    /// # Errors
    /// When the connection breaks, or the agent breaks the framing.
    pub async fn read(&mut self) -> Result<Batch, FrameError> {
        loop {
            self.stream.readable().await?;
            // At least one whole frame must fit, whatever is there of it.
            let wanted = self.capacity.max(missing(&self.buffer)?);
            self.buffer.reserve(wanted);
            match self.stream.try_read_buf(&mut self.buffer) {
                Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
                Ok(n) if n >= self.capacity => self.capacity = (self.capacity * 2).min(BUFFER.1),
                Ok(_) => {}
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
                Err(e) => return Err(e.into()),
            }
            let batch = self.take_whole_frames()?;
            if batch.ended || !batch.is_empty() {
                return Ok(batch);
            }
        }
    }

    /// Splits off the frames that are complete.
    fn take_whole_frames(&mut self) -> Result<Batch, FrameError> {
        let mut batch = Batch::default();
        let mut at = 0;
        while let Some(frame) = frame_at(&self.buffer, at)? {
            if batch.ended {
                return Err(FrameError::Malformed("something behind a stream's end"));
            }
            let body = self.buffer.get(frame.clone()).unwrap_or_default();
            if let Some((offset, bytes)) = Frame::data(body)? {
                if offset != self.next {
                    return Err(FrameError::Malformed("data out of order"));
                }
                self.next += bytes.len() as u64;
                batch.data.push(frame.end - bytes.len()..frame.end);
            } else {
                match Frame::decode(body)? {
                    Frame::Eof(offset) if offset == self.next => batch.ended = true,
                    Frame::Eof(_) => return Err(FrameError::Malformed("an end out of order")),
                    _ => return Err(FrameError::Malformed("a frame that has no place here")),
                }
            }
            at = frame.end;
        }
        if at > 0 {
            let rest = self.buffer.get(at..).unwrap_or_default().to_vec();
            batch.buffer = std::mem::replace(&mut self.buffer, rest);
        }
        Ok(batch)
    }

    /// The stream is silent: small buffers will do.
    pub fn rest(&mut self) {
        self.capacity = BUFFER.0;
        self.buffer.shrink_to_fit();
    }

    /// Acknowledges everything below `offset`.
    ///
    /// # Errors
    /// When the connection breaks.
    pub async fn acknowledge(&mut self, offset: u64) -> Result<(), FrameError> {
        Frame::Ack(offset).write(&mut self.stream).await
    }
}

/// How many bytes the frame at the buffer's beginning lacks.
fn missing(buffer: &[u8]) -> Result<usize, FrameError> {
    match buffer.first_chunk::<4>() {
        Some(len) => Ok((4 + frame_len(*len)?).saturating_sub(buffer.len())),
        None => Ok(4),
    }
}

fn frame_len(len: [u8; 4]) -> Result<usize, FrameError> {
    match u32::from_le_bytes(len) as usize {
        len @ 1..=MAX_FRAME => Ok(len),
        _ => Err(FrameError::Malformed("frame of a length out of bounds")),
    }
}

/// Where the frame whose length field is at `at` lies, without that field.
fn frame_at(buffer: &[u8], at: usize) -> Result<Option<Range<usize>>, FrameError> {
    let Some(len) = buffer.get(at..).and_then(<[u8]>::first_chunk::<4>) else {
        return Ok(None);
    };
    let frame = at + 4..at + 4 + frame_len(*len)?;
    Ok((frame.end <= buffer.len()).then_some(frame))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bulkhead_agent_api::stdio::MAX_DATA;
    use tokio::io::AsyncWriteExt as _;

    async fn received(wire: Vec<u8>, piece: usize) -> Result<(Vec<u8>, u64), FrameError> {
        let (mut agent, ours) = UnixStream::pair().unwrap();
        let writer = tokio::spawn(async move {
            for piece in wire.chunks(piece) {
                if agent.write_all(piece).await.is_err() {
                    return;
                }
                tokio::task::yield_now().await;
            }
        });
        let mut connection = OutputConnection::new(ours, 10);
        let mut bytes = Vec::new();
        let result = loop {
            match connection.read().await {
                Ok(batch) => {
                    bytes.extend(batch.pieces().flatten());
                    if batch.ended {
                        break Ok((bytes, connection.offset()));
                    }
                }
                Err(e) => break Err(e),
            }
        };
        writer.abort();
        result
    }

    fn wire(frames: &[Frame]) -> Vec<u8> {
        frames.iter().flat_map(|f| f.encode().unwrap()).collect()
    }

    #[tokio::test]
    async fn frames_arrive_whole_however_they_are_cut() {
        let big: Vec<u8> = (0..MAX_DATA)
            .map(|n| u8::try_from(n % 251).unwrap())
            .collect();
        let mut frames = vec![Frame::Data(10, b"hello".to_vec())];
        for n in 0..9 {
            frames.push(Frame::Data(15 + n * MAX_DATA as u64, big.clone()));
        }
        frames.push(Frame::Eof(15 + 9 * MAX_DATA as u64));
        let expected = [b"hello".to_vec(), big.repeat(9)].concat();
        for piece in [7, 4096, 70_000, 1 << 20] {
            let (bytes, offset) = received(wire(&frames), piece).await.unwrap();
            assert!(bytes == expected, "in pieces of {piece}");
            assert_eq!(offset, 10 + expected.len() as u64);
        }
    }

    #[tokio::test]
    async fn an_agent_that_breaks_the_order_is_cut_off() {
        for bad in [
            vec![Frame::Data(11, b"x".to_vec())],
            vec![
                Frame::Data(10, b"x".to_vec()),
                Frame::Data(10, b"x".to_vec()),
            ],
            vec![Frame::Eof(9)],
            vec![Frame::Eof(10), Frame::Data(10, b"x".to_vec())],
            vec![Frame::Accepted(10)],
        ] {
            let got = received(wire(&bad), 1 << 20).await;
            assert!(
                matches!(got, Err(FrameError::Malformed(_))),
                "{bad:?}: {got:?}"
            );
        }
        let got = received(u32::MAX.to_le_bytes().to_vec(), 4).await;
        assert!(matches!(got, Err(FrameError::Malformed(_))));
        let cut = wire(&[Frame::Data(10, b"xyz".to_vec())]);
        let got = received(cut[..9].to_vec(), 100).await;
        assert!(got.is_err());
    }
}
