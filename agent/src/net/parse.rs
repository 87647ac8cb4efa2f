//! From the daemon's text to values, checked in one place.

use std::{fmt, net::IpAddr, str::FromStr};

use bulkhead_agent_api::agent;
use ipnet::IpNet;

use crate::error::{Error, Result};

/// More than any pod has; a bound, not a limit anybody should meet.
const MAX_ENTRIES: usize = 1024;
/// IFNAMSIZ of linux/if.h, less the final zero.
const MAX_NAME: usize = 15;

/// A MAC address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

impl FromStr for Mac {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let bad = || Error::invalid(format!("{text:?} is no MAC address"));
        let mut mac = [0; 6];
        let mut parts = text.split(':');
        for byte in &mut mac {
            let part = parts
                .next()
                .filter(|part| part.len() == 2)
                .ok_or_else(bad)?;
            *byte = u8::from_str_radix(part, 16).map_err(|_| bad())?;
        }
        match parts.next() {
            None => Ok(Self(mac)),
            Some(_) => Err(bad()),
        }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// A route through an interface.
#[derive(Debug, PartialEq, Eq)]
pub struct RoutePlan {
    /// Where to.
    pub destination: IpNet,
    /// Through whom; `None`: on the link.
    pub gateway: Option<IpAddr>,
    /// Smaller is better; `None`: the kernel's default.
    pub metric: Option<u32>,
}

/// What an interface shall be.
#[derive(Debug, PartialEq, Eq)]
pub struct InterfacePlan {
    /// How to find it.
    pub mac: Mac,
    /// How to call it.
    pub name: String,
    /// `None`: as it is.
    pub mtu: Option<u32>,
    /// Its addresses with their prefixes.
    pub addresses: Vec<IpNet>,
    /// Routes through it.
    pub routes: Vec<RoutePlan>,
    /// Permanent neighbour entries.
    pub neighbours: Vec<(IpAddr, Mac)>,
}

impl InterfacePlan {
    /// Parses the daemon's message.
    ///
    /// # Errors
    /// `INVALID_ARGUMENT`, naming the value.
    pub fn parse(from: &agent::Interface) -> Result<Self> {
        let entries = from.addresses.len() + from.routes.len() + from.neighbours.len();
        if entries > MAX_ENTRIES {
            return Err(Error::invalid(format!(
                "interface {:?} has {entries} addresses, routes and neighbours, more than {MAX_ENTRIES}",
                from.name
            )));
        }
        Ok(Self {
            mac: from.mac.parse()?,
            name: interface_name(&from.name)?.to_owned(),
            mtu: (from.mtu > 0).then_some(from.mtu),
            addresses: from
                .addresses
                .iter()
                .map(|text| parse(text, "address with a prefix length"))
                .collect::<Result<_>>()?,
            routes: from.routes.iter().map(route).collect::<Result<_>>()?,
            neighbours: from
                .neighbours
                .iter()
                .map(|entry| Ok((parse(&entry.address, "address")?, entry.mac.parse()?)))
                .collect::<Result<_>>()?,
        })
    }
}

fn route(from: &agent::Route) -> Result<RoutePlan> {
    let destination: IpNet = parse(&from.destination, "network with a prefix length")?;
    let gateway: Option<IpAddr> = match from.gateway.as_str() {
        "" => None,
        text => Some(parse(text, "gateway address")?),
    };
    if gateway.is_some_and(|gateway| gateway.is_ipv4() != destination.addr().is_ipv4()) {
        return Err(Error::invalid(format!(
            "route to {destination} through {}: families differ",
            from.gateway
        )));
    }
    Ok(RoutePlan {
        destination,
        gateway,
        metric: (from.metric > 0).then_some(from.metric),
    })
}

fn parse<T: FromStr>(text: &str, what: &str) -> Result<T> {
    text.parse()
        .map_err(|_| Error::invalid(format!("{text:?} is no {what}")))
}

fn interface_name(name: &str) -> Result<&str> {
    let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | ':');
    if name.is_empty()
        || name.len() > MAX_NAME
        || matches!(name, "." | "..")
        || !name.chars().all(plain)
    {
        return Err(Error::invalid(format!("{name:?} is no interface name")));
    }
    Ok(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn interface() -> agent::Interface {
        agent::Interface {
            mac: "02:00:0A:58:00:05".into(),
            name: "eth0".into(),
            mtu: 1450,
            addresses: vec!["10.88.0.5/16".into(), "fd00::5/64".into()],
            routes: vec![agent::Route {
                destination: "0.0.0.0/0".into(),
                gateway: "10.88.0.1".into(),
                ..Default::default()
            }],
            neighbours: vec![agent::Neighbour {
                address: "10.88.0.1".into(),
                mac: "02:00:00:00:00:01".into(),
                ..Default::default()
            }],
            ..Default::default()
        }
    }

    #[test]
    fn a_plan_is_what_the_daemon_said() {
        let plan = InterfacePlan::parse(&interface()).unwrap();
        assert_eq!(plan.mac.to_string(), "02:00:0a:58:00:05");
        assert_eq!(plan.mtu, Some(1450));
        assert_eq!(plan.addresses[1].to_string(), "fd00::5/64");
        assert_eq!(plan.routes[0].gateway.unwrap().to_string(), "10.88.0.1");
        assert_eq!(plan.routes[0].metric, None);
        assert_eq!(plan.neighbours[0].1, Mac([2, 0, 0, 0, 0, 1]));
    }

    #[test]
    fn what_cannot_be_is_refused() {
        let broken: [fn(&mut agent::Interface); 7] = [
            |i| i.mac = "02:00:00:00:00".into(),
            |i| i.mac = "02:00:00:00:00:0".into(),
            |i| i.name = "../eth0".into(),
            |i| i.name = "a-name-too-long-by".into(),
            |i| i.addresses = vec!["10.88.0.5".into()],
            |i| i.routes[0].gateway = "fd00::1".into(),
            |i| i.neighbours[0].address = "nobody".into(),
        ];
        for spoil in broken {
            let mut interface = interface();
            spoil(&mut interface);
            let error = InterfacePlan::parse(&interface).unwrap_err();
            assert_eq!(error.code(), ttrpc::Code::INVALID_ARGUMENT, "{error}");
        }
    }

    proptest! {
        #[test]
        fn macs_round_trip(bytes in any::<[u8; 6]>()) {
            prop_assert_eq!(Mac(bytes).to_string().parse::<Mac>().unwrap(), Mac(bytes));
        }

        #[test]
        fn any_text_is_a_mac_or_an_error(text in ".{0,30}") {
            let _ = text.parse::<Mac>();
        }
    }
}
