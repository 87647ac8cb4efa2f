//! Our rules.
//!
//! Two tables, both named after the bridge.
//!
//! **Family `bridge`: nobody speaks with another's MAC or address.** It sees each
//! frame that a tap delivers before the bridge does anything with it. The rules
//! never change; a pod is four kinds of set elements:
//!
//! ```text
//! set taps   { tap }                    who is judged at all: other bridges' ports pass
//! set macs   { tap . MAC }
//! set ipv4   { tap . address }
//! set ipv6   { tap . address }          the pod's and its link-local one
//!
//! prerouting   not in taps → accept
//!              source MAC not in macs → drop
//!              by EtherType → arp, ipv4, ipv6; anything else (VLAN tags too) → drop
//! arp          Ethernet/IPv4 with the pod's MAC and address as sender,
//!              or a probe for an address (RFC 5227: sender 0.0.0.0)      else drop
//! ipv4         not a DHCP server; the pod's source address               else drop
//! ipv6         not a DHCPv6 server; the pod's source address             else drop
//! icmpv6       no router advertisement, no redirect (RFC 4861);
//!              neighbour advertisements only for the pod's own addresses;
//!              from :: only what duplicate address detection needs       else drop
//! ```
//!
//! Chains end in a drop and accept by match, because an expression that finds no
//! bytes to look at ends its rule without a verdict: what is too short to be
//! judged falls through to the drop.
//!
//! **Family `inet`: masquerading.** What comes from a pool and leaves by another
//! interface than the bridge takes that interface's address. We add no forward
//! chain: nftables has no accept that outvotes another table's drop, so on a host
//! whose firewall drops forwarded packets by policy the operator has to allow the
//! bridge there ([`super::inspect`] finds such chains for `doctor`).

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use super::expr::{
    DATA_VALUE, Expr, Header, INTERFACE_NAME_LEN, LIST_ELEMENT, Meta, Register, Verdict,
    interface_and, interface_name,
};
use super::message::{APPEND, Attributes, Batch, CREATE, Family, Kind};
use crate::lease::Lease;

const TAPS: &str = "taps";
const MACS: &str = "macs";
const IPV4: &str = "ipv4";
const IPV6: &str = "ipv6";

const PREROUTING: &str = "prerouting";
const FROM_ARP: &str = "from_arp";
const FROM_IPV4: &str = "from_ipv4";
const FROM_IPV6: &str = "from_ipv6";
const FROM_ICMPV6: &str = "from_icmpv6";
const POSTROUTING: &str = "postrouting";

/// Elements to a message: an attribute holds at most 64 KiB, an element some 44 bytes.
const ELEMENTS_PER_MESSAGE: usize = 512;

/// Types of set keys, as userspace numbers them: the kernel keeps the number for
/// `nft list` and doesn't look at it. Concatenated ones are 6 bits each.
mod key_type {
    pub(super) const INTERFACE_NAME: u32 = 41;
    pub(super) const ETHERNET: u32 = 9;
    pub(super) const IPV4: u32 = 7;
    pub(super) const IPV6: u32 = 8;
    /// An interface name and then `second`.
    pub(super) const fn after_interface(second: u32) -> u32 {
        (INTERFACE_NAME << 6) | second
    }
}

/// A batch that replaces both tables by new ones, with the elements of `leases`.
///
/// The kernel swaps old for new at once: no frame passes unfiltered in between.
#[must_use]
pub fn rebuild(bridge: &str, networks: &[IpNet], masquerade: bool, leases: &[Lease]) -> Batch {
    let mut batch = Batch::new();
    for family in [Family::Bridge, Family::Inet] {
        replace_table(&mut batch, bridge, family);
    }
    let filter = Table {
        name: bridge,
        family: Family::Bridge,
    };
    filter.sets(&mut batch);
    filter.spoofing_rules(&mut batch);
    insert_elements(&mut batch, bridge, leases);

    let nat = Table {
        name: bridge,
        family: Family::Inet,
    };
    // The chain is there even without rules, as a place for operators to look.
    nat.postrouting_chain(&mut batch);
    if masquerade {
        nat.masquerade_rules(&mut batch, bridge, networks);
    }
    batch
}

/// A batch that removes both tables.
#[must_use]
pub fn remove(bridge: &str) -> Batch {
    let mut batch = Batch::new();
    for family in [Family::Bridge, Family::Inet] {
        // Creating first makes deleting succeed whether it was there or not.
        create_table(&mut batch, bridge, family);
        delete_table(&mut batch, bridge, family);
    }
    batch
}

