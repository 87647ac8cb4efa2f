//! rtnetlink messages, as far as the agent speaks them: pure bytes.
//!
//! A message is a header (netlink(7)), a fixed part of its kind (rtnetlink(7)),
//! and attributes, each aligned to four bytes. Numbers are in host order, network
//! addresses in network order.
//!
//! ```text
//!  nlmsghdr: len u32, type u16, flags u16, seq u32, pid u32
//!  fixed part: ifinfomsg | ifaddrmsg | rtmsg | ndmsg
//!  attribute*: len u16, type u16, payload, padding
//! ```

use std::net::IpAddr;

use ipnet::IpNet;

use super::parse::{Mac, RoutePlan};

const HEADER: usize = 16;

// Message types of linux/rtnetlink.h and linux/netlink.h.
const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const RTM_SETLINK: u16 = 19;
const RTM_NEWADDR: u16 = 20;
const RTM_NEWROUTE: u16 = 24;
const RTM_NEWNEIGH: u16 = 28;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;

const NLM_F_REQUEST: u16 = 0x1;
const NLM_F_ACK: u16 = 0x4;
const NLM_F_DUMP: u16 = 0x300;
const NLM_F_REPLACE: u16 = 0x100;
const NLM_F_CREATE: u16 = 0x400;
const PUT: u16 = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;

const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const IFA_BROADCAST: u16 = 4;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PRIORITY: u16 = 6;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;

const IFF_UP: u32 = 1;
const IFA_F_NODAD: u8 = 0x02;
const NUD_PERMANENT: u16 = 0x80;
const RT_TABLE_MAIN: u8 = 254;
const RTPROT_STATIC: u8 = 4;
const RT_SCOPE_UNIVERSE: u8 = 0;
const RT_SCOPE_LINK: u8 = 253;
const RTN_UNICAST: u8 = 1;
const RTNH_F_ONLINK: u32 = 4;

/// A request; its sequence number is put in when it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Request(Vec<u8>);

impl Request {
    fn new(kind: u16, flags: u16, fixed: &[&[u8]]) -> Self {
        let mut bytes = vec![0; 4];
        bytes.extend_from_slice(&kind.to_ne_bytes());
        bytes.extend_from_slice(&flags.to_ne_bytes());
        bytes.resize(HEADER, 0);
        fixed.iter().for_each(|part| bytes.extend_from_slice(part));
        Self(bytes)
    }

    fn attribute(mut self, kind: u16, payload: &[u8]) -> Self {
        let len = u16::try_from(4 + payload.len()).unwrap_or(u16::MAX);
        self.0.extend_from_slice(&len.to_ne_bytes());
        self.0.extend_from_slice(&kind.to_ne_bytes());
        self.0.extend_from_slice(payload);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    /// The message's bytes under a sequence number.
    pub(super) fn numbered(mut self, sequence: u32) -> Vec<u8> {
        let len = u32::try_from(self.0.len()).unwrap_or(u32::MAX);
        put(&mut self.0, 0, &len.to_ne_bytes());
        put(&mut self.0, 8, &sequence.to_ne_bytes());
        self.0
    }
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..at + value.len()) {
        place.copy_from_slice(value);
    }
}

fn family(address: IpAddr) -> u8 {
    // AF_INET and AF_INET6 of linux/socket.h.
    if address.is_ipv4() { 2 } else { 10 }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(v4) => v4.octets().to_vec(),
        IpAddr::V6(v6) => v6.octets().to_vec(),
    }
}

/// ifinfomsg: family, pad, type u16, index, flags, change mask.
fn link(kind: u16, flags: u16, index: u32, set: u32) -> Request {
    Request::new(
        kind,
        flags,
        &[
            &[0; 4],
            &index.to_ne_bytes(),
            &set.to_ne_bytes(),
            &set.to_ne_bytes(),
        ],
    )
}

/// Asks for all interfaces.
pub(super) fn list_links() -> Request {
    link(RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP, 0, 0)
}

/// Renames an interface and sets its MTU. It must be down.
pub(super) fn rename(index: u32, name: &str, mtu: Option<u32>) -> Request {
    let mut zero_terminated = name.as_bytes().to_vec();
    zero_terminated.push(0);
    let request = link(RTM_SETLINK, NLM_F_REQUEST | NLM_F_ACK, index, 0)
        .attribute(IFLA_IFNAME, &zero_terminated);
    match mtu {
        Some(mtu) => request.attribute(IFLA_MTU, &mtu.to_ne_bytes()),
        None => request,
    }
}

