//! PAX extended headers: records of `LENGTH KEY=VALUE\n`.
//!
//! Source: POSIX.1-2024 pax, "pax Extended Header"; the GNU tar manual, "Storing
//! Sparse Files"; star's `SCHILY.xattr.` namespace for extended attributes.
//! Keys that say nothing about a file in a container image (access times, user
//! names, comments) are skipped. Values may hold any byte.

use crate::error::ArchiveFault;

const XATTR_PREFIX: &[u8] = b"SCHILY.xattr.";

/// What one extended header says about the entry that follows it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Pax {
    pub(super) path: Option<Vec<u8>>,
    pub(super) link: Option<Vec<u8>>,
    pub(super) size: Option<u64>,
    pub(super) uid: Option<i64>,
    pub(super) gid: Option<i64>,
    pub(super) mtime: Option<(i64, u32)>,
    /// Names without `SCHILY.xattr.`, and values, in the order of the archive.
    pub(super) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: PaxSparse,
}

/// GNU's three ways to describe a sparse file in PAX.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct PaxSparse {
    pub(super) major: Option<u64>,
    pub(super) minor: Option<u64>,
    pub(super) name: Option<Vec<u8>>,
    pub(super) real_size: Option<u64>,
    /// `GNU.sparse.map` (0.1), or the pairs of 0.0, as offset, length, ….
    pub(super) map: Vec<u64>,
    pub(super) has_map: bool,
}

impl Pax {
    /// Parses the payload of one extended header. `map_max` bounds the numbers
    /// in a sparse map.
    pub(super) fn parse(mut bytes: &[u8], map_max: usize) -> Result<Self, ArchiveFault> {
        let mut pax = Self::default();
        while !bytes.is_empty() {
            let (key, value, rest) = record(bytes).ok_or(ArchiveFault::Pax)?;
            pax.take(key, value, map_max)?;
            bytes = rest;
        }
        Ok(pax)
    }

    fn take(&mut self, key: &[u8], value: &[u8], map_max: usize) -> Result<(), ArchiveFault> {
        // An empty value means "as if this record were not there"; of an
        // extended attribute it is a value like any other.
        if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
            self.xattrs.push((name.to_vec(), value.to_vec()));
            return Ok(());
        }
        let present = !value.is_empty();
        let unsigned = |field| decimal(value).ok_or(ArchiveFault::Number(field));
        match key {
            b"path" => self.path = present.then(|| value.to_vec()),
            b"linkpath" => self.link = present.then(|| value.to_vec()),
            b"size" if present => self.size = Some(unsigned("size")?),
            b"uid" if present => self.uid = Some(integer(value, "uid")?),
            b"gid" if present => self.gid = Some(integer(value, "gid")?),
            b"mtime" if present => {
                self.mtime = Some(time(value).ok_or(ArchiveFault::Number("mtime"))?);
            }
            b"GNU.sparse.major" => self.sparse.major = Some(unsigned("sparse.major")?),
            b"GNU.sparse.minor" => self.sparse.minor = Some(unsigned("sparse.minor")?),
            b"GNU.sparse.name" => self.sparse.name = present.then(|| value.to_vec()),
            b"GNU.sparse.size" | b"GNU.sparse.realsize" => {
                self.sparse.real_size = Some(unsigned("sparse.size")?);
            }
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                // 0.0: offset and length by turns.
                let is_length = key == b"GNU.sparse.numbytes";
                if is_length != (self.sparse.map.len() % 2 == 1) || self.sparse.map.len() >= map_max
                {
                    return Err(ArchiveFault::Sparse);
                }
                self.sparse.has_map = true;
                self.sparse.map.push(unsigned("sparse.offset")?);
            }
            b"GNU.sparse.map" => {
                self.sparse.has_map = true;
                self.sparse.map.clear();
                for number in value.split(|&byte| byte == b',').filter(|_| present) {
                    if self.sparse.map.len() >= map_max {
                        return Err(ArchiveFault::Sparse);
                    }
                    self.sparse
                        .map
                        .push(decimal(number).ok_or(ArchiveFault::Sparse)?);
                }
            }
            _ => {}
        }
        Ok(())
    }
}

/// Splits off the first record: its key, its value, and what follows.
fn record(bytes: &[u8]) -> Option<(&[u8], &[u8], &[u8])> {
    // The length counts itself, the space and the newline.
    let space = bytes.iter().take(20).position(|&byte| byte == b' ')?;
    let length = usize::try_from(decimal(&bytes[..space])?).ok()?;
    if length > bytes.len() || length < space + 2 || bytes[length - 1] != b'\n' {
        return None;
    }
    let body = &bytes[space + 1..length - 1];
    let equals = body.iter().position(|&byte| byte == b'=')?;
    (equals > 0).then(|| (&body[..equals], &body[equals + 1..], &bytes[length..]))
}

