//! The CRI log format: kubelet's `pkg/kubelet/kuberuntime/logs`, in
//! kubernetes/cri-client `pkg/logs/logs.go`.

use crate::spec::Stream;

/// Most content bytes of one log line; what is longer is split. containerd's
/// default, which log shippers expect.
pub const MAX_CONTENT: usize = 16 << 10;
/// Length of a timestamp: RFC 3339 in UTC with nine decimals.
pub const TIMESTAMP_LEN: usize = 30;
/// Longest line that [`Splitter`] writes, newline included:
/// `timestamp ' ' stream ' ' tag ' ' content '\n'`.
pub const MAX_LINE: usize = TIMESTAMP_LEN + 1 + 6 + 1 + 1 + 1 + MAX_CONTENT + 1;

/// Both streams, in the order that arrays in this module are indexed.
pub const STREAMS: [Stream; 2] = [Stream::Stdout, Stream::Stderr];

/// Index of a stream in such arrays.
#[must_use]
pub fn index(stream: Stream) -> usize {
    match stream {
        Stream::Stdout => 0,
        Stream::Stderr => 1,
    }
}

fn name(stream: Stream) -> &'static [u8] {
    match stream {
        Stream::Stdout => b"stdout",
        Stream::Stderr => b"stderr",
    }
}

/// `2026-08-22T10:00:00.123456789Z` for a Unix time in ns. Times before 1970 or
/// after 9999 are clamped.
#[must_use]
pub fn timestamp(unix_ns: i64) -> [u8; TIMESTAMP_LEN] {
    const MAX_SECONDS: u64 = 253_402_300_799; // 9999-12-31T23:59:59Z
    let ns = unix_ns.max(0).unsigned_abs();
    let seconds = (ns / 1_000_000_000).min(MAX_SECONDS);
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let mut out = *b"0000-00-00T00:00:00.000000000Z";
    let mut put = |at: usize, width: usize, mut value: u64| {
        for slot in out.iter_mut().skip(at).take(width).rev() {
            *slot = b'0' + u8::try_from(value % 10).unwrap_or(0);
            value /= 10;
        }
    };
    put(0, 4, year);
    put(5, 2, month);
    put(8, 2, day);
    put(11, 2, of_day / 3600);
    put(14, 2, of_day / 60 % 60);
    put(17, 2, of_day % 60);
    put(20, 9, ns % 1_000_000_000);
    out
}

/// Year, month and day of a count of days since 1970-01-01, in the proleptic
/// Gregorian calendar: 400-year eras of years that begin in March.
fn civil(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468; // from 0000-03-01
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

/// Cuts one stream into log lines.
///
/// How the bytes arrive does not change the lines: a line ends at its newline,
/// or as `P` where [`MAX_CONTENT`] bytes have gone by and the next byte, once it
/// is known, is no newline.
#[derive(Debug, Default)]
pub struct Splitter {
    /// Content of a line that has not ended; at most [`MAX_CONTENT`] bytes.
    tail: Vec<u8>,
}

impl Splitter {
    /// Appends to `out` the lines that `data` completes.
    pub fn push(&mut self, stamp: &[u8], stream: Stream, mut data: &[u8], out: &mut Vec<u8>) {
        while !data.is_empty() {
            let room = MAX_CONTENT - self.tail.len();
            // One byte further than there is room for: it may be the newline.
            let window = data.get(..=room).unwrap_or(data);
            let (content, rest, tag) = match memchr::memchr(b'\n', window) {
                Some(at) => (at, at + 1, b'F'),
                None if data.len() > room => (room, room, b'P'),
                None => {
                    self.tail.extend_from_slice(data);
                    return;
                }
            };
            let (content, rest) = (
                data.get(..content).unwrap_or_default(),
                data.get(rest..).unwrap_or_default(),
            );
            line(stamp, stream, tag, &[&self.tail, content], out);
            self.tail.clear();
            data = rest;
        }
    }

    /// Appends what is left of a stream that has ended (or paused for good) as
    /// one `P` line, so that a reader prints it without a newline.
    pub fn flush(&mut self, stamp: &[u8], stream: Stream, out: &mut Vec<u8>) {
        if !self.tail.is_empty() {
            line(stamp, stream, b'P', &[&self.tail], out);
            self.tail = Vec::new();
        }
    }

    /// Bytes taken that are in no line yet.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.tail.len()
    }

    /// Forgets them.
    pub fn clear(&mut self) {
        self.tail = Vec::new();
    }
}

fn line(stamp: &[u8], stream: Stream, tag: u8, content: &[&[u8]], out: &mut Vec<u8>) {
    out.extend_from_slice(stamp);
    out.push(b' ');
    out.extend_from_slice(name(stream));
    out.extend_from_slice(&[b' ', tag, b' ']);
    for part in content {
        out.extend_from_slice(part);
    }
    out.push(b'\n');
}

/// A line of a log, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// The stream it belongs to.
    pub stream: Stream,
    /// Whether a newline ended it (`F`).
    pub full: bool,
    /// What stands between tag and newline.
    pub content: &'a [u8],
}