/// Brings an interface up.
pub(super) fn up(index: u32) -> Request {
    link(RTM_SETLINK, NLM_F_REQUEST | NLM_F_ACK, index, IFF_UP)
}

/// Gives an interface an address, without duplicate detection.
pub(super) fn address(index: u32, address: IpNet) -> Request {
    let own = octets(address.addr());
    let flags = if address.addr().is_ipv6() {
        IFA_F_NODAD
    } else {
        0
    };
    // ifaddrmsg: family, prefix length, flags, scope, index.
    let request = Request::new(
        RTM_NEWADDR,
        PUT,
        &[
            &[
                family(address.addr()),
                address.prefix_len(),
                flags,
                RT_SCOPE_UNIVERSE,
            ],
            &index.to_ne_bytes(),
        ],
    )
    .attribute(IFA_LOCAL, &own)
    .attribute(IFA_ADDRESS, &own);
    match address {
        IpNet::V4(v4) if v4.prefix_len() < 31 => {
            request.attribute(IFA_BROADCAST, &v4.broadcast().octets())
        }
        _ => request,
    }
}

/// Adds a route. `on_link`: the gateway is reached directly, though no address
/// of the interface says so.
pub(super) fn route(index: u32, route: &RoutePlan, on_link: bool) -> Request {
    let destination = route.destination.network();
    let scope = if route.gateway.is_none() && destination.is_ipv4() {
        RT_SCOPE_LINK
    } else {
        RT_SCOPE_UNIVERSE
    };
    let flags = if on_link { RTNH_F_ONLINK } else { 0 };
    // rtmsg: family, dst length, src length, tos, table, protocol, scope, type, flags.
    let mut request = Request::new(
        RTM_NEWROUTE,
        PUT,
        &[
            &[
                family(destination),
                route.destination.prefix_len(),
                0,
                0,
                RT_TABLE_MAIN,
                RTPROT_STATIC,
                scope,
                RTN_UNICAST,
            ],
            &flags.to_ne_bytes(),
        ],
    )
    .attribute(RTA_OIF, &index.to_ne_bytes());
    if route.destination.prefix_len() > 0 {
        request = request.attribute(RTA_DST, &octets(destination));
    }
    if let Some(gateway) = route.gateway {
        request = request.attribute(RTA_GATEWAY, &octets(gateway));
    }
    if let Some(metric) = route.metric {
        request = request.attribute(RTA_PRIORITY, &metric.to_ne_bytes());
    }
    request
}

/// Adds a permanent neighbour.
pub(super) fn neighbour(index: u32, address: IpAddr, mac: Mac) -> Request {
    // ndmsg: family, pad u8, pad u16, index, state, flags, type.
    Request::new(
        RTM_NEWNEIGH,
        PUT,
        &[
            &[family(address), 0, 0, 0],
            &index.to_ne_bytes(),
            &NUD_PERMANENT.to_ne_bytes(),
            &[0, 0],
        ],
    )
    .attribute(NDA_DST, &octets(address))
    .attribute(NDA_LLADDR, &mac.0)
}

/// An interface as the kernel lists it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    pub(super) index: u32,
    pub(super) name: String,
    pub(super) mac: Option<Mac>,
}

/// What an answer says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Answer {
    Link(Link),
    /// The request is done: 0, or a negative errno.
    Done(i32),
    Other,
}

fn number<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// The answers to `sequence` in one datagram. Stops at what is malformed.
pub(super) fn answers(mut bytes: &[u8], sequence: u32) -> Vec<Answer> {
    let mut all = Vec::new();
    while let Some((len, kind, number)) = header(bytes) {
        let Some(body) = bytes.get(HEADER..len) else {
            break;
        };
        if number == sequence {
            all.push(answer(kind, body));
        }
        let Some(rest) = bytes.get(len.next_multiple_of(4)..) else {
            break;
        };
        bytes = rest;
    }
    all
}

fn header(bytes: &[u8]) -> Option<(usize, u16, u32)> {
    let len = u32::from_ne_bytes(number(bytes, 0)?) as usize;
    let kind = u16::from_ne_bytes(number(bytes, 4)?);
    let sequence = u32::from_ne_bytes(number(bytes, 8)?);
    (len >= HEADER).then_some((len, kind, sequence))
}

