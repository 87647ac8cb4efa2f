//! The expressions that rules are made of.
//!
//! A rule is a list of expressions that the kernel's small machine runs in turn:
//! load something into a register, compare it or look it up in a set (on a
//! mismatch the rule ends), and at last give a verdict. An expression whose bytes
//! the packet doesn't have also ends its rule, so rules *accept* what matches and
//! the end of the chain drops: a truncated packet is never let through.
//!
//! Registers are sixteen words of 4 bytes. Keys of several fields are loaded side
//! by side, each field padded to whole words:
//!
//! ```text
//! word   0    1    2    3    4    5    6    7
//!        interface name ───  second field ───
//! ```
//!
//! Numbers and layouts: `linux/netfilter/nf_tables.h`.

use super::message::Attributes;

/// Bytes of an interface name in a register or key (`IFNAMSIZ`).
pub const INTERFACE_NAME_LEN: usize = 16;

/// `NFTA_LIST_ELEM`
pub(crate) const LIST_ELEMENT: u16 = 1;
/// `NFTA_DATA_VALUE`
pub(crate) const DATA_VALUE: u16 = 1;
/// `NFTA_DATA_VERDICT`
const DATA_VERDICT: u16 = 2;

/// `RTN_LOCAL` of `linux/rtnetlink.h`, as a register holds it.
pub const ADDRESS_IS_LOCAL: [u8; 4] = 2_u32.to_ne_bytes();
/// `IPS_DST_NAT` of `linux/netfilter/nf_conntrack_common.h`, as a register holds it.
pub const DESTINATION_WAS_CHANGED: [u8; 4] = 0x20_u32.to_ne_bytes();

/// A word of the register file, 0 to 15 (`NFT_REG32_00` …).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Register(u32);

impl Register {
    /// Where the first field of a key goes, and single values.
    pub const FIRST: Self = Self(0);
    /// Where the field after an interface name goes.
    pub const SECOND: Self = Self(4);

    /// So many words after the first.
    #[must_use]
    pub const fn word(index: u32) -> Self {
        Self(index)
    }

    /// `NFT_REG32_00` is 8: the numbers below it are the verdict and the old
    /// four-word registers.
    fn number(self) -> u32 {
        self.0 + 8
    }
}

/// What a packet carries beside its bytes (`enum nft_meta_keys`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Meta {
    /// Name of the interface it came by, 16 bytes.
    InputInterface = 6,
    /// Name of the interface it leaves by, 16 bytes.
    OutputInterface = 7,
    /// The family, 1 byte: 2 is IPv4, 10 is IPv6.
    Family = 15,
    /// Transport protocol, 1 byte; not there if the IP header is malformed.
    Transport = 16,
}

/// Which header an offset counts from (`enum nft_payload_bases`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Header {
    /// Ethernet.
    Link = 0,
    /// ARP, IPv4 or IPv6.
    Network = 1,
    /// UDP, ICMPv6 …: not there in later fragments.
    Transport = 2,
}

/// Where a packet goes (`enum nft_verdicts`, `NF_ACCEPT`, `NF_DROP`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// On its way.
    Accept,
    /// Nowhere.
    Drop,
    /// To another chain, without return.
    Goto(&'static str),
}