impl<'a> Line<'a> {
    /// Parses a line without its newline; `None` if it is not one of ours.
    #[must_use]
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let rest = line.get(TIMESTAMP_LEN..)?;
        let (stream, rest) = STREAMS.into_iter().find_map(|stream| {
            let rest = rest.strip_prefix(b" ")?.strip_prefix(name(stream))?;
            Some((stream, rest.strip_prefix(b" ")?))
        })?;
        let (full, content) = match rest {
            [b'F', b' ', content @ ..] => (true, content),
            [b'P', b' ', content @ ..] => (false, content),
            _ => return None,
        };
        Some(Self {
            stream,
            full,
            content,
        })
    }

    /// How many bytes of its stream the line stands for.
    #[must_use]
    pub fn payload(&self) -> u64 {
        self.content.len() as u64 + u64::from(self.full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const STAMP: &[u8] = b"2026-08-22T10:00:00.123456789Z";

    fn split(chunks: &[&[u8]]) -> String {
        let (mut splitter, mut out) = (Splitter::default(), Vec::new());
        for chunk in chunks {
            splitter.push(STAMP, Stream::Stdout, chunk, &mut out);
        }
        splitter.flush(STAMP, Stream::Stdout, &mut out);
        String::from_utf8(out)
            .unwrap()
            .replace("2026-08-22T10:00:00.123456789Z stdout ", "")
    }

    /// The bytes of one stream, read back out of a log.
    fn payload(log: &[u8], stream: Stream) -> Vec<u8> {
        let mut bytes = Vec::new();
        for raw in log.split_inclusive(|b| *b == b'\n') {
            let line = Line::parse(raw.strip_suffix(b"\n").unwrap()).unwrap();
            assert!(line.content.len() <= MAX_CONTENT && raw.len() <= MAX_LINE);
            if line.stream == stream {
                bytes.extend_from_slice(line.content);
                bytes.extend_from_slice(if line.full { b"\n" } else { b"" });
            }
        }
        bytes
    }

    #[test]
    fn timestamps_are_rfc_3339() {
        let at = |ns| String::from_utf8(timestamp(ns).to_vec()).unwrap();
        assert_eq!(at(0), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(
            at(951_827_696_000_000_001),
            "2000-02-29T12:34:56.000000001Z"
        );
        assert_eq!(
            at(1_787_392_800_123_456_789),
            "2026-08-22T10:00:00.123456789Z"
        );
        assert_eq!(at(-5), "1970-01-01T00:00:00.000000000Z");
        assert_eq!(at(i64::MAX), "2262-04-11T23:47:16.854775807Z");
    }

    #[test]
    fn lines_end_at_newlines_only_and_keep_every_other_byte() {
        assert_eq!(split(&[b"a\r\nb", b"c\n\n"]), "F a\r\nF bc\nF \n");
        assert_eq!(split(&[b"prompt> "]), "P prompt> \n");
        assert_eq!(split(&[]), "");
    }

    #[test]
    fn a_line_of_just_the_bound_is_whole_and_one_more_byte_splits_it() {
        let bound = "x".repeat(MAX_CONTENT);
        let whole = format!("{bound}\n");
        assert_eq!(split(&[whole.as_bytes()]), format!("F {bound}\n"));
        assert_eq!(split(&[bound.as_bytes(), b"\n"]), format!("F {bound}\n"));
        assert_eq!(
            split(&[bound.as_bytes(), b"y\n"]),
            format!("P {bound}\nF y\n")
        );
    }

    #[test]
    fn lines_of_others_are_not_ours() {
        for bad in [
            &b""[..],
            b"hello",
            b"2026-08-22T10:00:00.123456789Z stdin F x",
            b"2026-08-22T10:00:00.123456789Z stdout Q x",
            b"2026-08-22T10:00:00.123456789Z stdout F",
        ] {
            assert_eq!(Line::parse(bad), None);
        }
    }

    proptest! {
        #[test]
        fn arrival_does_not_change_the_lines_and_no_byte_is_lost(
            pieces in proptest::collection::vec(
                prop_oneof![
                    proptest::collection::vec(any::<u8>(), 0..40),
                    Just(b"\n".to_vec()),
                    (MAX_CONTENT - 2..MAX_CONTENT + 3).prop_map(|n| vec![b'z'; n]),
                ],
                0..12,
            ),
            cut in 1_usize..5000,
        ) {
            let stream: Vec<u8> = pieces.concat();
            let mut logs = Vec::new();
            for size in [cut, stream.len().max(1)] {
                let (mut splitter, mut out) = (Splitter::default(), Vec::new());
                for chunk in stream.chunks(size) {
                    splitter.push(STAMP, Stream::Stderr, chunk, &mut out);
                    prop_assert!(splitter.pending() <= MAX_CONTENT);
                }
                splitter.flush(STAMP, Stream::Stderr, &mut out);
                logs.push(out);
            }
            prop_assert_eq!(&logs[0], &logs[1]);
            prop_assert_eq!(payload(&logs[0], Stream::Stderr), stream);
        }
    }
}
