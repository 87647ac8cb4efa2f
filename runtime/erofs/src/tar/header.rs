//! One 512-byte tar header.
//!
//! Source: POSIX.1-2024 pax, "ustar Interchange Format", and the GNU tar
//! manual, "Basic Tar Format". Fields by offset and length:
//!
//! ```text
//!   0 name 100   100 mode 8   108 uid 8   116 gid 8   124 size 12  136 mtime 12
//! 148 chksum 8   156 type 1   157 linkname 100   257 magic 6   263 version 2
//! 265 uname 32   297 gname 32   329 devmajor 8   337 devminor 8
//! ustar: 345 prefix 155
//! star:  345 prefix 131, and "tar\0" at 508
//! gnu:   386 four sparse entries of 24, 482 isextended 1, 483 realsize 12
//! ```

use crate::error::ArchiveFault;

/// Bytes of a header, and the unit payloads are padded to.
pub(crate) const BLOCK: usize = 512;

/// A header block whose checksum holds.
pub(super) struct Header<'a>(pub(super) &'a [u8; BLOCK]);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Dialect {
    V7,
    Ustar,
    Star,
    Gnu,
}

impl<'a> Header<'a> {
    /// Checks the checksum: the sum of all bytes with the field itself taken as
    /// spaces. Some old archivers summed signed bytes.
    pub(super) fn new(block: &'a [u8; BLOCK]) -> Result<Self, ArchiveFault> {
        let stated = octal(&block[148..156]).ok_or(ArchiveFault::Checksum)?;
        let (mut unsigned, mut signed) = (0i64, 0i64);
        for (at, &byte) in block.iter().enumerate() {
            let byte = if (148..156).contains(&at) { b' ' } else { byte };
            unsigned += i64::from(byte);
            signed += i64::from(byte.cast_signed());
        }
        if stated == unsigned || stated == signed {
            Ok(Self(block))
        } else {
            Err(ArchiveFault::Checksum)
        }
    }

    fn dialect(&self) -> Dialect {
        match (&self.0[257..263], &self.0[263..265], &self.0[508..512]) {
            (b"ustar\0", _, b"tar\0") => Dialect::Star,
            (b"ustar\0", _, _) => Dialect::Ustar,
            (b"ustar ", b" \0", _) => Dialect::Gnu,
            _ => Dialect::V7,
        }
    }

    pub(super) fn kind(&self) -> u8 {
        self.0[156]
    }

    /// The name, with the prefix field where the dialect has one.
    pub(super) fn path(&self) -> Vec<u8> {
        let name = text(&self.0[..100]);
        let prefix = match self.dialect() {
            Dialect::Ustar => text(&self.0[345..500]),
            Dialect::Star => text(&self.0[345..476]),
            Dialect::V7 | Dialect::Gnu => b"",
        };
        if prefix.is_empty() {
            name.to_vec()
        } else {
            [prefix, b"/", name].concat()
        }
    }

    pub(super) fn link(&self) -> Vec<u8> {
        text(&self.0[157..257]).to_vec()
    }

    pub(super) fn mode(&self) -> Result<i64, ArchiveFault> {
        number(&self.0[100..108]).ok_or(ArchiveFault::Number("mode"))
    }

    pub(super) fn uid(&self) -> Result<i64, ArchiveFault> {
        number(&self.0[108..116]).ok_or(ArchiveFault::Number("uid"))
    }

    pub(super) fn gid(&self) -> Result<i64, ArchiveFault> {
        number(&self.0[116..124]).ok_or(ArchiveFault::Number("gid"))
    }

    pub(super) fn size(&self) -> Result<u64, ArchiveFault> {
        non_negative(&self.0[124..136]).ok_or(ArchiveFault::Number("size"))
    }

    pub(super) fn mtime(&self) -> Result<i64, ArchiveFault> {
        number(&self.0[136..148]).ok_or(ArchiveFault::Number("mtime"))
    }

    /// Device numbers; V7 has none.
    pub(super) fn device(&self) -> Result<(u64, u64), ArchiveFault> {
        if self.dialect() == Dialect::V7 {
            return Ok((0, 0));
        }
        let major = non_negative(&self.0[329..337]).ok_or(ArchiveFault::Number("devmajor"))?;
        let minor = non_negative(&self.0[337..345]).ok_or(ArchiveFault::Number("devminor"))?;
        Ok((major, minor))
    }

    /// The four sparse entries, whether more blocks of them follow, and the
    /// file's size (GNU's old sparse format).
    pub(super) fn gnu_sparse(&self) -> Result<(&'a [u8], bool, u64), ArchiveFault> {
        if self.dialect() != Dialect::Gnu {
            return Err(ArchiveFault::Sparse);
        }
        let size = non_negative(&self.0[483..495]).ok_or(ArchiveFault::Sparse)?;
        Ok((&self.0[386..482], self.0[482] != 0, size))
    }
}

/// A field up to its first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// A number, octal or GNU's base-256.
pub(super) fn number(field: &[u8]) -> Option<i64> {
    match field.first() {
        Some(first) if first & 0x80 != 0 => base256(field),
        _ => octal(field),
    }
}

pub(super) fn non_negative(field: &[u8]) -> Option<u64> {
    number(field).and_then(|value| u64::try_from(value).ok())
}

/// Octal digits, led by spaces or NULs and ended by them. Nothing at all is 0.
fn octal(field: &[u8]) -> Option<i64> {
    let blank = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field
        .iter()
        .position(|byte| !blank(byte))
        .unwrap_or(field.len());
    let field = &field[start..];
    let end = field.iter().position(blank).unwrap_or(field.len());
    field[..end]
        .iter()
        .try_fold(0i64, |value, digit| match digit {
            b'0'..=b'7' => value.checked_mul(8)?.checked_add(i64::from(digit - b'0')),
            _ => None,
        })
}

/// Two's complement, big-endian; the first byte's top bit only marks the form.
fn base256(field: &[u8]) -> Option<i64> {
    let (&first, rest) = field.split_first()?;
    let negative = first & 0x40 != 0;
    // 7 bits of the first byte, sign-extended from its bit 6.
    let head = if negative {
        i64::from(first | 0x80) - 0x100
    } else {
        i64::from(first & 0x7f)
    };
    rest.iter().try_fold(head, |value, &byte| {
        value.checked_mul(256)?.checked_add(i64::from(byte))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn octal_numbers() {
        assert_eq!(number(b"0000644\0"), Some(0o644));
        assert_eq!(number(b"   644 \0"), Some(0o644));
        assert_eq!(number(b"\0\0\0\0\0\0\0\0"), Some(0));
        assert_eq!(number(b"        "), Some(0));
        assert_eq!(number(b"777777777777"), Some(0o777_777_777_777));
        assert_eq!(number(b"12x\0"), None);
        assert_eq!(number(b"-1\0"), None);
    }

    #[test]
    fn base256_numbers() {
        assert_eq!(number(&[0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0]), Some(256));
        assert_eq!(number(&[0xff; 12]), Some(-1));
        assert_eq!(
            number(&[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe]),
            Some(-2)
        );
        assert_eq!(
            number(&[
                0x80, 0, 0, 0, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff
            ]),
            Some(i64::MAX)
        );
        assert_eq!(number(&[0x80, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0]), None);
        assert_eq!(non_negative(&[0xff; 12]), None);
    }

    #[test]
    fn checksum_is_required() {
        assert!(matches!(
            Header::new(&[b'x'; BLOCK]),
            Err(ArchiveFault::Checksum)
        ));
    }
}
