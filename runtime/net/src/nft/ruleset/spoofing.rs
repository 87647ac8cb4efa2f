//! The bridge table: nobody speaks with another's MAC or address.

use std::net::Ipv6Addr;

use super::table::{Hook, Table, concatenated, key_type};
use super::{IPV4, IPV6, MACS, TAPS};
use crate::nft::expr::{Expr, Header, INTERFACE_NAME_LEN, Meta, Register, Verdict};
use crate::nft::message::Batch;

const PREROUTING: &str = "prerouting";
const FROM_ARP: &str = "from_arp";
const FROM_IPV4: &str = "from_ipv4";
const FROM_IPV6: &str = "from_ipv6";
const FROM_ICMPV6: &str = "from_icmpv6";

impl Table<'_> {
    /// The sets that pods are elements of.
    pub(super) fn sets(&self, batch: &mut Batch) {
        let name = INTERFACE_NAME_LEN;
        let after_interface = |second| concatenated(&[key_type::INTERFACE_NAME, second]);
        self.set(batch, TAPS, (key_type::INTERFACE_NAME, name));
        // Six bytes of MAC take two words.
        self.set(batch, MACS, (after_interface(key_type::ETHERNET), name + 8));
        self.set(batch, IPV4, (after_interface(key_type::IPV4), name + 4));
        self.set(batch, IPV6, (after_interface(key_type::IPV6), name + 16));
    }

    /// The chains and their rules.
    pub(super) fn spoofing_rules(&self, batch: &mut Batch) {
        for chain in [FROM_ARP, FROM_IPV4, FROM_IPV6, FROM_ICMPV6] {
            self.chain(batch, chain, None);
        }
        let hook = Hook {
            kind: "filter",
            // NF_BR_PRE_ROUTING, and nft's priority `filter` of this family.
            number: 0,
            priority: -200,
        };
        self.chain(batch, PREROUTING, Some(&hook));
        self.prerouting_rules(batch);
        self.arp_rules(batch);
        self.ipv4_rules(batch);
        self.ipv6_rules(batch);
        self.icmpv6_rules(batch);
    }

    fn prerouting_rules(&self, batch: &mut Batch) {
        let mut rule = |comment, body: Vec<Expr>| self.rule(batch, PREROUTING, comment, &body);
        rule(
            "not a pod's tap",
            vec![input_interface(), Expr::NotInSet(TAPS), accept()],
        );
        rule(
            "source MAC of another",
            vec![
                input_interface(),
                source_mac(),
                Expr::NotInSet(MACS),
                Expr::Counter,
                drop_it(),
            ],
        );
        for (comment, ether_type, chain) in [
            ("arp", 0x0806_u16, FROM_ARP),
            ("ipv4", 0x0800, FROM_IPV4),
            ("ipv6", 0x86dd, FROM_IPV6),
        ] {
            rule(
                comment,
                vec![
                    load(Header::Link, 12, 2, Register::FIRST),
                    Expr::Equal(Register::FIRST, ether_type.to_be_bytes().to_vec()),
                    Expr::Verdict(Verdict::Goto(chain)),
                ],
            );
        }
        rule("other protocols", vec![Expr::Counter, drop_it()]);
    }

    /// ARP (RFC 826): hardware type 0..2, protocol 2..4, lengths 4 and 5, operation
    /// 6..8, sender MAC 8..14, sender address 14..18, target MAC and address.
    fn arp_rules(&self, batch: &mut Batch) {
        let mut rule = |comment, body: Vec<Expr>| self.rule(batch, FROM_ARP, comment, &body);
        rule(
            "not Ethernet and IPv4",
            vec![
                load(Header::Network, 0, 6, Register::FIRST),
                Expr::NotEqual(Register::FIRST, vec![0, 1, 8, 0, 6, 4]),
                Expr::Counter,
                drop_it(),
            ],
        );
        rule(
            "sender MAC of another",
            vec![
                input_interface(),
                load(Header::Network, 8, 6, Register::SECOND),
                Expr::NotInSet(MACS),
                Expr::Counter,
                drop_it(),
            ],
        );
        rule(
            "probe",
            vec![
                load(Header::Network, 6, 2, Register::FIRST),
                Expr::Equal(Register::FIRST, vec![0, 1]),
                load(Header::Network, 14, 4, Register::FIRST),
                Expr::Equal(Register::FIRST, vec![0; 4]),
                accept(),
            ],
        );
        rule(
            "own sender address",
            vec![
                input_interface(),
                load(Header::Network, 14, 4, Register::SECOND),
                Expr::InSet(IPV4),
                accept(),
            ],
        );
        rule("sender address of another", vec![Expr::Counter, drop_it()]);
    }

    fn ipv4_rules(&self, batch: &mut Batch) {
        let mut rule = |comment, body: Vec<Expr>| self.rule(batch, FROM_IPV4, comment, &body);
        rule("dhcp server", udp_from(67));
        let [first, second] = well_formed();
        rule(
            "own source address",
            vec![
                first,
                second,
                input_interface(),
                // RFC 791 §3.1: source address.
                load(Header::Network, 12, 4, Register::SECOND),
                Expr::InSet(IPV4),
                accept(),
            ],
        );
        rule("source address of another", vec![Expr::Counter, drop_it()]);
    }

    fn ipv6_rules(&self, batch: &mut Batch) {
        let mut rule = |comment, body: Vec<Expr>| self.rule(batch, FROM_IPV6, comment, &body);
        rule(
            "icmpv6",
            vec![
                Expr::Meta(Meta::Transport, Register::FIRST),
                Expr::Equal(Register::FIRST, vec![58]),
                Expr::Verdict(Verdict::Goto(FROM_ICMPV6)),
            ],
        );
        rule("dhcpv6 server", udp_from(547));
        let [first, second] = well_formed();
        let mut body = vec![first, second];
        body.extend(own_ipv6_source());
        rule("own source address", body);
        rule("source address of another", vec![Expr::Counter, drop_it()]);
    }

    /// ICMPv6 (RFC 4861 §4): type in byte 0, the target of neighbour messages in 8..24.
    fn icmpv6_rules(&self, batch: &mut Batch) {
        const MULTICAST_LISTENER_REPORT_V2: u8 = 143;
        const NEIGHBOUR_SOLICITATION: u8 = 135;
        const NEIGHBOUR_ADVERTISEMENT: u8 = 136;

        let mut rule = |comment, body: Vec<Expr>| self.rule(batch, FROM_ICMPV6, comment, &body);
        let of_type = |number: u8| {
            vec![
                load(Header::Transport, 0, 1, Register::FIRST),
                Expr::Equal(Register::FIRST, vec![number]),
            ]
        };
        let unspecified_source = || {
            [
                load(Header::Network, 8, 16, Register::FIRST),
                Expr::Equal(Register::FIRST, Ipv6Addr::UNSPECIFIED.octets().to_vec()),
            ]
        };
        let target = || {
            [
                input_interface(),
                load(Header::Transport, 8, 16, Register::SECOND),
            ]
        };
        for (comment, number) in [("router advertisement", 134), ("redirect", 137)] {
            let mut body = of_type(number);
            body.extend([Expr::Counter, drop_it()]);
            rule(comment, body);
        }

        let mut body = of_type(NEIGHBOUR_ADVERTISEMENT);
        body.extend(target());
        body.extend([Expr::NotInSet(IPV6), Expr::Counter, drop_it()]);
        rule("advertises the address of another", body);

        let mut body = of_type(NEIGHBOUR_SOLICITATION);
        body.extend(unspecified_source());
        body.extend(target());
        body.extend([Expr::InSet(IPV6), accept()]);
        rule("looks for duplicates of its own address", body);

        let mut body = of_type(MULTICAST_LISTENER_REPORT_V2);
        body.extend(unspecified_source());
        body.push(accept());
        rule("joins its groups meanwhile", body);

        rule("own source address", own_ipv6_source());
        rule("source address of another", vec![Expr::Counter, drop_it()]);
    }
}

