//! The byte format: netlink messages, nested attributes, batches.
//!
//! ```text
//! nlmsghdr  │ len u32 │ type u16 │ flags u16 │ seq u32 │ port u32 │        host order
//! nfgenmsg  │ family u8 │ version u8 │ res_id u16 (big endian) │
//! nlattr    │ len u16 │ type u16 │ payload … │ padding to 4 │            repeated, nested
//! ```
//!
//! Lengths and types are in host byte order; numbers inside nf_tables attributes
//! are big endian. Sources: `linux/netlink.h`, `linux/netfilter/nfnetlink.h`.

/// Bytes of `struct nlmsghdr`.
pub const HEADER_LEN: usize = 16;
/// Bytes of `struct nfgenmsg`.
const GENERIC_LEN: usize = 4;
/// Bytes of `struct nlattr`.
const ATTRIBUTE_HEADER_LEN: usize = 4;
/// Messages and attributes start at multiples of this.
const ALIGNMENT: usize = 4;

/// Subsystem of nf_tables in `nfnetlink.h`.
const SUBSYSTEM_NFTABLES: u16 = 10;
/// `NFNL_MSG_BATCH_BEGIN`
const BATCH_BEGIN: u16 = 0x10;
/// `NFNL_MSG_BATCH_END`
const BATCH_END: u16 = 0x11;

/// `NLA_F_NESTED`: the attribute's payload is attributes.
const NESTED: u16 = 0x8000;

/// `NLM_F_REQUEST`
const REQUEST: u16 = 0x1;
/// `NLM_F_ACK`: answer even if all is well.
const ACK: u16 = 0x4;
/// `NLM_F_DUMP`: answer with every object.
const DUMP: u16 = 0x300;

/// Flags of messages that make something.
pub const CREATE: u16 = 0x400;
/// Flags of messages that add at the end: rules.
pub const APPEND: u16 = 0x800;

/// Protocol families of `linux/netfilter.h`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Family {
    /// All families; only to ask with.
    Unspecified = 0,
    /// IPv4 and IPv6 alike.
    Inet = 1,
    /// IPv4 only.
    Ipv4 = 2,
    /// Frames that pass a bridge.
    Bridge = 7,
    /// IPv6 only.
    Ipv6 = 10,
}

/// Kinds of messages of `nf_tables.h` (`enum nf_tables_msg_types`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// `NFT_MSG_NEWTABLE`
    NewTable = 0,
    /// `NFT_MSG_GETTABLE`
    GetTable = 1,
    /// `NFT_MSG_DELTABLE`
    DeleteTable = 2,
    /// `NFT_MSG_NEWCHAIN`
    NewChain = 3,
    /// `NFT_MSG_GETCHAIN`
    GetChain = 4,
    /// `NFT_MSG_NEWRULE`
    NewRule = 6,
    /// `NFT_MSG_NEWSET`
    NewSet = 9,
    /// `NFT_MSG_NEWSETELEM`
    NewElements = 12,
    /// `NFT_MSG_DELSETELEM`
    DeleteElements = 14,
}

impl Kind {
    fn message_type(self) -> u16 {
        (SUBSYSTEM_NFTABLES << 8) | u16::from(self as u8)
    }
}

/// A list of attributes under construction.
#[derive(Debug)]
pub struct Attributes<'a> {
    bytes: &'a mut Vec<u8>,
    /// Set when an attribute's length didn't fit into its 16 bits.
    overflow: &'a mut bool,
}

