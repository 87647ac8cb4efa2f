//! Ports of the host that lead to pods, in the inet table.
//!
//! As with the filter, the rules never change; a pod's ports are elements of maps,
//! from where a connection is for to where it goes:
//!
//! ```text
//! map ports4    { transport . port → pod address . pod port }            all addresses
//! map ports6
//! map address_ports4 { transport . host address . port → … }             one address
//! map address_ports6
//!
//! prerouting, output   destination is the host's own → host_ports
//! host_ports           in address_ports → redirect; in ports → redirect
//! ```
//!
//! **What the host itself says to 127.0.0.1** leaves by the bridge with a source that
//! nobody could answer, so it takes the bridge's address; and the kernel must be told
//! to route it at all (`route_localnet` of the bridge, see [`crate::sysctl`]). With
//! that setting it would also take packets for 127.0.0.1 *from* pods, and with them
//! whatever the host offers to itself alone (CVE-2020-8558): those are dropped first
//! thing. ::1 is left out: IPv6 has no such setting.
//!
//! **What a pod says to the host's address** and comes back to the bridge takes the
//! bridge's address too: the other pod would answer directly, and the answer would
//! come from an address that was never asked.

use std::net::{IpAddr, Ipv6Addr};

use ipnet::IpNet;

use super::elements::Element;
use super::masquerade::{POSTROUTING, source_in};
use super::table::{Hook, Table, concatenated, key_type};
use crate::lease::Lease;
use crate::nft::expr::{
    ADDRESS_IS_LOCAL, DESTINATION_WAS_CHANGED, Expr, Header, Meta, Register, Verdict,
    interface_name,
};
use crate::nft::message::{Batch, Family};

const PORTS4: &str = "ports4";
const PORTS6: &str = "ports6";
const ADDRESS_PORTS4: &str = "address_ports4";
const ADDRESS_PORTS6: &str = "address_ports6";
/// All maps that pods are elements of.
pub(super) const MAPS: [&str; 4] = [PORTS4, PORTS6, ADDRESS_PORTS4, ADDRESS_PORTS6];

const HOST_PORTS: &str = "host_ports";
/// Where a map's value is loaded to: behind the longest key.
const VALUE: Register = Register::word(8);

/// What differs between the families.
struct Side {
    family: Family,
    ports: &'static str,
    address_ports: &'static str,
    /// Type and bytes of an address.
    address: (u32, usize),
    /// Where the destination address is in the header (RFC 791 §3.1, RFC 8200 §3).
    destination: u32,
}

const SIDES: [Side; 2] = [
    Side {
        family: Family::Ipv4,
        ports: PORTS4,
        address_ports: ADDRESS_PORTS4,
        address: (key_type::IPV4, 4),
        destination: 16,
    },
    Side {
        family: Family::Ipv6,
        ports: PORTS6,
        address_ports: ADDRESS_PORTS6,
        address: (key_type::IPV6, 16),
        destination: 24,
    },
];

/// A pod's ports as elements of the maps.
pub(super) fn elements_of(lease: &Lease) -> Vec<(&'static str, Element)> {
    let mut elements = Vec::new();
    for port in &lease.ports {
        for pod in lease.ips() {
            let [ipv4, ipv6] = &SIDES;
            let side = if pod.is_ipv6() { ipv6 } else { ipv4 };
            if !port.is_for(pod.is_ipv6()) {
                continue;
            }
            let mut key = word(&[port.transport as u8]);
            let map = match port.address() {
                None => side.ports,
                Some(address) => {
                    key.extend(octets(address));
                    side.address_ports
                }
            };
            key.extend(word(&port.host_port.to_be_bytes()));
            let mut value = octets(pod);
            value.extend(word(&port.pod_port.to_be_bytes()));
            let value = Some(value);
            elements.push((map, Element { key, value }));
        }
    }
    elements
}