/// A batch that lets one pod's frames pass.
#[must_use]
pub fn admit(bridge: &str, lease: &Lease) -> Batch {
    let mut batch = Batch::new();
    insert_elements(&mut batch, bridge, std::slice::from_ref(lease));
    batch
}

/// A batch that takes a pod's elements away, whether they are there or not.
///
/// The kernel refuses to delete what doesn't exist, so each is added first: within
/// a batch that has no effect but to make the deletion succeed.
#[must_use]
pub fn expel(bridge: &str, lease: &Lease) -> Batch {
    let mut batch = admit(bridge, lease);
    for (set, key) in elements_of(lease) {
        elements_message(&mut batch, Kind::DeleteElements, bridge, set, &[key]);
    }
    batch
}

/// What a pod's elements are, set by set; `taps` comes first.
fn elements_of(lease: &Lease) -> Vec<(&'static str, Vec<u8>)> {
    let tap = lease.tap.as_str();
    let mut elements = vec![
        (TAPS, interface_name(tap)),
        (MACS, interface_and(tap, &lease.mac.0)),
    ];
    for address in lease.ips() {
        match address {
            IpAddr::V4(address) => {
                elements.push((IPV4, interface_and(tap, &address.octets())));
            }
            IpAddr::V6(address) => {
                elements.push((IPV6, interface_and(tap, &address.octets())));
            }
        }
    }
    let link_local = lease.mac.link_local();
    elements.push((IPV6, interface_and(tap, &link_local.octets())));
    elements
}

fn insert_elements(batch: &mut Batch, bridge: &str, leases: &[Lease]) {
    for set in [TAPS, MACS, IPV4, IPV6] {
        let keys: Vec<Vec<u8>> = leases
            .iter()
            .flat_map(elements_of)
            .filter(|(of, _)| *of == set)
            .map(|(_, key)| key)
            .collect();
        for keys in keys.chunks(ELEMENTS_PER_MESSAGE) {
            elements_message(batch, Kind::NewElements, bridge, set, keys);
        }
    }
}

fn elements_message(batch: &mut Batch, kind: Kind, table: &str, set: &str, keys: &[Vec<u8>]) {
    let (verb, flags) = match kind {
        Kind::DeleteElements => ("delete", 0),
        _ => ("add", CREATE),
    };
    batch.push(
        format!("{verb} elements of set {set} in table bridge {table}"),
        kind,
        Family::Bridge,
        flags,
        |message| {
            // NFTA_SET_ELEM_LIST_TABLE, _SET, _ELEMENTS
            message.text(1, table);
            message.text(2, set);
            message.nest(3, |list| {
                for key in keys {
                    list.nest(LIST_ELEMENT, |element| {
                        // NFTA_SET_ELEM_KEY
                        element.nest(1, |data| {
                            data.bytes(DATA_VALUE, key);
                        });
                    });
                }
            });
        },
    );
}

fn create_table(batch: &mut Batch, name: &str, family: Family) {
    batch.push(
        format!("create table {} {name}", family_name(family)),
        Kind::NewTable,
        family,
        CREATE,
        // NFTA_TABLE_NAME
        |table| {
            table.text(1, name);
        },
    );
}

fn delete_table(batch: &mut Batch, name: &str, family: Family) {
    batch.push(
        format!("delete table {} {name}", family_name(family)),
        Kind::DeleteTable,
        family,
        0,
        |table| {
            table.text(1, name);
        },
    );
}

fn replace_table(batch: &mut Batch, name: &str, family: Family) {
    create_table(batch, name, family);
    delete_table(batch, name, family);
    create_table(batch, name, family);
}

fn family_name(family: Family) -> &'static str {
    match family {
        Family::Unspecified => "any",
        Family::Inet => "inet",
        Family::Ipv4 => "ip",
        Family::Bridge => "bridge",
        Family::Ipv6 => "ip6",
    }
}

/// A table that rules are written into.
struct Table<'a> {
    name: &'a str,
    family: Family,
}

/// Where a chain is called from the kernel.
struct Hook {
    /// `NFT_CHAIN_TYPE`: `filter` or `nat`.
    kind: &'static str,
    /// Place on the packet's way (`enum nf_inet_hooks`, `NF_BR_*`).
    number: u32,
    /// Order among chains of the same place; lower is earlier.
    priority: i32,
}

