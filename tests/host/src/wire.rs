//! What travels between `testhost exec` and `testhost serve`.
//!
//! One TCP connection is one command. The client opens with the host's token
//! and a [`Request`]; then frames go both ways until the server sends
//! [`Reply::Exit`] or [`Reply::Refused`] and closes. A client that goes away
//! takes its command with it.
//!
//! ```text
//!  +------+-----------------+---------------+
//!  | kind | length, 4 bytes | payload       |
//!  | 1 B  | big endian      | length bytes  |
//!  +------+-----------------+---------------+
//! ```

use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

/// The longest payload: a frame is read into memory as a whole.
const MAX_PAYLOAD: usize = 1 << 20;

/// How much of a stream travels in one frame.
pub(crate) const CHUNK: usize = 64 << 10;

/// A command to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Proof that the client may: the content of the host's token file.
    pub(crate) token: String,
    /// Program and arguments.
    pub(crate) argv: Vec<String>,
    /// Added to the server's own environment.
    pub(crate) env: Vec<(String, String)>,
    /// Working directory.
    pub(crate) cwd: String,
    /// Whether standard input will be sent; /dev/null otherwise.
    pub(crate) stdin: bool,
    /// Rows and columns of the client's terminal, for a command that wants one.
    pub(crate) terminal: Option<(u16, u16)>,
}

/// From the client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Call {
    /// The first frame.
    Start(Request),
    /// Standard input; empty at its end.
    Stdin(Vec<u8>),
    /// A signal for the command's process group.
    Signal(i32),
    /// The terminal's new rows and columns.
    Resize(u16, u16),
}

/// From the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Reply {
    Stdout(Vec<u8>),
    Stderr(Vec<u8>),
    /// The command took one [`Call::Stdin`]: the client may send another.
    Taken,
    /// The command ended: its status, or 128 plus the signal that ended it.
    Exit(i32),
    /// The command was never started.
    Refused(String),
}

impl Call {
    /// Sends one frame.
    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Start(request) => write_frame(out, b'R', &serde_json::to_vec(request)?),
            Self::Stdin(bytes) => write_frame(out, b'I', bytes),
            Self::Signal(signal) => write_frame(out, b'S', &signal.to_be_bytes()),
            Self::Resize(rows, columns) => {
                let [a, b] = rows.to_be_bytes();
                let [c, d] = columns.to_be_bytes();
                write_frame(out, b'W', &[a, b, c, d])
            }
        }
    }

    /// Receives one frame; `None` at the end of the connection.
    pub(crate) fn read(input: &mut impl Read) -> io::Result<Option<Self>> {
        let Some((kind, payload)) = read_frame(input)? else {
            return Ok(None);
        };
        let call = match (kind, payload.as_slice()) {
            (b'R', json) => Self::Start(serde_json::from_slice(json)?),
            (b'I', _) => Self::Stdin(payload),
            (b'S', bytes) => Self::Signal(i32::from_be_bytes(exact(bytes)?)),
            (b'W', &[a, b, c, d]) => {
                Self::Resize(u16::from_be_bytes([a, b]), u16::from_be_bytes([c, d]))
            }
            _ => return Err(malformed(kind)),
        };
        Ok(Some(call))
    }
}

impl Reply {
    /// Sends one frame.
    pub(crate) fn write(&self, out: &mut impl Write) -> io::Result<()> {
        match self {
            Self::Stdout(bytes) => write_frame(out, b'o', bytes),
            Self::Stderr(bytes) => write_frame(out, b'e', bytes),
            Self::Taken => write_frame(out, b't', &[]),
            Self::Exit(status) => write_frame(out, b'x', &status.to_be_bytes()),
            Self::Refused(reason) => write_frame(out, b'r', reason.as_bytes()),
        }
    }