/// A field, padded to a whole word.
fn word(field: &[u8]) -> Vec<u8> {
    let mut word = field.to_vec();
    word.resize(4, 0);
    word
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => address.octets().to_vec(),
        IpAddr::V6(address) => address.octets().to_vec(),
    }
}

impl Table<'_> {
    /// Maps, chains and rules.
    pub(super) fn host_port_rules(&self, batch: &mut Batch, bridge: &str, networks: &[IpNet]) {
        for side in &SIDES {
            let (address, length) = side.address;
            let value = (concatenated(&[address, key_type::PORT]), length + 4);
            let key = concatenated(&[key_type::TRANSPORT, key_type::PORT]);
            self.map(batch, side.ports, (key, 8), value);
            let key = concatenated(&[key_type::TRANSPORT, address, key_type::PORT]);
            self.map(batch, side.address_ports, (key, 8 + length), value);
        }
        self.loopback_rule(batch, bridge);
        self.chain(batch, HOST_PORTS, None);
        for side in &SIDES {
            self.redirect_rules(batch, side);
        }
        // NF_INET_PRE_ROUTING and NF_INET_LOCAL_OUT, at nft's priority `dstnat`.
        for (chain, number) in [("prerouting", 0), ("output", 3)] {
            let hook = Hook {
                kind: "nat",
                number,
                priority: -100,
            };
            self.chain(batch, chain, Some(&hook));
            let body = [
                Expr::DestinationType(Register::FIRST),
                Expr::Equal(Register::FIRST, ADDRESS_IS_LOCAL.to_vec()),
                Expr::Verdict(Verdict::Goto(HOST_PORTS)),
            ];
            self.rule(batch, chain, "for the host", &body);
        }
        self.return_rules(batch, bridge, networks);
    }

    /// Nobody but the host speaks to its loopback addresses.
    fn loopback_rule(&self, batch: &mut Batch, bridge: &str) {
        const FROM_PODS: &str = "from_pods";
        let hook = Hook {
            kind: "filter",
            // NF_INET_PRE_ROUTING, at nft's priority `raw`: before connection tracking
            // puts 127.0.0.1 into answers.
            number: 0,
            priority: -300,
        };
        self.chain(batch, FROM_PODS, Some(&hook));
        let mut body = of_family(Family::Ipv4).to_vec();
        body.extend([
            Expr::Meta(Meta::InputInterface, Register::FIRST),
            Expr::Equal(Register::FIRST, interface_name(bridge)),
            Expr::Payload {
                header: Header::Network,
                offset: 16,
                length: 1,
                register: Register::FIRST,
            },
            Expr::Equal(Register::FIRST, vec![127]),
            Expr::Counter,
            Expr::Verdict(Verdict::Drop),
        ]);
        self.rule(batch, FROM_PODS, "to the host's loopback", &body);
    }

    fn redirect_rules(&self, batch: &mut Batch, side: &Side) {
        let (_, length) = side.address;
        let length = u32::try_from(length).unwrap_or(u32::MAX);
        let destination = |register| Expr::Payload {
            header: Header::Network,
            offset: side.destination,
            length,
            register,
        };
        if side.family == Family::Ipv6 {
            let mut body = of_family(side.family).to_vec();
            body.extend([
                destination(Register::FIRST),
                Expr::Equal(Register::FIRST, Ipv6Addr::LOCALHOST.octets().to_vec()),
                Expr::Verdict(Verdict::Accept),
            ]);
            self.rule(batch, HOST_PORTS, "::1 is the host's alone", &body);
        }
        for (comment, map, with_address) in [
            ("a port of one address", side.address_ports, true),
            ("a port of all addresses", side.ports, false),
        ] {
            let mut body = of_family(side.family).to_vec();
            body.push(Expr::Meta(Meta::Transport, Register::FIRST));
            let mut next = 1;
            if with_address {
                body.push(destination(Register::word(next)));
                next += length / 4;
            }
            body.extend([
                // The destination port of TCP, UDP and SCTP alike; other protocols are
                // in no map.
                Expr::Payload {
                    header: Header::Transport,
                    offset: 2,
                    length: 2,
                    register: Register::word(next),
                },
                Expr::Map(map, VALUE),
                Expr::Counter,
                Expr::Redirect {
                    family: side.family,
                    address: VALUE,
                    port: Register::word(8 + length / 4),
                },
            ]);
            self.rule(batch, HOST_PORTS, comment, &body);
        }
    }

    /// What must come back through us takes the bridge's address.
    fn return_rules(&self, batch: &mut Batch, bridge: &str, networks: &[IpNet]) {
        let by_the_bridge = || {
            [
                Expr::Meta(Meta::OutputInterface, Register::FIRST),
                Expr::Equal(Register::FIRST, interface_name(bridge)),
            ]
        };
        let loopback = IpNet::V4(ipnet::Ipv4Net::new_assert([127, 0, 0, 0].into(), 8));
        let mut body = source_in(&loopback);
        body.extend(by_the_bridge());
        body.extend([Expr::Counter, Expr::Masquerade]);
        self.rule(batch, POSTROUTING, "from the host's loopback", &body);
        for network in networks {
            let mut body = source_in(network);
            body.extend(by_the_bridge());
            body.extend([
                Expr::ConnectionStatus(Register::FIRST),
                Expr::Mask(Register::FIRST, DESTINATION_WAS_CHANGED.to_vec()),
                Expr::Equal(Register::FIRST, DESTINATION_WAS_CHANGED.to_vec()),
                Expr::Counter,
                Expr::Masquerade,
            ]);
            self.rule(batch, POSTROUTING, "from pod to pod by the host", &body);
        }
    }
}