/// Decimal digits only, at least one.
pub(super) fn decimal(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |value, digit| match digit {
        b'0'..=b'9' => value.checked_mul(10)?.checked_add(u64::from(digit - b'0')),
        _ => None,
    })
}

fn integer(text: &[u8], field: &'static str) -> Result<i64, ArchiveFault> {
    let (negative, digits) = match text.strip_prefix(b"-") {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let value = decimal(digits).and_then(|value| i64::try_from(value).ok());
    let value = value.ok_or(ArchiveFault::Number(field))?;
    Ok(if negative { -value } else { value })
}

/// Seconds with an optional fraction; nanoseconds always count forward.
fn time(text: &[u8]) -> Option<(i64, u32)> {
    let negative = text.starts_with(b"-");
    let text = text.strip_prefix(b"-").unwrap_or(text);
    let mut parts = text.splitn(2, |&byte| byte == b'.');
    let seconds = i64::try_from(decimal(parts.next()?)?).ok()?;
    let mut nanos = 0u32;
    if let Some(fraction) = parts.next() {
        if !fraction.iter().all(u8::is_ascii_digit) {
            return None;
        }
        // Digits past the ninth are cut off.
        for place in 0..9 {
            let digit = fraction
                .get(place)
                .map_or(0, |digit| u32::from(digit - b'0'));
            nanos = nanos * 10 + digit;
        }
    }
    match (negative, nanos) {
        (false, _) => Some((seconds, nanos)),
        (true, 0) => Some((-seconds, 0)),
        (true, _) => Some((-seconds - 1, 1_000_000_000 - nanos)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::record as record_of;

    fn parse(bytes: &[u8]) -> Result<Pax, ArchiveFault> {
        Pax::parse(bytes, 100)
    }

    #[test]
    fn records() {
        let pax = parse(b"12 path=a b\n17 size=12345678\n10 uid=-5\n").unwrap();
        assert_eq!(pax.path.as_deref(), Some(&b"a b"[..]));
        assert_eq!(pax.size, Some(12_345_678));
        assert_eq!(pax.uid, Some(-5));
    }

    #[test]
    fn values_hold_any_byte() {
        let pax = parse(&record_of(b"SCHILY.xattr.user.a", b"\n\0=")).unwrap();
        assert_eq!(pax.xattrs, [(b"user.a".to_vec(), b"\n\0=".to_vec())]);
    }

    #[test]
    fn an_empty_path_is_no_path() {
        assert_eq!(parse(b"8 path=\n").unwrap().path, None);
    }

    #[test]
    fn times() {
        assert_eq!(time(b"12"), Some((12, 0)));
        assert_eq!(time(b"12.5"), Some((12, 500_000_000)));
        assert_eq!(time(b"12.1234567899"), Some((12, 123_456_789)));
        assert_eq!(time(b"-1.25"), Some((-2, 750_000_000)));
        assert_eq!(time(b"-1"), Some((-1, 0)));
        assert_eq!(time(b"12."), Some((12, 0)));
        assert_eq!(time(b"x"), None);
        assert_eq!(time(b"1.x"), None);
        assert_eq!(time(b""), None);
    }

    #[test]
    fn lies_are_refused() {
        for bad in [
            &b"0 a=b\n"[..],
            b"999 a=b\n",
            b"6 a=b",
            b" a=b\n",
            b"5 =b\n",
            b"99999999999999999999 a=b\n",
            b"5 ab\n",
        ] {
            assert_eq!(parse(bad), Err(ArchiveFault::Pax), "{}", bad.escape_ascii());
        }
    }

    #[test]
    fn sparse_maps() {
        let pax = parse(b"28 GNU.sparse.map=0,5,10,15\n").unwrap();
        assert_eq!(pax.sparse.map, [0, 5, 10, 15]);
        let pax = parse(b"22 GNU.sparse.offset=1\n24 GNU.sparse.numbytes=2\n");
        assert_eq!(pax, Err(ArchiveFault::Pax));
        let pax = parse(b"23 GNU.sparse.offset=1\n25 GNU.sparse.numbytes=2\n").unwrap();
        assert_eq!(pax.sparse.map, [1, 2]);
        assert_eq!(
            Pax::parse(b"28 GNU.sparse.map=0,5,10,15\n", 3),
            Err(ArchiveFault::Sparse)
        );
    }
}