    /// Receives one frame; `None` at the end of the connection.
    pub(crate) fn read(input: &mut impl Read) -> io::Result<Option<Self>> {
        let Some((kind, payload)) = read_frame(input)? else {
            return Ok(None);
        };
        let reply = match kind {
            b'o' => Self::Stdout(payload),
            b'e' => Self::Stderr(payload),
            b't' => Self::Taken,
            b'x' => Self::Exit(i32::from_be_bytes(exact(&payload)?)),
            b'r' => Self::Refused(String::from_utf8_lossy(&payload).into_owned()),
            _ => return Err(malformed(kind)),
        };
        Ok(Some(reply))
    }
}

fn write_frame(out: &mut impl Write, kind: u8, payload: &[u8]) -> io::Result<()> {
    let length = u32::try_from(payload.len())
        .ok()
        .filter(|_| payload.len() <= MAX_PAYLOAD)
        .ok_or_else(|| {
            io::Error::other(format!("{} bytes do not fit into one frame", payload.len()))
        })?;
    let mut frame = Vec::with_capacity(5 + payload.len());
    frame.push(kind);
    frame.extend(length.to_be_bytes());
    frame.extend(payload);
    out.write_all(&frame)
}

fn read_frame(input: &mut impl Read) -> io::Result<Option<(u8, Vec<u8>)>> {
    let mut kind = [0];
    loop {
        match input.read(&mut kind) {
            Ok(0) => return Ok(None),
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    let mut length = [0; 4];
    input.read_exact(&mut length)?;
    let length = usize::try_from(u32::from_be_bytes(length)).map_err(io::Error::other)?;
    if length > MAX_PAYLOAD {
        return Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("a frame of {length} bytes exceeds the limit of {MAX_PAYLOAD}"),
        ));
    }
    let mut payload = vec![0; length];
    input.read_exact(&mut payload)?;
    Ok(Some((kind[0], payload)))
}

fn exact(bytes: &[u8]) -> io::Result<[u8; 4]> {
    bytes
        .try_into()
        .map_err(|_| io::Error::from(io::ErrorKind::InvalidData))
}

fn malformed(kind: u8) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        format!("malformed frame of kind {:?}", char::from(kind)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request {
        Request {
            token: "t".into(),
            argv: vec!["echo".into(), "ä\n\"".into()],
            env: vec![("K".into(), "V=W".into())],
            cwd: "/".into(),
            stdin: true,
            terminal: Some((24, 80)),
        }
    }

    #[test]
    fn calls_survive_the_wire() {
        let calls = [
            Call::Start(request()),
            Call::Stdin(vec![0, 255, b'\n']),
            Call::Stdin(Vec::new()),
            Call::Signal(2),
            Call::Resize(50, 132),
        ];
        let mut bytes = Vec::new();
        for call in &calls {
            call.write(&mut bytes).unwrap();
        }
        let mut input = bytes.as_slice();
        for call in calls {
            assert_eq!(Call::read(&mut input).unwrap(), Some(call));
        }
        assert_eq!(Call::read(&mut input).unwrap(), None);
    }

    #[test]
    fn replies_survive_the_wire() {
        let replies = [
            Reply::Stdout(vec![7; CHUNK]),
            Reply::Stderr(Vec::new()),
            Reply::Taken,
            Reply::Exit(-1),
            Reply::Refused("no such file".into()),
        ];
        let mut bytes = Vec::new();
        for reply in &replies {
            reply.write(&mut bytes).unwrap();
        }
        let mut input = bytes.as_slice();
        for reply in replies {
            assert_eq!(Reply::read(&mut input).unwrap(), Some(reply));
        }
        assert_eq!(Reply::read(&mut input).unwrap(), None);
    }

    #[test]
    fn bad_frames_are_errors() {
        for bytes in [
            &b"Z\0\0\0\0"[..],    // unknown kind
            b"S\0\0\0\x01\x02",   // a signal of one byte
            b"I\xff\xff\xff\xff", // longer than the limit
            b"I\0\0\0\x04ab",     // cut short
            b"R\0\0\0\x02{}",     // a request without its fields
        ] {
            assert!(Call::read(&mut &bytes[..]).is_err(), "{bytes:?}");
        }
        assert!(
            Call::Stdin(vec![0; MAX_PAYLOAD + 1])
                .write(&mut Vec::new())
                .is_err()
        );
    }
}