impl Table<'_> {
    fn sets(&self, batch: &mut Batch) {
        let name = INTERFACE_NAME_LEN;
        self.set(batch, TAPS, key_type::INTERFACE_NAME, name);
        // Six bytes of MAC take two words.
        let ethernet = key_type::after_interface(key_type::ETHERNET);
        self.set(batch, MACS, ethernet, name + 8);
        let ipv4 = key_type::after_interface(key_type::IPV4);
        self.set(batch, IPV4, ipv4, name + 4);
        let ipv6 = key_type::after_interface(key_type::IPV6);
        self.set(batch, IPV6, ipv6, name + 16);
    }

    fn spoofing_rules(&self, batch: &mut Batch) {
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

    fn postrouting_chain(&self, batch: &mut Batch) {
        let hook = Hook {
            kind: "nat",
            // NF_INET_POST_ROUTING, and nft's priority `srcnat`.
            number: 4,
            priority: 100,
        };
        self.chain(batch, POSTROUTING, Some(&hook));
    }

    fn masquerade_rules(&self, batch: &mut Batch, bridge: &str, networks: &[IpNet]) {
        for network in networks {
            let (family, offset, mask, address) = match network {
                // RFC 791 and RFC 8200: source addresses.
                IpNet::V4(network) => (
                    Family::Ipv4,
                    12,
                    network.netmask().octets().to_vec(),
                    network.network().octets().to_vec(),
                ),
                IpNet::V6(network) => (
                    Family::Ipv6,
                    8,
                    network.netmask().octets().to_vec(),
                    network.network().octets().to_vec(),
                ),
            };
            let length = u32::try_from(address.len()).unwrap_or(u32::MAX);
            let body = vec![
                Expr::Meta(Meta::Family, Register::FIRST),
                Expr::Equal(Register::FIRST, vec![family as u8]),
                Expr::Meta(Meta::OutputInterface, Register::FIRST),
                Expr::NotEqual(Register::FIRST, interface_name(bridge)),
                load(Header::Network, offset, length, Register::FIRST),
                Expr::Mask(Register::FIRST, mask),
                Expr::Equal(Register::FIRST, address),
                Expr::Counter,
                Expr::Masquerade,
            ];
            self.rule(batch, POSTROUTING, "leaves the pool", &body);
        }
    }

    fn set(&self, batch: &mut Batch, set: &'static str, key_type: u32, key_length: usize) {
        let identifier = u32::try_from(batch.len()).unwrap_or(u32::MAX);
        batch.push(
            format!("create set {set} in table {}", self.name),
            Kind::NewSet,
            self.family,
            CREATE,
            |message| {
                // NFTA_SET_TABLE, _NAME, _FLAGS, _KEY_TYPE, _KEY_LEN, _ID
                message.text(1, self.name);
                message.text(2, set);
                message.number(3, 0);
                message.number(4, key_type);
                message.number(5, u32::try_from(key_length).unwrap_or(u32::MAX));
                message.number(10, identifier);
            },
        );
    }

    fn chain(&self, batch: &mut Batch, chain: &str, hook: Option<&Hook>) {
        batch.push(
            format!("create chain {chain} in table {}", self.name),
            Kind::NewChain,
            self.family,
            CREATE,
            |message| {
                // NFTA_CHAIN_TABLE, _NAME, _HOOK { _HOOKNUM, _PRIORITY }, _POLICY, _TYPE
                message.text(1, self.name);
                message.text(3, chain);
                if let Some(hook) = hook {
                    message.nest(4, |place| {
                        place.number(1, hook.number);
                        place.bytes(2, &hook.priority.to_be_bytes());
                    });
                    // NF_ACCEPT: what isn't from a pod is none of our business.
                    message.number(5, 1);
                    message.text(7, hook.kind);
                }
            },
        );
    }

    fn rule(&self, batch: &mut Batch, chain: &str, comment: &str, body: &[Expr]) {
        batch.push(
            format!(
                "add rule \"{comment}\" to chain {chain} in table {}",
                self.name
            ),
            Kind::NewRule,
            self.family,
            CREATE | APPEND,
            |message| {
                // NFTA_RULE_TABLE, _CHAIN, _EXPRESSIONS, _USERDATA
                message.text(1, self.name);
                message.text(2, chain);
                message.nest(4, |list| {
                    for expr in body {
                        expr.write(list);
                    }
                });
                write_comment(message, comment);
            },
        );
    }
}

