//! The line by which a host program says where it wants to: `CONNECT <port>\n`, the port in
//! decimal. The answer is `OK <host port>\n`, or the end of the stream.

/// Longest line, newline included: `CONNECT 4294967295\n`, and some blanks.
pub(crate) const LONGEST: usize = 32;

/// What the first bytes of a stream are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Line {
    /// The line has not ended yet.
    Incomplete,
    /// A line of `len` bytes that asks for `port`.
    Connect { port: u32, len: usize },
    /// No such line.
    Garbage,
}

/// Reads the line at the start of `bytes`, of which there are at most [`LONGEST`].
pub(crate) fn parse(bytes: &[u8]) -> Line {
    let Some(end) = bytes.iter().position(|&byte| byte == b'\n') else {
        return if bytes.len() < LONGEST {
            Line::Incomplete
        } else {
            Line::Garbage
        };
    };
    let port = std::str::from_utf8(&bytes[..end])
        .ok()
        .and_then(|line| line.trim_end_matches('\r').strip_prefix("CONNECT "))
        .map(str::trim)
        // Not every number that `parse` takes: no sign.
        .filter(|port| port.bytes().all(|byte| byte.is_ascii_digit()))
        .and_then(|port| port.parse().ok());
    match port {
        Some(port) => Line::Connect { port, len: end + 1 },
        None => Line::Garbage,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        assert_eq!(
            parse(b"CONNECT 1024\n"),
            Line::Connect {
                port: 1024,
                len: 13
            }
        );
        assert_eq!(
            parse(b"CONNECT 1024\r\nmore"),
            Line::Connect {
                port: 1024,
                len: 14
            }
        );
        assert_eq!(
            parse(b"CONNECT 4294967295\n"),
            Line::Connect {
                port: u32::MAX,
                len: 19
            }
        );
        assert_eq!(parse(b""), Line::Incomplete);
        assert_eq!(parse(b"CONNECT 10"), Line::Incomplete);
        assert_eq!(parse(&[b'C'; LONGEST]), Line::Garbage);
        for garbage in [
            "\n",
            "CONNECT\n",
            "CONNECT \n",
            "CONNECT x\n",
            "CONNECT +1\n",
            "connect 1\n",
            "CONNECT 4294967296\n",
        ] {
            assert_eq!(parse(garbage.as_bytes()), Line::Garbage, "{garbage:?}");
        }
        assert_eq!(parse(b"CONNECT \xff\n"), Line::Garbage);
    }
}