impl Attributes<'_> {
    /// Appends an attribute of raw bytes.
    pub fn bytes(&mut self, kind: u16, payload: &[u8]) -> &mut Self {
        self.attribute(kind, |inner| inner.bytes.extend_from_slice(payload))
    }

    /// Appends a big-endian number.
    pub fn number(&mut self, kind: u16, value: u32) -> &mut Self {
        self.bytes(kind, &value.to_be_bytes())
    }

    /// Appends a NUL-terminated text.
    pub fn text(&mut self, kind: u16, value: &str) -> &mut Self {
        self.attribute(kind, |inner| {
            inner.bytes.extend_from_slice(value.as_bytes());
            inner.bytes.push(0);
        })
    }

    /// Appends an attribute that holds attributes.
    pub fn nest(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) -> &mut Self {
        self.attribute(kind | NESTED, |inner| fill(inner))
    }

    fn attribute(&mut self, kind: u16, fill: impl FnOnce(&mut Attributes<'_>)) -> &mut Self {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0; ATTRIBUTE_HEADER_LEN]);
        fill(&mut Attributes {
            bytes: self.bytes,
            overflow: self.overflow,
        });
        match u16::try_from(self.bytes.len() - start) {
            Ok(length) => {
                self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes());
                self.bytes[start + 2..start + 4].copy_from_slice(&kind.to_ne_bytes());
            }
            Err(_) => *self.overflow = true,
        }
        pad(self.bytes);
        self
    }
}

/// One request, outside of a batch: questions.
#[derive(Debug, Clone)]
pub struct Request {
    pub(crate) bytes: Vec<u8>,
    pub(crate) sequence: u32,
}

impl Request {
    /// Asks for one object; the answer ends with an acknowledgement.
    #[must_use]
    pub fn get(kind: Kind, family: Family, fill: impl FnOnce(&mut Attributes<'_>)) -> Self {
        Self::new(kind, family, REQUEST | ACK, fill)
    }

    /// Asks for all objects.
    #[must_use]
    pub fn dump(kind: Kind, family: Family) -> Self {
        Self::new(kind, family, REQUEST | DUMP, |_| {})
    }

    fn new(kind: Kind, family: Family, flags: u16, fill: impl FnOnce(&mut Attributes<'_>)) -> Self {
        const SEQUENCE: u32 = 1;
        let mut bytes = Vec::new();
        let mut overflow = false;
        message(
            &mut bytes,
            &mut overflow,
            kind.message_type(),
            flags,
            SEQUENCE,
            (family, 0),
            fill,
        );
        Self {
            bytes,
            sequence: SEQUENCE,
        }
    }
}

/// Changes that happen together or not at all.
///
/// Each change has a label, so that a refusal names what was refused.
#[derive(Debug, Clone)]
pub struct Batch {
    bytes: Vec<u8>,
    /// Labels of the changes; the change at index `i` has sequence number `i + 2`.
    labels: Vec<String>,
    /// Where the last change begins, which is the one that is acknowledged.
    last: usize,
    overflow: bool,
}

/// Sequence number of the message that opens a batch.
pub(crate) const BEGIN_SEQUENCE: u32 = 1;

impl Default for Batch {
    fn default() -> Self {
        Self::new()
    }
}

impl Batch {
    /// A batch without changes.
    #[must_use]
    pub fn new() -> Self {
        let mut bytes = Vec::new();
        let mut overflow = false;
        message(
            &mut bytes,
            &mut overflow,
            BATCH_BEGIN,
            REQUEST,
            BEGIN_SEQUENCE,
            (Family::Unspecified, SUBSYSTEM_NFTABLES),
            |_| {},
        );
        Self {
            bytes,
            labels: Vec::new(),
            last: 0,
            overflow,
        }
    }

    /// Appends a change.
    ///
    /// `label` completes the sentence "cannot …".
    pub fn push(
        &mut self,
        label: impl Into<String>,
        kind: Kind,
        family: Family,
        flags: u16,
        fill: impl FnOnce(&mut Attributes<'_>),
    ) {
        self.labels.push(label.into());
        self.last = self.bytes.len();
        let sequence = self.last_sequence();
        message(
            &mut self.bytes,
            &mut self.overflow,
            kind.message_type(),
            REQUEST | flags,
            sequence,
            (family, 0),
            fill,
        );
    }

    /// How many changes it holds.
    #[must_use]
    pub fn len(&self) -> usize {
        self.labels.len()
    }

    /// Whether it holds no change.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.labels.is_empty()
    }

    /// What the message with this sequence number was to do.
    pub(crate) fn label(&self, sequence: u32) -> &str {
        usize::try_from(sequence)
            .ok()
            .and_then(|sequence| sequence.checked_sub(2))
            .and_then(|index| self.labels.get(index))
            .map_or("apply the changes", String::as_str)
    }

    /// Sequence number of the last change.
    pub(crate) fn last_sequence(&self) -> u32 {
        u32::try_from(self.labels.len()).unwrap_or(u32::MAX - 1) + BEGIN_SEQUENCE
    }

    /// Closes the batch. The last change is acknowledged, so that the sender knows
    /// when the kernel is through; `None` if an attribute was too long.
    pub(crate) fn finish(&self) -> Option<Vec<u8>> {
        if self.overflow {
            return None;
        }
        let mut bytes = self.bytes.clone();
        let flags = self.last + 6;
        if let Some(slot) = bytes.get_mut(flags..flags + 2)
            && !self.is_empty()
        {
            let with_ack = u16::from_ne_bytes([slot[0], slot[1]]) | ACK;
            slot.copy_from_slice(&with_ack.to_ne_bytes());
        }
        message(
            &mut bytes,
            &mut false,
            BATCH_END,
            REQUEST,
            self.last_sequence() + 1,
            (Family::Unspecified, SUBSYSTEM_NFTABLES),
            |_| {},
        );
        Some(bytes)
    }
}

fn message(
    bytes: &mut Vec<u8>,
    overflow: &mut bool,
    message_type: u16,
    flags: u16,
    sequence: u32,
    (family, resource): (Family, u16),
    fill: impl FnOnce(&mut Attributes<'_>),
) {
    let start = bytes.len();
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&message_type.to_ne_bytes());
    bytes.extend_from_slice(&flags.to_ne_bytes());
    bytes.extend_from_slice(&sequence.to_ne_bytes());
    // The port: the kernel fills in the socket's own.
    bytes.extend_from_slice(&[0; 4]);
    bytes.extend_from_slice(&[family as u8, 0]);
    bytes.extend_from_slice(&resource.to_be_bytes());
    fill(&mut Attributes { bytes, overflow });
    match u32::try_from(bytes.len() - start) {
        Ok(length) => bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes()),
        Err(_) => *overflow = true,
    }
    pad(bytes);
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
}

/// A message as the kernel sent it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reply<'a> {
    /// `nlmsg_type`
    pub kind: u16,
    /// `nlmsg_seq`
    pub sequence: u32,
    /// What follows the header.
    pub payload: &'a [u8],
}

