//! Ports of the host that lead to pods.
//!
//! A pod may ask that a port of the node's own addresses leads to one of its own
//! (`hostPort`). The packet filter rewrites the destination ([`crate::nft::ruleset`]);
//! here is who may have which port.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};

use serde::{Deserialize, Serialize};

/// A transport protocol with ports, by its number (IANA).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[repr(u8)]
pub enum Transport {
    /// RFC 9293.
    Tcp = 6,
    /// RFC 768.
    Udp = 17,
    /// RFC 9260.
    Sctp = 132,
}

impl fmt::Display for Transport {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        })
    }
}

/// A port of the host that leads to a port of a pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct HostPort {
    /// Protocol of both ports.
    pub transport: Transport,
    /// The one address of the host that it is for: `None` is all of both families,
    /// an unspecified address all of its family.
    pub host_ip: Option<IpAddr>,
    /// Port of the host, not 0.
    pub host_port: u16,
    /// Port of the pod, not 0.
    pub pod_port: u16,
}

impl HostPort {
    /// Whether it is for addresses of the family.
    #[must_use]
    pub fn is_for(&self, ipv6: bool) -> bool {
        self.host_ip.is_none_or(|address| address.is_ipv6() == ipv6)
    }

    /// The one address it is for, if it isn't for all.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        self.host_ip.filter(|address| !address.is_unspecified())
    }

    /// Whether some connection would be for both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let families = [false, true];
        let meet = families
            .iter()
            .any(|family| self.is_for(*family) && other.is_for(*family));
        let same_address = match (self.address(), other.address()) {
            (Some(one), Some(two)) => one == two,
            _ => true,
        };
        self.transport == other.transport
            && self.host_port == other.host_port
            && meet
            && same_address
    }

    /// Whether a program of the host listens on it: its connections would be taken
    /// away from it. An address that the host doesn't have (yet) is nobody's.
    pub(crate) fn is_in_use(&self) -> bool {
        let unspecified: [IpAddr; 2] = [Ipv4Addr::UNSPECIFIED.into(), Ipv6Addr::UNSPECIFIED.into()];
        let addresses = match self.host_ip {
            Some(address) => vec![address],
            None => unspecified.to_vec(),
        };
        addresses.into_iter().any(|address| {
            let address = SocketAddr::new(address, self.host_port);
            let bound = match self.transport {
                Transport::Tcp => TcpListener::bind(address).map(drop),
                Transport::Udp => UdpSocket::bind(address).map(drop),
                // The standard library has no sockets for it.
                Transport::Sctp => Ok(()),
            };
            bound.is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse)
        })
    }
}

impl fmt::Display for HostPort {
    /// As in `127.0.0.1:8080/tcp`; `8080/tcp` for all addresses.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host_ip {
            Some(address) => write!(out, "{}", SocketAddr::new(address, self.host_port))?,
            None => write!(out, "{}", self.host_port)?,
        }
        write!(out, "/{}", self.transport)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(transport: Transport, host_ip: &str, host_port: u16) -> HostPort {
        HostPort {
            transport,
            host_ip: (!host_ip.is_empty()).then(|| host_ip.parse().unwrap()),
            host_port,
            pod_port: 80,
        }
    }

    #[test]
    fn ports_overlap_where_a_connection_could_be_for_both() {
        let all = port(Transport::Tcp, "", 80);
        for other in ["", "0.0.0.0", "::", "127.0.0.1", "fd00::1"] {
            let other = port(Transport::Tcp, other, 80);
            assert!(all.overlaps(&other) && other.overlaps(&all), "{other}");
        }
        let overlap = |one: &str, two: &str| {
            port(Transport::Tcp, one, 80).overlaps(&port(Transport::Tcp, two, 80))
        };
        assert!(overlap("0.0.0.0", "10.0.0.1"));
        assert!(!overlap("0.0.0.0", "::"));
        assert!(!overlap("0.0.0.0", "fd00::1"));
        assert!(!overlap("10.0.0.1", "10.0.0.2"));
        assert!(!all.overlaps(&port(Transport::Udp, "", 80)));
        assert!(!all.overlaps(&port(Transport::Tcp, "", 81)));
    }

    #[test]
    fn ports_are_shown_as_people_write_them() {
        assert_eq!(port(Transport::Tcp, "", 80).to_string(), "80/tcp");
        assert_eq!(
            port(Transport::Udp, "fd00::1", 53).to_string(),
            "[fd00::1]:53/udp"
        );
    }

    #[test]
    fn a_port_that_a_program_listens_on_is_in_use() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let number = listener.local_addr().unwrap().port();
        let taken = port(Transport::Tcp, "127.0.0.1", number);
        assert!(taken.is_in_use());
        drop(listener);
        assert!(!taken.is_in_use());
        // Not an address of this host (RFC 5737).
        assert!(!port(Transport::Tcp, "192.0.2.1", number).is_in_use());
    }
}
