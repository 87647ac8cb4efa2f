//! What one pod holds of the network.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::ports::HostPort;

/// Prefix of every tap's name.
const TAP_PREFIX: &str = "bh";
/// Hexadecimal digits after the prefix.
const TAP_DIGITS: usize = 8;

/// An Ethernet address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MacAddr(pub [u8; 6]);

impl MacAddr {
    /// The address that goes with an IPv4 address: `02:62` and its four bytes.
    ///
    /// Bit 1 of the first byte marks it as locally administered (IEEE 802 §8).
    /// Tied to the IP address, so that a neighbour's cached entry stays true when
    /// the address is leased again.
    #[must_use]
    pub fn for_ipv4(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Self([0x02, 0x62, a, b, c, d])
    }

    /// The same for a pod that has only IPv6: `02:66` and the last four bytes.
    #[must_use]
    pub fn for_ipv6(address: Ipv6Addr) -> Self {
        let [.., a, b, c, d] = address.octets();
        Self([0x02, 0x66, a, b, c, d])
    }

    /// A bridge's address: `02:60` and four bytes of its name's hash, so that it
    /// stays when the bridge is made anew and no pod can have the same.
    #[must_use]
    pub fn for_bridge(name: &str) -> Self {
        let [a, b, c, d, ..] = fnv1a(name).to_be_bytes();
        Self([0x02, 0x60, a, b, c, d])
    }

    /// The link-local IPv6 address that the guest's kernel derives from it
    /// (modified EUI-64, RFC 4291 appendix A).
    #[must_use]
    pub fn link_local(self) -> Ipv6Addr {
        let [a, b, c, d, e, f] = self.0;
        Ipv6Addr::from([
            0xfe,
            0x80,
            0,
            0,
            0,
            0,
            0,
            0, // fe80::/64
            a ^ 0x02,
            b,
            c,
            0xff,
            0xfe,
            d,
            e,
            f,
        ])
    }
}

impl fmt::Display for MacAddr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, f] = self.0;
        write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
    }
}

impl fmt::Debug for MacAddr {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

/// A route that the guest sets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Where to; `0.0.0.0/0` and `::/0` are the default routes.
    pub destination: IpNet,
    /// Next hop, on the link of the pod's interface.
    pub gateway: IpAddr,
}

/// What one pod holds of the network: kept in the state database from before the
/// first effect until after the last one is undone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The pod that holds it.
    pub pod_id: String,
    /// Name of the host's interface.
    pub tap: String,
    /// Ethernet address of the guest's interface.
    pub mac: MacAddr,
    /// The guest's addresses with the length of their on-link prefix; IPv4 first.
    pub addresses: Vec<IpNet>,
    /// The guest's routes, beside those that follow from its addresses.
    pub routes: Vec<Route>,
    /// Largest packet in bytes, without the Ethernet header.
    pub mtu: u16,
    /// Ports of the host that lead to it.
    #[serde(default)]
    pub ports: Vec<HostPort>,
}

impl Lease {
    /// The pod's addresses, the primary one first, as CRI reports them.
    pub fn ips(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.addresses.iter().map(IpNet::addr)
    }

    /// The next hops of the pod's default routes.
    pub fn gateways(&self) -> impl Iterator<Item = IpAddr> + '_ {
        self.routes
            .iter()
            .filter(|route| route.destination.prefix_len() == 0)
            .map(|route| route.gateway)
    }
}

/// Whether an interface's name is one that [`tap_name`] makes.
#[must_use]
pub(crate) fn is_tap_name(name: &str) -> bool {
    name.strip_prefix(TAP_PREFIX).is_some_and(|digits| {
        digits.len() == TAP_DIGITS
            && digits
                .bytes()
                .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    })
}

/// The tap's name for a pod: `bh` and eight hexadecimal digits of its id, the
/// first eight that no other pod has taken.
///
/// An id that isn't hexadecimal is hashed; `None` if every candidate is taken.
pub(crate) fn tap_name(pod_id: &str, taken: impl Fn(&str) -> bool) -> Option<String> {
    let digits = hex_of(pod_id);
    digits
        .as_bytes()
        .chunks_exact(TAP_DIGITS)
        .filter_map(|chunk| std::str::from_utf8(chunk).ok())
        .map(|chunk| format!("{TAP_PREFIX}{chunk}"))
        .find(|name| !taken(name))
}

/// The id itself if it is hexadecimal and long enough, else 32 digits of its hash.
fn hex_of(pod_id: &str) -> String {
    let hexadecimal = pod_id
        .bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    if hexadecimal && pod_id.len() >= TAP_DIGITS {
        return pod_id.to_owned();
    }
    format!("{:032x}", fnv1a(pod_id))
}

/// FNV-1a of 128 bits (RFC 9923): names need to be spread, not to be secret.
fn fnv1a(text: &str) -> u128 {
    const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
    const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;
    text.bytes().fold(OFFSET, |hash, byte| {
        (hash ^ u128::from(byte)).wrapping_mul(PRIME)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn macs_are_local_unicast_and_follow_the_address() {
        let mac = MacAddr::for_ipv4(Ipv4Addr::new(10, 189, 0, 7));
        assert_eq!(mac.to_string(), "02:62:0a:bd:00:07");
        assert_eq!(mac.0[0] & 0b11, 0b10);
        assert_eq!(mac.link_local().to_string(), "fe80::62:aff:febd:7");
    }

    #[test]
    fn tap_names_come_from_the_id_and_avoid_taken_ones() {
        let id = "0123456789abcdef0123456789abcdef";
        assert_eq!(tap_name(id, |_| false).unwrap(), "bh01234567");
        assert_eq!(
            tap_name(id, |name| name == "bh01234567").unwrap(),
            "bh89abcdef"
        );
        assert_eq!(tap_name(id, |_| true), None);
    }

    #[test]
    fn ids_that_are_not_hexadecimal_are_hashed() {
        let one = tap_name("my-pod", |_| false).unwrap();
        let other = tap_name("my-pod2", |_| false).unwrap();
        assert!(is_tap_name(&one) && is_tap_name(&other));
        assert_ne!(one, other);
        assert!(is_tap_name(&tap_name("", |_| false).unwrap()));
        assert!(is_tap_name(&tap_name("../../x", |_| false).unwrap()));
    }

    #[test]
    fn tap_names_are_told_from_others() {
        assert!(is_tap_name("bh0123abcd"));
        for name in [
            "bh",
            "bulkhead0",
            "bh0123abcg",
            "bh0123abc",
            "bh0123abcde",
            "BH0123abcd",
        ] {
            assert!(!is_tap_name(name), "{name}");
        }
    }

    #[test]
    fn leases_survive_the_database() {
        let lease = Lease {
            pod_id: "0123456789abcdef".to_owned(),
            tap: "bh01234567".to_owned(),
            mac: MacAddr([2, 0x62, 10, 189, 0, 2]),
            addresses: vec!["10.189.0.2/16".parse().unwrap()],
            routes: vec![Route {
                destination: "0.0.0.0/0".parse().unwrap(),
                gateway: "10.189.0.1".parse().unwrap(),
            }],
            mtu: 1500,
            ports: Vec::new(),
        };
        let text = serde_json::to_string(&lease).unwrap();
        assert_eq!(serde_json::from_str::<Lease>(&text).unwrap(), lease);
        assert_eq!(
            lease.gateways().collect::<Vec<_>>(),
            ["10.189.0.1".parse::<IpAddr>().unwrap()]
        );
    }
}