impl<'a> Reply<'a> {
    /// `NLMSG_ERROR`: an error, or success if its number is 0.
    const ERROR: u16 = 2;
    /// `NLMSG_DONE`: the end of a dump.
    const DONE: u16 = 3;

    /// Whether it ends a dump.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.kind == Self::DONE
    }

    /// The error number that it reports: `Some(0)` is an acknowledgement, `None`
    /// another kind of message.
    #[must_use]
    pub fn error(&self) -> Option<i32> {
        if self.kind != Self::ERROR {
            return None;
        }
        let number = self.payload.first_chunk::<4>()?;
        Some(i32::from_ne_bytes(*number).saturating_neg())
    }

    /// The family and the attributes of an nfnetlink message.
    #[must_use]
    pub fn generic(&self) -> Option<(u8, AttributeIter<'a>)> {
        let family = *self.payload.first()?;
        let attributes = self.payload.get(GENERIC_LEN..)?;
        Some((family, AttributeIter { rest: attributes }))
    }
}

/// The messages in what one `recv` returned; stops at the first malformed one.
pub fn replies(mut bytes: &[u8]) -> impl Iterator<Item = Reply<'_>> {
    std::iter::from_fn(move || {
        let header = bytes.first_chunk::<HEADER_LEN>()?;
        let length = usize::try_from(u32::from_ne_bytes([
            header[0], header[1], header[2], header[3],
        ]))
        .ok()?;
        let reply = Reply {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            sequence: u32::from_ne_bytes([header[8], header[9], header[10], header[11]]),
            payload: bytes.get(HEADER_LEN..length)?,
        };
        bytes = bytes
            .get(length.next_multiple_of(ALIGNMENT)..)
            .unwrap_or_default();
        Some(reply)
    })
}

/// The attributes of a message; stops at the first malformed one.
#[derive(Debug, Clone)]
pub struct AttributeIter<'a> {
    rest: &'a [u8],
}

