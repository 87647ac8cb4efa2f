//! The ports of the host that a pod's client asks for.

use std::net::IpAddr;

use bulkhead_cri_api::v1::{PortMapping, Protocol};
use bulkhead_net::{HostPort, Transport};

use crate::error::{Error, Result};

/// Most ports of the host that one pod has.
const PORTS_MAX: usize = 4096;

/// What of a pod's port mappings needs something of the host: those without a host
/// port only tell what the pod listens on, which needs no help.
///
/// # Errors
/// [`Kind::InvalidArgument`](crate::Kind::InvalidArgument) for what is no port,
/// address or protocol.
pub fn host_ports(mappings: &[PortMapping]) -> Result<Vec<HostPort>> {
    let mut ports = mappings
        .iter()
        .filter(|mapping| mapping.host_port != 0)
        .map(host_port)
        .collect::<Result<Vec<_>>>()?;
    // kubelet names a port once for each container that has it.
    ports.sort_unstable();
    ports.dedup();
    if ports.len() > PORTS_MAX {
        return Err(Error::invalid(format!(
            "{} host ports, more than {PORTS_MAX}",
            ports.len()
        )));
    }
    Ok(ports)
}

fn host_port(mapping: &PortMapping) -> Result<HostPort> {
    let host_port = number("host_port", mapping.host_port)?;
    let named = |reason: String| Error::invalid(format!("host port {host_port}: {reason}"));
    let transport = match Protocol::try_from(mapping.protocol) {
        Ok(Protocol::Tcp) => Transport::Tcp,
        Ok(Protocol::Udp) => Transport::Udp,
        Ok(Protocol::Sctp) => Transport::Sctp,
        Err(_) => return Err(named(format!("unknown protocol {}", mapping.protocol))),
    };
    let host_ip = match mapping.host_ip.as_str() {
        "" => None,
        text => Some(text.parse::<IpAddr>().map_err(|_| {
            let shown: String = text.chars().take(64).collect();
            named(format!("host_ip {shown:?} is not an IP address"))
        })?),
    };
    if host_ip.is_some_and(|address| address.is_multicast()) {
        return Err(named(format!("host_ip {} is a group's", mapping.host_ip)));
    }
    Ok(HostPort {
        transport,
        host_ip,
        host_port,
        pod_port: number("container_port", mapping.container_port)?,
    })
}

fn number(what: &str, port: i32) -> Result<u16> {
    u16::try_from(port)
        .ok()
        .filter(|port| *port != 0)
        .ok_or_else(|| Error::invalid(format!("{what} {port} must be between 1 and 65535")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mapping(host_ip: &str, host_port: i32, container_port: i32) -> PortMapping {
        PortMapping {
            host_ip: host_ip.to_owned(),
            host_port,
            container_port,
            ..Default::default()
        }
    }

    #[test]
    fn only_what_needs_the_host_is_a_port_of_it() {
        let udp = PortMapping {
            protocol: Protocol::Udp.into(),
            ..mapping("fd00::1", 53, 5353)
        };
        let ports = host_ports(&[
            mapping("", 0, 80),
            // Port 0 asks for nothing, whatever else it says.
            mapping("?", 0, -1),
            mapping("", 8080, 80),
            mapping("", 8080, 80),
            udp,
        ])
        .unwrap();
        let shown: Vec<_> = ports.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["8080/tcp", "[fd00::1]:53/udp"]);
        assert_eq!(ports[0].pod_port, 80);
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        for bad in [
            mapping("", -1, 80),
            mapping("", 65_536, 80),
            mapping("", 80, 0),
            mapping("", 80, 70_000),
            mapping("node-1", 80, 80),
            mapping("224.0.0.1", 80, 80),
            mapping("10.0.0.1/8", 80, 80),
            PortMapping {
                protocol: 9,
                ..mapping("", 80, 80)
            },
        ] {
            assert!(host_ports(std::slice::from_ref(&bad)).is_err(), "{bad:?}");
        }
        let many: Vec<_> = (1..=4097).map(|port| mapping("", port, 80)).collect();
        assert!(host_ports(&many).is_err());
    }
}
