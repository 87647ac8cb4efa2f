//! Frames (SPDY/3.1, section 2.2).
//!
//! ```text
//!  control: 1 | version 15 | type 16 | flags 8 | length 24 | payload
//!  data:    0 | stream 31            | flags 8 | length 24 | bytes
//! ```
//!
//! A control frame is taken whole, since it is small or refused. A data frame is
//! handed on piece by piece as it comes: its length, up to 16 MiB, allocates
//! nothing.

use bytes::{Buf as _, BufMut as _, Bytes, BytesMut};

use super::Fault;

/// Bytes in front of every frame.
pub const HEADER: usize = 8;
/// Largest payload of a control frame. Real ones have a few hundred bytes.
pub const CONTROL_MAX: usize = 16 << 10;
/// Largest value that a length field holds.
pub const LENGTH_MAX: usize = (1 << 24) - 1;
/// Flag of the last frame of a stream in this direction.
pub const FIN: u8 = 1;
/// Largest stream id, and mask for the reserved bit before ids and deltas.
pub const ID_MAX: u32 = 0x7fff_ffff;

const VERSION: u16 = 3;
const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// Why a stream ends before its time (section 2.6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// The stream was refused before anything was done for it.
    Refused,
    /// Its creator or reader wants no more of it.
    Cancel,
}

impl Status {
    fn code(self) -> u32 {
        match self {
            Self::Refused => 3,
            Self::Cancel => 5,
        }
    }
}

/// What a peer sent, header blocks still compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Opens a stream.
    SynStream {
        /// The stream.
        id: u32,
        /// No data follow in this direction.
        fin: bool,
        /// Header block.
        block: Bytes,
    },
    /// Accepts a stream.
    SynReply {
        /// The stream.
        id: u32,
        /// No data follow in this direction.
        fin: bool,
        /// Header block.
        block: Bytes,
    },
    /// Ends a stream at once in both directions.
    Reset {
        /// The stream.
        id: u32,
    },
    /// Asks for, or is, the same frame back.
    Ping(u32),
    /// No streams are accepted any more.
    GoAway,
    /// More headers of a stream.
    Headers {
        /// The stream.
        id: u32,
        /// No data follow in this direction.
        fin: bool,
        /// Header block.
        block: Bytes,
    },
    /// A piece of a data frame; possibly empty when `fin`.
    Data {
        /// The stream.
        id: u32,
        /// The frame's last piece, and the stream's last frame.
        fin: bool,
        /// The bytes.
        bytes: Bytes,
    },
    /// Something that asks for nothing: settings, window updates, frames of kinds
    /// that are unknown here.
    Other,
}

/// Takes frames out of bytes.
#[derive(Debug, Default)]
pub struct Decoder {
    /// What is left of the data frame that has begun.
    data: Option<DataLeft>,
}

#[derive(Clone, Copy, Debug)]
struct DataLeft {
    id: u32,
    fin: bool,
    left: usize,
}

impl Decoder {
    /// The next frame, taken from the front of `input`; `None` until more has come.
    ///
    /// # Errors
    /// [`Fault`] for another version, a control frame over [`CONTROL_MAX`], or one
    /// too short for its kind.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Option<Frame>, Fault> {
        if let Some(data) = self.data {
            return Ok(self.piece(data, input));
        }
        let Some(header) = input.first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let [a, b, c, d, flags, x, y, z] = *header;
        let word = u32::from_be_bytes([a, b, c, d]);
        let length = u32::from_be_bytes([0, x, y, z]) as usize;
        if word > ID_MAX {
            return self.control(word, flags, length, input);
        }
        if word == 0 {
            return Err(Fault("data of stream 0"));
        }
        input.advance(HEADER);
        let data = DataLeft {
            id: word,
            fin: flags & FIN != 0,
            left: length,
        };
        Ok(self.piece(data, input))
    }

    /// What there is of a data frame.
    fn piece(&mut self, data: DataLeft, input: &mut BytesMut) -> Option<Frame> {
        let len = data.left.min(input.len());
        let left = data.left - len;
        if len == 0 && left > 0 {
            self.data = Some(data);
            return None;
        }
        self.data = (left > 0).then_some(DataLeft { left, ..data });
        Some(Frame::Data {
            id: data.id,
            fin: data.fin && left == 0,
            bytes: input.split_to(len).freeze(),
        })
    }

    fn control(
        &mut self,
        word: u32,
        flags: u8,
        length: usize,
        input: &mut BytesMut,
    ) -> Result<Option<Frame>, Fault> {
        if (word >> 16) & 0x7fff != u32::from(VERSION) {
            return Err(Fault("a control frame of another version"));
        }
        if length > CONTROL_MAX {
            return Err(Fault("a control frame that is too large"));
        }
        if input.len() < HEADER + length {
            return Ok(None);
        }
        input.advance(HEADER);
        let payload = input.split_to(length).freeze();
        parse((word & 0xffff) as u16, flags, payload).map(Some)
    }
}