impl<'a> AttributeIter<'a> {
    /// The attributes within an attribute.
    #[must_use]
    pub fn nested(payload: &'a [u8]) -> Self {
        Self { rest: payload }
    }
}

impl<'a> Iterator for AttributeIter<'a> {
    /// Type without its flag bits, and payload.
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let header = self.rest.first_chunk::<ATTRIBUTE_HEADER_LEN>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]) & 0x3fff;
        let payload = self.rest.get(ATTRIBUTE_HEADER_LEN..length)?;
        self.rest = self
            .rest
            .get(length.next_multiple_of(ALIGNMENT)..)
            .unwrap_or_default();
        Some((kind, payload))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_is_laid_out_as_the_kernel_reads_it() {
        let mut batch = Batch::new();
        batch.push(
            "create table t",
            Kind::NewTable,
            Family::Bridge,
            CREATE,
            |table| {
                table.text(1, "t");
            },
        );
        let bytes = batch.finish().unwrap();
        #[rustfmt::skip]
        let expected: &[u8] = &[
            // begin: 20 bytes, type 0x10, NLM_F_REQUEST, sequence 1, res_id 10 big endian
            20, 0, 0, 0, 0x10, 0, 1, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10,
            // NEWTABLE: type 0x0a00, REQUEST|ACK|CREATE, sequence 2, family bridge, name "t"
            28, 0, 0, 0, 0x00, 0x0a, 0x05, 0x04, 2, 0, 0, 0, 0, 0, 0, 0, 7, 0, 0, 0,
            6, 0, 1, 0, b't', 0, 0, 0,
            // end
            20, 0, 0, 0, 0x11, 0, 1, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 10,
        ];
        assert_eq!(bytes, expected);
        assert_eq!(batch.label(2), "create table t");
        assert_eq!(batch.label(1), "apply the changes");
    }

    #[test]
    fn attributes_nest_and_are_padded() {
        let request = Request::get(Kind::GetTable, Family::Inet, |table| {
            table.number(7, 0x0102_0304);
            table.nest(4, |inner| {
                inner.bytes(1, &[0xaa; 5]);
                inner.text(2, "xyz");
            });
        });
        let reply = replies(&request.bytes).next().unwrap();
        let (family, attributes) = reply.generic().unwrap();
        assert_eq!(family, Family::Inet as u8);
        let attributes: Vec<_> = attributes.collect();
        assert_eq!(attributes[0], (7, &[1, 2, 3, 4][..]));
        assert_eq!(attributes[1].0, 4);
        let inner: Vec<_> = AttributeIter::nested(attributes[1].1).collect();
        assert_eq!(inner, [(1, &[0xaa; 5][..]), (2, &b"xyz\0"[..])]);
    }

    #[test]
    fn an_attribute_that_is_too_long_spoils_the_batch() {
        let mut batch = Batch::new();
        batch.push("x", Kind::NewRule, Family::Inet, CREATE, |rule| {
            rule.bytes(1, &vec![0; 70_000]);
        });
        assert!(batch.finish().is_none());
    }

    #[test]
    fn malformed_replies_end_the_iteration() {
        assert_eq!(replies(&[]).count(), 0);
        assert_eq!(replies(&[1, 2, 3]).count(), 0);
        // A length below the header's, above the buffer's.
        for length in [0_u32, 15, 64] {
            let mut bytes = vec![0; 32];
            bytes[..4].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(replies(&bytes).count(), 0, "{length}");
        }
        assert_eq!(AttributeIter::nested(&[0, 0, 1, 0]).count(), 0);
        assert_eq!(AttributeIter::nested(&[9, 0, 1, 0, 1]).count(), 0);
    }

    #[test]
    fn errors_are_told_from_acknowledgements() {
        let mut bytes = vec![0; 36];
        bytes[..4].copy_from_slice(&36_u32.to_ne_bytes());
        bytes[4..6].copy_from_slice(&2_u16.to_ne_bytes());
        assert_eq!(replies(&bytes).next().unwrap().error(), Some(0));
        bytes[16..20].copy_from_slice(&(-libc::ENOENT).to_ne_bytes());
        assert_eq!(replies(&bytes).next().unwrap().error(), Some(libc::ENOENT));
    }
}
