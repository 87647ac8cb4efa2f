//! Channels (`*.channel.k8s.io`): every message begins with the number of the
//! stream that its rest belongs to, one byte, or in the base64 variants one digit.
//!
//! v5 has a way to end one stream alone: channel 255 with the stream's number.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;

/// Standard input.
pub const STDIN: u8 = 0;
/// Standard output.
pub const STDOUT: u8 = 1;
/// Standard error.
pub const STDERR: u8 = 2;
/// How the session ended.
pub const ERROR: u8 = 3;
/// Terminal sizes.
pub const RESIZE: u8 = 4;
/// The end of another channel.
const CLOSE: u8 = 255;

/// Largest piece of a stream in one message, bytes.
pub const PIECE: usize = 48 << 10;

/// How a message's bytes are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// As they are, in binary messages.
    Binary,
    /// As base64 with padding, in text messages.
    Base64,
}

/// A dialect of the channels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dialect {
    /// How bytes are written.
    pub encoding: Encoding,
    /// Whether a stream can be ended alone (v5).
    pub half_close: bool,
}

/// What a message says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// Bytes of a stream.
    Data(u8, Bytes),
    /// A stream has ended.
    End(u8),
    /// Nothing.
    Empty,
}

/// A message that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message {0}")]
pub struct Fault(pub &'static str);

impl Dialect {
    /// Reads a message.
    ///
    /// # Errors
    /// [`Fault`] for what is no base64, or the end of nothing.
    pub fn read(self, mut message: Bytes) -> Result<Message, Fault> {
        if message.is_empty() {
            return Ok(Message::Empty);
        }
        let bytes = message.split_off(1);
        let first = message.first().copied().unwrap_or_default();
        let (channel, bytes) = match self.encoding {
            Encoding::Binary => (first, bytes),
            Encoding::Base64 => {
                let channel = first
                    .checked_sub(b'0')
                    .ok_or(Fault("that doesn't begin with a digit"))?;
                let bytes = STANDARD
                    .decode(bytes)
                    .map_err(|_| Fault("that is not base64"))?;
                (channel, bytes.into())
            }
        };
        match (channel, bytes.first()) {
            (CLOSE, Some(ended)) if self.half_close => Ok(Message::End(*ended)),
            (CLOSE, None) if self.half_close => Err(Fault("that ends no channel")),
            (_, None) => Ok(Message::Empty),
            (channel, Some(_)) => Ok(Message::Data(channel, bytes)),
        }
    }

    /// Writes a message: binary, or text for base64.
    #[must_use]
    pub fn write(self, channel: u8, bytes: &[u8]) -> Vec<u8> {
        let mut message = Vec::with_capacity(1 + bytes.len() * 4 / 3 + 4);
        match self.encoding {
            Encoding::Binary => {
                message.push(channel);
                message.extend_from_slice(bytes);
            }
            Encoding::Base64 => {
                message.push(b'0'.saturating_add(channel));
                message.extend_from_slice(STANDARD.encode(bytes).as_bytes());
            }
        }
        message
    }

    /// Writes the end of a channel.
    #[must_use]
    pub fn write_end(self, channel: u8) -> Option<Vec<u8>> {
        self.half_close.then(|| vec![CLOSE, channel])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const V5: Dialect = Dialect {
        encoding: Encoding::Binary,
        half_close: true,
    };
    const BASE64: Dialect = Dialect {
        encoding: Encoding::Base64,
        half_close: false,
    };

    fn read(dialect: Dialect, message: &[u8]) -> Result<Message, Fault> {
        dialect.read(Bytes::copy_from_slice(message))
    }

    #[test]
    fn messages_are_what_kubernetes_writes() {
        assert_eq!(V5.write(STDOUT, b"hi"), b"\x01hi");
        assert_eq!(BASE64.write(STDERR, b"hi"), b"2aGk=");
        assert_eq!(
            read(V5, b"\x00in").unwrap(),
            Message::Data(STDIN, Bytes::from_static(b"in"))
        );
        assert_eq!(
            read(BASE64, b"0aGk=").unwrap(),
            Message::Data(STDIN, Bytes::from_static(b"hi"))
        );
        assert_eq!(read(V5, b"\xff\x00").unwrap(), Message::End(STDIN));
        assert_eq!(V5.write_end(STDIN).unwrap(), b"\xff\x00");
        for empty in [&b""[..], b"\x00"] {
            assert_eq!(read(V5, empty).unwrap(), Message::Empty);
        }
        assert!(read(V5, b"\xff").is_err());
        assert!(read(BASE64, b"0?").is_err());
        assert!(read(BASE64, b" ").is_err());
        assert_eq!(BASE64.write_end(STDIN), None);
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            channel in 0..150_u8,
            bytes in proptest::collection::vec(any::<u8>(), 1..100),
        ) {
            for dialect in [V5, BASE64] {
                let read = read(dialect, &dialect.write(channel, &bytes)).unwrap();
                prop_assert_eq!(read, Message::Data(channel, bytes.clone().into()));
            }
        }
    }
}