fn parse(kind: u16, flags: u8, mut payload: Bytes) -> Result<Frame, Fault> {
    const SHORT: Fault = Fault("a control frame that is too short");
    let fin = flags & FIN != 0;
    let number = |payload: &mut Bytes| payload.try_get_u32().map_err(|_| SHORT);
    let id = |payload: &mut Bytes| match number(payload)? & ID_MAX {
        0 => Err(Fault("stream 0 in a frame that is about a stream")),
        id => Ok(id),
    };
    match kind {
        SYN_STREAM => {
            let id = id(&mut payload)?;
            // The associated stream, the priority and the slot, which mean nothing.
            payload.try_get_u32().map_err(|_| SHORT)?;
            payload.try_get_u16().map_err(|_| SHORT)?;
            let block = payload;
            Ok(Frame::SynStream { id, fin, block })
        }
        SYN_REPLY => {
            let id = id(&mut payload)?;
            let block = payload;
            Ok(Frame::SynReply { id, fin, block })
        }
        HEADERS => {
            let id = id(&mut payload)?;
            let block = payload;
            Ok(Frame::Headers { id, fin, block })
        }
        RST_STREAM => id(&mut payload).map(|id| Frame::Reset { id }),
        PING => payload.try_get_u32().map(Frame::Ping).map_err(|_| SHORT),
        GOAWAY => Ok(Frame::GoAway),
        // Nothing here waits for a window or follows a setting.
        SETTINGS | WINDOW_UPDATE => Ok(Frame::Other),
        _ => Ok(Frame::Other),
    }
}

fn control(out: &mut BytesMut, kind: u16, flags: u8, length: usize) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    // A length fits 24 bits: header blocks are small, the rest is fixed.
    let length = u32::try_from(length).unwrap_or_default();
    out.put_u32(u32::from(flags) << 24 | length & 0x00ff_ffff);
}

/// Writes a SYN_STREAM.
pub fn syn_stream(out: &mut BytesMut, id: u32, fin: bool, block: &[u8]) {
    control(out, SYN_STREAM, u8::from(fin) * FIN, 10 + block.len());
    out.put_u32(id);
    out.put_u32(0);
    out.put_u16(0);
    out.put_slice(block);
}

/// Writes a SYN_REPLY.
pub fn syn_reply(out: &mut BytesMut, id: u32, block: &[u8]) {
    control(out, SYN_REPLY, 0, 4 + block.len());
    out.put_u32(id);
    out.put_slice(block);
}

/// Writes a RST_STREAM.
pub fn reset(out: &mut BytesMut, id: u32, status: Status) {
    control(out, RST_STREAM, 0, 8);
    out.put_u32(id);
    out.put_u32(status.code());
}

/// Writes a PING.
pub fn ping(out: &mut BytesMut, id: u32) {
    control(out, PING, 0, 4);
    out.put_u32(id);
}

/// Writes a GOAWAY: `last` is the last stream of the peer's that was accepted.
pub fn go_away(out: &mut BytesMut, last: u32, protocol_error: bool) {
    control(out, GOAWAY, 0, 8);
    out.put_u32(last);
    out.put_u32(u32::from(protocol_error));
}

/// Writes a WINDOW_UPDATE; stream 0 is the whole connection.
pub fn window_update(out: &mut BytesMut, id: u32, delta: u32) {
    control(out, WINDOW_UPDATE, 0, 8);
    out.put_u32(id);
    out.put_u32(delta & ID_MAX);
}

