//! The header before every frame (`struct virtio_net_hdr_v1`, 5.1.6). Pure.
//!
//! ```text
//!    0      1         2        4          6            8             10
//!    |flags |gso_type |hdr_len |gso_size  |csum_start  |csum_offset  |num_buffers
//! ```

use super::{CSUM, HOST_ECN, HOST_TSO4, HOST_TSO6};

/// Bytes of it.
pub(crate) const HEADER: usize = 12;

/// Where `num_buffers` is.
pub(crate) const NUM_BUFFERS: usize = 10;

const NEEDS_CSUM: u8 = 1;

const GSO_NONE: u8 = 0;
const GSO_TCPV4: u8 = 1;
const GSO_TCPV6: u8 = 4;
const GSO_ECN: u8 = 0x80;

/// Why a frame of the driver is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bad {
    /// An offload that was not negotiated, or is not known.
    Offload,
    /// A checksum to fill in outside of the frame.
    Checksum,
    /// Segmentation without a segment size or a checksum.
    Segmentation,
}

/// Checks the header of a frame of `len` bytes that a driver with the features `negotiated`
/// sends (5.1.6.2); gives what the tap is told: only what was checked.
pub(crate) fn check(bytes: [u8; HEADER], len: usize, negotiated: u64) -> Result<[u8; HEADER], Bad> {
    let [flags, gso, a, b, c, d, e, f, g, h, _, _] = bytes;
    let hdr_len = u16::from_le_bytes([a, b]);
    let gso_size = u16::from_le_bytes([c, d]);
    let csum_start = u16::from_le_bytes([e, f]);
    let csum_offset = u16::from_le_bytes([g, h]);

    let checksum = flags & NEEDS_CSUM != 0;
    if checksum {
        if negotiated & CSUM == 0 {
            return Err(Bad::Offload);
        }
        if usize::from(csum_start) + usize::from(csum_offset) + 2 > len {
            return Err(Bad::Checksum);
        }
    }
    let needs = match gso & !GSO_ECN {
        GSO_NONE if gso == GSO_NONE => 0,
        GSO_TCPV4 => HOST_TSO4,
        GSO_TCPV6 => HOST_TSO6,
        _ => return Err(Bad::Offload),
    } | if gso & GSO_ECN != 0 { HOST_ECN } else { 0 };
    if negotiated & needs != needs {
        return Err(Bad::Offload);
    }
    if gso != GSO_NONE && (gso_size == 0 || !checksum) {
        return Err(Bad::Segmentation);
    }

    // The length is a hint (5.1.6.2); what is beyond the frame would make the tap refuse it.
    let hdr_len = hdr_len.min(u16::try_from(len).unwrap_or(u16::MAX));
    let mut out = [0; HEADER];
    out[1] = gso;
    out[2..4].copy_from_slice(&hdr_len.to_le_bytes());
    if gso != GSO_NONE {
        out[4..6].copy_from_slice(&[c, d]);
    }
    if checksum {
        out[0] = NEEDS_CSUM;
        out[6..10].copy_from_slice(&[e, f, g, h]);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ALL: u64 = CSUM | HOST_TSO4 | HOST_TSO6 | HOST_ECN;

    fn header(flags: u8, gso: u8, hdr_len: u16, gso_size: u16, csum: (u16, u16)) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        bytes[0] = flags;
        bytes[1] = gso;
        bytes[2..4].copy_from_slice(&hdr_len.to_le_bytes());
        bytes[4..6].copy_from_slice(&gso_size.to_le_bytes());
        bytes[6..8].copy_from_slice(&csum.0.to_le_bytes());
        bytes[8..10].copy_from_slice(&csum.1.to_le_bytes());
        bytes
    }

    #[test]
    fn what_was_negotiated_passes() {
        let plain = header(0, 0, 0, 0, (0, 0));
        assert_eq!(check(plain, 60, 0), Ok(plain));
        let checksum = header(1, 0, 0, 0, (34, 16));
        assert_eq!(check(checksum, 60, CSUM), Ok(checksum));
        let tso = header(1, 1, 54, 1448, (34, 16));
        assert_eq!(check(tso, 9000, CSUM | HOST_TSO4), Ok(tso));
        let ecn = header(1, 0x84, 74, 1428, (54, 16));
        assert_eq!(check(ecn, 9000, ALL), Ok(ecn));
    }

    #[test]
    fn what_was_not_is_dropped() {
        assert_eq!(
            check(header(1, 0, 0, 0, (34, 16)), 60, 0),
            Err(Bad::Offload)
        );
        assert_eq!(
            check(header(1, 1, 54, 1448, (34, 16)), 9000, CSUM),
            Err(Bad::Offload)
        );
        assert_eq!(
            check(header(1, 0x81, 54, 1448, (34, 16)), 9000, CSUM | HOST_TSO4),
            Err(Bad::Offload)
        );
        for gso in [2, 3, 5, 0x80, 0xff] {
            assert_eq!(
                check(header(1, gso, 54, 1448, (34, 16)), 9000, ALL),
                Err(Bad::Offload),
                "{gso}"
            );
        }
    }

    #[test]
    fn what_lies_outside_of_the_frame_is_dropped() {
        assert_eq!(
            check(header(1, 0, 0, 0, (58, 1)), 60, ALL),
            Err(Bad::Checksum)
        );
        assert!(check(header(1, 0, 0, 0, (58, 0)), 60, ALL).is_ok());
        assert_eq!(
            check(header(1, 0, 0, 0, (u16::MAX, u16::MAX)), 60, ALL),
            Err(Bad::Checksum)
        );
        assert_eq!(
            check(header(1, 1, 54, 0, (34, 16)), 9000, ALL),
            Err(Bad::Segmentation)
        );
        assert_eq!(
            check(header(0, 1, 54, 1448, (34, 16)), 9000, ALL),
            Err(Bad::Segmentation)
        );
        // Lengths are cut, flags that are for the driver only are not passed on.
        assert_eq!(
            check(header(6, 0, 999, 7, (9, 9)), 60, ALL),
            Ok(header(0, 0, 60, 0, (0, 0)))
        );
    }

    proptest! {
        #[test]
        fn what_passes_is_sound(bytes: [u8; HEADER], len in 14usize..65553, features: u64) {
            if let Ok(out) = check(bytes, len, features) {
                prop_assert_eq!(check(out, len, features), Ok(out));
                let start = usize::from(u16::from_le_bytes([out[6], out[7]]));
                let offset = usize::from(u16::from_le_bytes([out[8], out[9]]));
                prop_assert!(out[0] == 0 || start + offset + 2 <= len);
                prop_assert!(usize::from(u16::from_le_bytes([out[2], out[3]])) <= len);
                prop_assert!(out[1] == 0 || (out[0] == 1 && out[4..6] != [0, 0]));
            }
        }
    }
}
