//! The packet header (`struct virtio_vsock_hdr`, 5.10.6), all little-endian.
//!
//! ```text
//!    0        8        16     20     24     28   30   32     36     40     44
//!    | src    | dst    | src  | dst  | len  |type| op |flags | buf_ | fwd_ | payload
//!    |   cid  |   cid  | port | port |      |    |    |      | alloc| cnt  | len bytes
//! ```

/// Bytes of a header.
pub(crate) const HEADER: usize = 44;

/// `VIRTIO_VSOCK_TYPE_STREAM`.
pub(crate) const STREAM: u16 = 1;

/// Most payload of a packet that we send: Linux's own bound.
pub(crate) const MAX_PAYLOAD: usize = 64 << 10;

/// In the flags of a [`Op::Shutdown`]: the sender receives no more.
pub(crate) const NO_RECEIVE: u32 = 1;
/// In the flags of a [`Op::Shutdown`]: the sender sends no more.
pub(crate) const NO_SEND: u32 = 2;
/// Both.
pub(crate) const CLOSED: u32 = NO_RECEIVE | NO_SEND;

/// What a packet is for (`enum virtio_vsock_op`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u16)]
pub(crate) enum Op {
    Request = 1,
    Response = 2,
    Reset = 3,
    Shutdown = 4,
    Data = 5,
    CreditUpdate = 6,
    CreditRequest = 7,
}

impl Op {
    pub(crate) fn from_raw(raw: u16) -> Option<Self> {
        Some(match raw {
            1 => Self::Request,
            2 => Self::Response,
            3 => Self::Reset,
            4 => Self::Shutdown,
            5 => Self::Data,
            6 => Self::CreditUpdate,
            7 => Self::CreditRequest,
            _ => return None,
        })
    }
}

/// A header; `op` and `kind` as they came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) src_cid: u64,
    pub(crate) dst_cid: u64,
    pub(crate) src_port: u32,
    pub(crate) dst_port: u32,
    pub(crate) len: u32,
    pub(crate) kind: u16,
    pub(crate) op: u16,
    pub(crate) flags: u32,
    pub(crate) buf_alloc: u32,
    pub(crate) fwd_cnt: u32,
}

impl Header {
    pub(crate) fn from_bytes(bytes: &[u8; HEADER]) -> Self {
        fn take<const N: usize>(bytes: &mut &[u8]) -> [u8; N] {
            let mut out = [0; N];
            if let Some((head, tail)) = bytes.split_at_checked(N) {
                out.copy_from_slice(head);
                *bytes = tail;
            }
            out
        }
        let mut bytes = &bytes[..];
        // In the order of the drawing.
        Self {
            src_cid: u64::from_le_bytes(take(&mut bytes)),
            dst_cid: u64::from_le_bytes(take(&mut bytes)),
            src_port: u32::from_le_bytes(take(&mut bytes)),
            dst_port: u32::from_le_bytes(take(&mut bytes)),
            len: u32::from_le_bytes(take(&mut bytes)),
            kind: u16::from_le_bytes(take(&mut bytes)),
            op: u16::from_le_bytes(take(&mut bytes)),
            flags: u32::from_le_bytes(take(&mut bytes)),
            buf_alloc: u32::from_le_bytes(take(&mut bytes)),
            fwd_cnt: u32::from_le_bytes(take(&mut bytes)),
        }
    }

    pub(crate) fn to_bytes(self) -> [u8; HEADER] {
        let mut bytes = [0; HEADER];
        let mut at = 0;
        let mut put = |field: &[u8]| {
            bytes[at..at + field.len()].copy_from_slice(field);
            at += field.len();
        };
        put(&self.src_cid.to_le_bytes());
        put(&self.dst_cid.to_le_bytes());
        put(&self.src_port.to_le_bytes());
        put(&self.dst_port.to_le_bytes());
        put(&self.len.to_le_bytes());
        put(&self.kind.to_le_bytes());
        put(&self.op.to_le_bytes());
        put(&self.flags.to_le_bytes());
        put(&self.buf_alloc.to_le_bytes());
        put(&self.fwd_cnt.to_le_bytes());
        bytes
    }

    /// The reset that answers this packet.
    pub(crate) fn reset(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            kind: self.kind,
            op: Op::Reset as u16,
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_survives_its_bytes() {
        let header = Header {
            src_cid: 3,
            dst_cid: 2,
            src_port: 0x1020_3040,
            dst_port: 1024,
            len: 77,
            kind: STREAM,
            op: Op::Data as u16,
            flags: CLOSED,
            buf_alloc: 1 << 18,
            fwd_cnt: u32::MAX,
        };
        let bytes = header.to_bytes();
        assert_eq!(Header::from_bytes(&bytes), header);
        assert_eq!(bytes[..8], [3, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[16..20], [0x40, 0x30, 0x20, 0x10]);
        assert_eq!(bytes[28..32], [1, 0, 5, 0]);
        assert_eq!(bytes[40..], [0xff; 4]);
        for op in 1..8 {
            assert_eq!(Op::from_raw(op).unwrap() as u16, op);
        }
        assert_eq!((Op::from_raw(0), Op::from_raw(8)), (None, None));
    }

    #[test]
    fn a_reset_goes_back() {
        let header = Header {
            src_cid: 3,
            dst_cid: 2,
            src_port: 5,
            dst_port: 6,
            kind: 9,
            len: 100,
            ..Header::default()
        };
        let reset = header.reset();
        assert_eq!((reset.src_cid, reset.dst_cid), (2, 3));
        assert_eq!((reset.src_port, reset.dst_port), (6, 5));
        assert_eq!((reset.kind, reset.op, reset.len), (9, 3, 0));
    }
}