/// One step of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Expr {
    /// Loads what the packet carries beside its bytes.
    Meta(Meta, Register),
    /// Loads `length` bytes at `offset` of a header.
    Payload {
        /// Where the offset counts from.
        header: Header,
        /// Bytes to skip.
        offset: u32,
        /// Bytes to load, at most 16.
        length: u32,
        /// Where to.
        register: Register,
    },
    /// Keeps the bits of the mask.
    Mask(Register, Vec<u8>),
    /// Goes on if the register holds this.
    Equal(Register, Vec<u8>),
    /// Goes on if the register holds something else.
    NotEqual(Register, Vec<u8>),
    /// Goes on if the key that begins in the first register is in the set.
    InSet(&'static str),
    /// Goes on if it isn't.
    NotInSet(&'static str),
    /// Goes on if the key that begins in the first register is in the map, with its
    /// value loaded from this register on.
    Map(&'static str, Register),
    /// Loads what kind of address the destination is to this host, 4 bytes in host
    /// order: [`ADDRESS_IS_LOCAL`] is its own.
    DestinationType(Register),
    /// Loads what connection tracking knows of the connection, 4 bytes of bits in
    /// host order: [`DESTINATION_WAS_CHANGED`].
    ConnectionStatus(Register),
    /// Counts packets and bytes, for operators who list the rules.
    Counter,
    /// Gives the packet the address of the interface it leaves by.
    Masquerade,
    /// Sends the connection to another address and port.
    Redirect {
        /// 2 is IPv4, 10 is IPv6.
        family: super::message::Family,
        /// Holds the address.
        address: Register,
        /// Holds the port.
        port: Register,
    },
    /// Ends the rule.
    Verdict(Verdict),
}

impl Expr {
    /// The kernel's name of the expression.
    fn name(&self) -> &'static str {
        match self {
            Self::Meta(..) => "meta",
            Self::Payload { .. } => "payload",
            Self::Mask(..) => "bitwise",
            Self::Equal(..) | Self::NotEqual(..) => "cmp",
            Self::InSet(_) | Self::NotInSet(_) | Self::Map(..) => "lookup",
            Self::DestinationType(_) => "fib",
            Self::ConnectionStatus(_) => "ct",
            Self::Counter => "counter",
            Self::Masquerade => "masq",
            Self::Redirect { .. } => "nat",
            Self::Verdict(_) => "immediate",
        }
    }

    /// Appends it as an element of a rule's expression list.
    pub fn write(&self, list: &mut Attributes<'_>) {
        list.nest(LIST_ELEMENT, |element| {
            // NFTA_EXPR_NAME, NFTA_EXPR_DATA
            element.text(1, self.name());
            element.nest(2, |data| self.write_data(data));
        });
    }

    fn write_data(&self, data: &mut Attributes<'_>) {
        match self {
            Self::Meta(key, register) => {
                // NFTA_META_DREG, NFTA_META_KEY
                data.number(1, register.number());
                data.number(2, u32::from(*key as u8));
            }
            Self::Payload {
                header,
                offset,
                length,
                register,
            } => {
                // NFTA_PAYLOAD_DREG, _BASE, _OFFSET, _LEN
                data.number(1, register.number());
                data.number(2, u32::from(*header as u8));
                data.number(3, *offset);
                data.number(4, *length);
            }
            Self::Mask(register, mask) => {
                let length = u32::try_from(mask.len()).unwrap_or(u32::MAX);
                // NFTA_BITWISE_SREG, _DREG, _LEN, _MASK, _XOR
                data.number(1, register.number());
                data.number(2, register.number());
                data.number(3, length);
                data.nest(4, |value| {
                    value.bytes(DATA_VALUE, mask);
                });
                data.nest(5, |value| {
                    value.bytes(DATA_VALUE, &vec![0; mask.len()]);
                });
            }
            Self::Equal(register, value) => compare(data, *register, 0, value),
            Self::NotEqual(register, value) => compare(data, *register, 1, value),
            Self::InSet(set) => {
                // NFTA_LOOKUP_SET, NFTA_LOOKUP_SREG
                data.text(1, set);
                data.number(2, Register::FIRST.number());
            }
            Self::NotInSet(set) => {
                data.text(1, set);
                data.number(2, Register::FIRST.number());
                // NFTA_LOOKUP_FLAGS: NFT_LOOKUP_F_INV
                data.number(5, 1);
            }
            Self::Map(map, value) => {
                data.text(1, map);
                data.number(2, Register::FIRST.number());
                // NFTA_LOOKUP_DREG
                data.number(3, value.number());
            }
            Self::DestinationType(register) => {
                // NFTA_FIB_DREG, _RESULT: NFT_FIB_RESULT_ADDRTYPE, _FLAGS: NFTA_FIB_F_DADDR
                data.number(1, register.number());
                data.number(2, 3);
                data.number(3, 2);
            }
            Self::ConnectionStatus(register) => {
                // NFTA_CT_DREG, NFTA_CT_KEY: NFT_CT_STATUS
                data.number(1, register.number());
                data.number(2, 2);
            }
            Self::Counter | Self::Masquerade => {}
            Self::Redirect {
                family,
                address,
                port,
            } => {
                // NFTA_NAT_TYPE: NFT_NAT_DNAT, _FAMILY, _REG_ADDR_MIN, _REG_PROTO_MIN
                data.number(1, 1);
                data.number(2, u32::from(*family as u8));
                data.number(3, address.number());
                data.number(5, port.number());
            }
            Self::Verdict(verdict) => {
                // NFTA_IMMEDIATE_DREG: NFT_REG_VERDICT, NFTA_IMMEDIATE_DATA
                data.number(1, 0);
                data.nest(2, |value| {
                    value.nest(DATA_VERDICT, |inner| verdict.write(inner));
                });
            }
        }
    }
}

impl Verdict {
    fn write(self, data: &mut Attributes<'_>) {
        /// `NFT_GOTO` is -4.
        const GOTO: u32 = 0_u32.wrapping_sub(4);
        // NFTA_VERDICT_CODE, NFTA_VERDICT_CHAIN
        match self {
            Self::Drop => {
                data.number(1, 0);
            }
            Self::Accept => {
                data.number(1, 1);
            }
            Self::Goto(chain) => {
                data.number(1, GOTO);
                data.text(2, chain);
            }
        }
    }
}

/// `NFTA_CMP_SREG`, `_OP` (0 is equal, 1 is not), `_DATA`.
fn compare(data: &mut Attributes<'_>, register: Register, operation: u32, value: &[u8]) {
    data.number(1, register.number());
    data.number(2, operation);
    data.nest(3, |inner| {
        inner.bytes(DATA_VALUE, value);
    });
}

/// An interface name as registers and keys hold it.
#[must_use]
pub fn interface_name(name: &str) -> Vec<u8> {
    let mut key = name.as_bytes().to_vec();
    // The kernel keeps 15 bytes and a NUL; longer names don't exist.
    key.truncate(INTERFACE_NAME_LEN - 1);
    key.resize(INTERFACE_NAME_LEN, 0);
    key
}

/// A key of an interface name and a second field, padded to whole words.
#[must_use]
pub fn interface_and(name: &str, field: &[u8]) -> Vec<u8> {
    let mut key = interface_name(name);
    key.extend_from_slice(field);
    key.resize(key.len().next_multiple_of(4), 0);
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nft::message::{AttributeIter, Family, Kind, Request, replies};

    /// Writes one expression and returns its name and its attributes.
    fn written(expr: &Expr) -> (String, Vec<(u16, Vec<u8>)>) {
        let request = Request::get(Kind::GetTable, Family::Inet, |list| expr.write(list));
        let reply = replies(&request.bytes).next().unwrap();
        let (kind, element) = reply.generic().unwrap().1.next().unwrap();
        assert_eq!(kind, LIST_ELEMENT);
        let parts: Vec<_> = AttributeIter::nested(element).collect();
        let name = parts[0].1.strip_suffix(b"\0").unwrap();
        let data = AttributeIter::nested(parts[1].1)
            .map(|(kind, payload)| (kind, payload.to_vec()))
            .collect();
        (String::from_utf8(name.to_vec()).unwrap(), data)
    }

    #[test]
    fn a_payload_load_names_register_base_offset_and_length() {
        let (name, data) = written(&Expr::Payload {
            header: Header::Network,
            offset: 12,
            length: 4,
            register: Register::SECOND,
        });
        assert_eq!(name, "payload");
        assert_eq!(
            data,
            [
                (1, vec![0, 0, 0, 12]),
                (2, vec![0, 0, 0, 1]),
                (3, vec![0, 0, 0, 12]),
                (4, vec![0, 0, 0, 4]),
            ]
        );
    }

    #[test]
    fn goto_is_minus_four_and_names_its_chain() {
        let (name, data) = written(&Expr::Verdict(Verdict::Goto("arp")));
        assert_eq!(name, "immediate");
        assert_eq!(data[0], (1, vec![0; 4]));
        let verdict = AttributeIter::nested(&data[1].1).next().unwrap();
        assert_eq!(verdict.0, DATA_VERDICT);
        let parts: Vec<_> = AttributeIter::nested(verdict.1).collect();
        assert_eq!(parts[0], (1, &[0xff, 0xff, 0xff, 0xfc][..]));
        assert_eq!(parts[1], (2, &b"arp\0"[..]));
    }

    #[test]
    fn an_inverted_lookup_says_so() {
        let (_, plain) = written(&Expr::InSet("macs"));
        let (_, inverted) = written(&Expr::NotInSet("macs"));
        assert_eq!(plain.len(), 2);
        assert_eq!(inverted[..2], plain[..]);
        assert_eq!(inverted[2], (5, vec![0, 0, 0, 1]));
    }

    #[test]
    fn a_map_names_where_its_value_goes() {
        let (name, data) = written(&Expr::Map("ports", Register::word(8)));
        assert_eq!(name, "lookup");
        assert_eq!(data[2], (3, vec![0, 0, 0, 16]));
    }

    #[test]
    fn a_redirect_names_family_and_registers() {
        let (name, data) = written(&Expr::Redirect {
            family: Family::Ipv6,
            address: Register::word(8),
            port: Register::word(12),
        });
        assert_eq!(name, "nat");
        assert_eq!(
            data,
            [
                (1, vec![0, 0, 0, 1]),
                (2, vec![0, 0, 0, 10]),
                (3, vec![0, 0, 0, 16]),
                (5, vec![0, 0, 0, 20]),
            ]
        );
    }

    #[test]
    fn keys_are_padded_to_words() {
        assert_eq!(interface_name("bh0").len(), 16);
        assert_eq!(interface_name("a-name-that-is-too-long")[15], 0);
        let key = interface_and("bh0", &[1, 2, 3, 4, 5, 6]);
        assert_eq!(key.len(), 24);
        assert_eq!(key[16..], [1, 2, 3, 4, 5, 6, 0, 0]);
    }
}