/// Writes a data frame of at most [`LENGTH_MAX`] bytes; what is longer is cut.
pub fn data(out: &mut BytesMut, id: u32, fin: bool, bytes: &[u8]) {
    let bytes = bytes.get(..LENGTH_MAX).unwrap_or(bytes);
    let length = u32::try_from(bytes.len()).unwrap_or_default();
    out.put_u32(id & ID_MAX);
    out.put_u32(u32::from(u8::from(fin) * FIN) << 24 | length);
    out.put_slice(bytes);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// All frames of `wire`, fed in pieces of `step` bytes, data put together.
    fn decode(wire: &[u8], step: usize) -> Result<Vec<Frame>, Fault> {
        let (mut decoder, mut input) = (Decoder::default(), BytesMut::new());
        let mut frames: Vec<Frame> = Vec::new();
        for piece in wire.chunks(step) {
            input.extend_from_slice(piece);
            while let Some(frame) = decoder.decode(&mut input)? {
                frames.push(frame);
            }
        }
        Ok(frames)
    }

    #[test]
    fn frames_are_what_the_specification_draws() {
        let mut out = BytesMut::new();
        ping(&mut out, 1);
        assert_eq!(out.as_ref(), [0x80, 3, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1]);
        out.clear();
        data(&mut out, 5, true, b"ab");
        assert_eq!(out.as_ref(), [0, 0, 0, 5, 1, 0, 0, 2, b'a', b'b']);
        out.clear();
        reset(&mut out, 3, Status::Cancel);
        assert_eq!(
            out.as_ref(),
            [0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 3, 0, 0, 0, 5]
        );
        out.clear();
        syn_stream(&mut out, 1, true, b"xy");
        assert_eq!(
            out.as_ref(),
            [
                0x80, 3, 0, 1, 1, 0, 0, 12, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, b'x', b'y'
            ]
        );
    }

    #[test]
    fn frames_come_out_however_the_bytes_come_in() {
        let mut wire = BytesMut::new();
        let block = Bytes::from_static(b"block");
        syn_stream(&mut wire, 1, false, &block);
        syn_reply(&mut wire, 1, &block);
        data(&mut wire, 1, false, b"hello");
        data(&mut wire, 1, true, b"");
        window_update(&mut wire, 1, 9);
        reset(&mut wire, 1, Status::Refused);
        go_away(&mut wire, 1, false);
        for step in [1, 3, 8, 1000] {
            let frames = decode(&wire, step).unwrap();
            let text: Vec<u8> = frames
                .iter()
                .filter_map(|frame| match frame {
                    Frame::Data { bytes, .. } => Some(bytes.to_vec()),
                    _ => None,
                })
                .flatten()
                .collect();
            assert_eq!(text, b"hello", "{step}");
            let rest: Vec<_> = frames
                .into_iter()
                .filter(|frame| !matches!(frame, Frame::Data { fin: false, .. }))
                .collect();
            assert_eq!(
                rest,
                [
                    Frame::SynStream {
                        id: 1,
                        fin: false,
                        block: block.clone()
                    },
                    Frame::SynReply {
                        id: 1,
                        fin: false,
                        block: block.clone()
                    },
                    Frame::Data {
                        id: 1,
                        fin: true,
                        bytes: Bytes::new()
                    },
                    Frame::Other,
                    Frame::Reset { id: 1 },
                    Frame::GoAway,
                ]
            );
        }
    }

    #[test]
    fn what_is_out_of_bounds_is_refused_before_it_has_come() {
        let too_large = [0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff];
        assert!(decode(&too_large, 8).is_err());
        let version_2 = [0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1];
        assert!(decode(&version_2, 8).is_err());
        let short = [0x80, 3, 0, 1, 0, 0, 0, 4, 0, 0, 0, 1];
        assert!(decode(&short, 12).is_err());
        let stream_0 = [0, 0, 0, 0, 0, 0, 0, 0];
        assert!(decode(&stream_0, 8).is_err());
        // A data frame of 16 MiB is only as large as what has come of it.
        let begun = [0, 0, 0, 1, 0, 0xff, 0xff, 0xff, 7];
        let frames = decode(&begun, 9).unwrap();
        assert_eq!(
            frames,
            [Frame::Data {
                id: 1,
                fin: false,
                bytes: Bytes::from_static(&[7])
            }]
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            wire in proptest::collection::vec(any::<u8>(), 0..300),
            step in 1..50_usize,
        ) {
            let _ = decode(&wire, step);
        }
    }
}