fn input_interface() -> Expr {
    Expr::Meta(Meta::InputInterface, Register::FIRST)
}

fn source_mac() -> Expr {
    // IEEE 802.3: destination 0..6, source 6..12, type 12..14.
    load(Header::Link, 6, 6, Register::SECOND)
}

fn load(header: Header, offset: u32, length: u32, register: Register) -> Expr {
    Expr::Payload {
        header,
        offset,
        length,
        register,
    }
}

/// Ends the rule if the IP header, with its extensions, can't be parsed: then the
/// kernel knows no transport protocol. 255 is reserved (IANA).
fn well_formed() -> [Expr; 2] {
    [
        Expr::Meta(Meta::Transport, Register::FIRST),
        Expr::NotEqual(Register::FIRST, vec![255]),
    ]
}

/// Drops UDP datagrams from a port.
fn udp_from(port: u16) -> Vec<Expr> {
    vec![
        Expr::Meta(Meta::Transport, Register::FIRST),
        Expr::Equal(Register::FIRST, vec![17]),
        load(Header::Transport, 0, 2, Register::FIRST),
        Expr::Equal(Register::FIRST, port.to_be_bytes().to_vec()),
        Expr::Counter,
        drop_it(),
    ]
}

fn own_ipv6_source() -> Vec<Expr> {
    vec![
        input_interface(),
        // RFC 8200 §3: source address.
        load(Header::Network, 8, 16, Register::SECOND),
        Expr::InSet(IPV6),
        accept(),
    ]
}

fn accept() -> Expr {
    Expr::Verdict(Verdict::Accept)
}

fn drop_it() -> Expr {
    Expr::Verdict(Verdict::Drop)
}