/// The comment that `nft list` prints: a type, a length, a NUL-terminated text.
fn write_comment(message: &mut Attributes<'_>, comment: &str) {
    const USERDATA: u16 = 7;
    const COMMENT: u8 = 0;
    if let Ok(length) = u8::try_from(comment.len() + 1) {
        let mut userdata = vec![COMMENT, length];
        userdata.extend_from_slice(comment.as_bytes());
        userdata.push(0);
        message.bytes(USERDATA, &userdata);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::MacAddr;
    use crate::nft::message::{AttributeIter, replies};

    const NEW_ELEMENTS: u16 = 0x0a0c;
    const DELETE_ELEMENTS: u16 = 0x0a0e;

    fn lease() -> Lease {
        Lease {
            pod_id: "0123456789abcdef".to_owned(),
            tap: "bh01234567".to_owned(),
            mac: MacAddr([2, 0x62, 10, 189, 0, 2]),
            addresses: vec![
                "10.189.0.2/16".parse().unwrap(),
                "fd00::2/64".parse().unwrap(),
            ],
            routes: Vec::new(),
            mtu: 1500,
        }
    }

    /// The changes of a batch: type, and the text of an attribute (0 if it has none).
    fn changes(batch: &Batch, attribute: u16) -> Vec<(u16, String)> {
        let bytes = batch.finish().unwrap();
        let all: Vec<_> = replies(&bytes)
            .map(|message| {
                let text = message
                    .generic()
                    .unwrap()
                    .1
                    .find(|(kind, _)| *kind == attribute);
                let text = text.map_or(&b""[..], |(_, payload)| payload);
                let text = String::from_utf8_lossy(text);
                (message.kind, text.trim_end_matches('\0').to_owned())
            })
            .collect();
        // Without the messages that open and close it.
        all[1..all.len() - 1].to_vec()
    }

    #[test]
    fn a_pod_is_admitted_by_its_tap_mac_and_addresses() {
        let batch = admit("bulkhead0", &lease());
        let sets: Vec<_> = changes(&batch, 2).into_iter().collect();
        let expected = ["taps", "macs", "ipv4", "ipv6"].map(|set| (NEW_ELEMENTS, set.to_owned()));
        assert_eq!(sets, expected);

        // The last message holds two addresses: the leased one and the link-local one.
        let bytes = batch.finish().unwrap();
        let message = replies(&bytes).nth(4).unwrap();
        let (_, list) = message
            .generic()
            .unwrap()
            .1
            .find(|(kind, _)| *kind == 3)
            .unwrap();
        let keys: Vec<Vec<u8>> = AttributeIter::nested(list)
            .map(|(_, element)| {
                let (_, key) = AttributeIter::nested(element).next().unwrap();
                AttributeIter::nested(key).next().unwrap().1.to_vec()
            })
            .collect();
        assert_eq!(keys.len(), 2);
        assert!(
            keys.iter()
                .all(|key| key.len() == 32 && key.starts_with(b"bh01234567\0"))
        );
        assert_eq!(keys[1][16..18], [0xfe, 0x80]);
    }

    #[test]
    fn expelling_adds_before_it_deletes() {
        let batch = expel("bulkhead0", &lease());
        let kinds: Vec<_> = changes(&batch, 2)
            .into_iter()
            .map(|(kind, _)| kind)
            .collect();
        assert_eq!(kinds[..4], [NEW_ELEMENTS; 4]);
        assert_eq!(kinds[4..], [DELETE_ELEMENTS; 5]);
    }

    #[test]
    fn every_chain_of_the_filter_ends_in_a_drop() {
        let batch = rebuild("bulkhead0", &[], true, &[]);
        let bytes = batch.finish().unwrap();
        let mut last = std::collections::BTreeMap::new();
        for message in replies(&bytes) {
            const NEW_RULE: u16 = 0x0a06;
            if message.kind == NEW_RULE {
                let (family, mut attributes) = message.generic().unwrap();
                assert_eq!(family, Family::Bridge as u8);
                let chain = attributes.find(|(kind, _)| *kind == 2).unwrap().1.to_vec();
                let body = attributes.find(|(kind, _)| *kind == 4).unwrap().1.to_vec();
                last.insert(chain, body);
            }
        }
        assert_eq!(last.len(), 5);
        let mut ending = Batch::new();
        ending.push("x", Kind::NewRule, Family::Bridge, 0, |message| {
            message.nest(4, |list| {
                Expr::Counter.write(list);
                drop_it().write(list);
            });
        });
        let ending = ending.finish().unwrap();
        let ending = replies(&ending).nth(1).unwrap();
        let (_, ending) = ending.generic().unwrap().1.next().unwrap();
        for (chain, body) in last {
            assert_eq!(body, ending, "{}", String::from_utf8_lossy(&chain));
        }
    }

    #[test]
    fn many_pods_are_split_over_messages() {
        let leases = vec![lease(); 2000];
        let batch = rebuild("bulkhead0", &[], false, &leases);
        assert!(batch.finish().is_some(), "no attribute is too long");
    }
}