fn answer(kind: u16, body: &[u8]) -> Answer {
    match kind {
        NLMSG_ERROR | NLMSG_DONE => Answer::Done(number(body, 0).map_or(0, i32::from_ne_bytes)),
        RTM_NEWLINK => {
            let Some(index) = number(body, 4).map(u32::from_ne_bytes) else {
                return Answer::Other;
            };
            let mut link = Link {
                index,
                ..Default::default()
            };
            for (kind, payload) in attributes(body.get(16..).unwrap_or(&[])) {
                match kind {
                    IFLA_IFNAME => {
                        let name = payload.split(|byte| *byte == 0).next().unwrap_or(&[]);
                        link.name = String::from_utf8_lossy(name).into_owned();
                    }
                    IFLA_ADDRESS => link.mac = payload.try_into().ok().map(Mac),
                    _ => {}
                }
            }
            Answer::Link(link)
        }
        _ => Answer::Other,
    }
}

fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(u16::from_ne_bytes(number(bytes, 0)?));
        let kind = u16::from_ne_bytes(number(bytes, 2)?);
        let payload = bytes.get(4..len)?;
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or(&[]);
        Some((kind, payload))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn an_address_is_the_bytes_iproute2_sends() {
        let request = address(3, "10.88.0.5/16".parse().unwrap()).numbered(7);
        let expected = [
            &[48, 0, 0, 0, 20, 0, 5, 5, 7, 0, 0, 0, 0, 0, 0, 0][..],
            &[2, 16, 0, 0, 3, 0, 0, 0],
            &[8, 0, 2, 0, 10, 88, 0, 5],
            &[8, 0, 1, 0, 10, 88, 0, 5],
            &[8, 0, 4, 0, 10, 88, 255, 255],
        ]
        .concat();
        assert_eq!(request, expected);
        let v6 = address(3, "fd00::5/64".parse().unwrap()).numbered(7);
        assert_eq!(v6[16..20], [10, 64, IFA_F_NODAD, 0]);
    }

    #[test]
    fn routes_have_the_scope_that_fits() {
        let plan = |destination: &str, gateway: Option<&str>| RoutePlan {
            destination: destination.parse().unwrap(),
            gateway: gateway.map(|g| g.parse().unwrap()),
            metric: None,
        };
        let default = route(3, &plan("0.0.0.0/0", Some("10.88.0.1")), false).numbered(1);
        assert_eq!(default[16..28], [2, 0, 0, 0, 254, 4, 0, 1, 0, 0, 0, 0]);
        assert_eq!(
            default[28..],
            [8, 0, 4, 0, 3, 0, 0, 0, 8, 0, 5, 0, 10, 88, 0, 1]
        );
        let link = route(3, &plan("169.254.1.1/32", None), false).numbered(1);
        assert_eq!(link[22], RT_SCOPE_LINK);
        let on_link = route(3, &plan("0.0.0.0/0", Some("169.254.1.1")), true).numbered(1);
        assert_eq!(on_link[24..28], RTNH_F_ONLINK.to_ne_bytes());
    }

    #[test]
    fn names_are_padded_and_terminated() {
        let request = rename(2, "eth0", Some(1450)).numbered(1);
        assert_eq!(request.len(), 16 + 16 + 12 + 8);
        assert_eq!(request[32..44], *b"\x09\0\x03\0eth0\0\0\0\0");
    }

    #[test]
    fn links_are_read_back() {
        // What the kernel would answer to a dump: two messages in one datagram.
        let one = link(RTM_NEWLINK, 0, 5, 0)
            .attribute(IFLA_IFNAME, b"eth9\0")
            .attribute(IFLA_ADDRESS, &[2, 0, 0, 0, 0, 9]);
        let mut datagram = one.numbered(4);
        datagram.extend(Request::new(NLMSG_DONE, 0, &[&0_i32.to_ne_bytes()]).numbered(4));
        let expected = Link {
            index: 5,
            name: "eth9".into(),
            mac: Some(Mac([2, 0, 0, 0, 0, 9])),
        };
        assert_eq!(
            answers(&datagram, 4),
            [Answer::Link(expected), Answer::Done(0)]
        );
        assert_eq!(answers(&datagram, 5), []);
    }

    proptest! {
        #[test]
        fn arbitrary_answers_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = answers(&bytes, 1);
        }

        #[test]
        fn cut_answers_never_panic(cut in 0..60_usize) {
            let whole = link(RTM_NEWLINK, 0, 5, 0).attribute(IFLA_IFNAME, b"eth9\0").numbered(1);
            let _ = answers(&whole[..cut.min(whole.len())], 1);
        }
    }
}