/// Ends the rule for packets of another family.
fn of_family(family: Family) -> [Expr; 2] {
    [
        Expr::Meta(Meta::Family, Register::FIRST),
        Expr::Equal(Register::FIRST, vec![family as u8]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lease::MacAddr;
    use crate::ports::{HostPort, Transport};

    fn lease(host_ip: Option<&str>) -> Lease {
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
            ports: vec![HostPort {
                transport: Transport::Udp,
                host_ip: host_ip.map(|address| address.parse().unwrap()),
                host_port: 0x1234,
                pod_port: 0x0050,
            }],
        }
    }

    #[test]
    fn a_port_of_all_addresses_is_one_of_each_family() {
        let elements = elements_of(&lease(None));
        let key = vec![17, 0, 0, 0, 0x12, 0x34, 0, 0];
        assert_eq!(elements.len(), 2);
        assert_eq!(elements[0].0, PORTS4);
        assert_eq!(elements[0].1.key, key);
        let value = [10, 189, 0, 2, 0, 0x50, 0, 0];
        assert_eq!(elements[0].1.value.as_deref(), Some(&value[..]));
        assert_eq!(elements[1].0, PORTS6);
        assert_eq!(elements[1].1.key, key);
        assert_eq!(elements[1].1.value.as_ref().unwrap().len(), 20);
        // An unspecified address means one family.
        let maps = |host_ip| {
            let elements = elements_of(&lease(Some(host_ip)));
            elements.into_iter().map(|(map, _)| map).collect::<Vec<_>>()
        };
        assert_eq!(maps("0.0.0.0"), [PORTS4]);
        assert_eq!(maps("::"), [PORTS6]);
    }

    #[test]
    fn a_port_of_one_address_has_it_in_its_key() {
        let elements = elements_of(&lease(Some("192.0.2.1")));
        assert_eq!(elements.len(), 1);
        let (map, Element { key, .. }) = &elements[0];
        assert_eq!(*map, ADDRESS_PORTS4);
        assert_eq!(
            key.as_slice(),
            [17, 0, 0, 0, 192, 0, 2, 1, 0x12, 0x34, 0, 0]
        );
        let elements = elements_of(&lease(Some("fd00::9")));
        assert_eq!(elements.len(), 1);
        assert_eq!(
            (elements[0].0, elements[0].1.key.len()),
            (ADDRESS_PORTS6, 24)
        );
    }
}
