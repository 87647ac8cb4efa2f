//! Who holds what: the decisions of the network, without the kernel.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::config::{check_ipv4_pool, check_ipv6_pool};
use crate::error::{NetError, Result};
use crate::lease::{Lease, MacAddr, Route, tap_name};
use crate::link::HostRoute;
use crate::pool::Pool;
use crate::ports::HostPort;

/// Pools and leases.
#[derive(Debug)]
pub(crate) struct Book {
    ipv4: Option<Pool>,
    ipv6: Option<Pool>,
    leases: BTreeMap<String, Lease>,
}

/// Pools as they were before a change.
pub(crate) type FormerPools = (Option<Pool>, Option<Pool>);

impl Book {
    /// A book without leases; the networks have been checked.
    pub(crate) fn new(ipv4: Option<Ipv4Net>, ipv6: Option<Ipv6Net>) -> Self {
        Self {
            ipv4: ipv4.map(Pool::ipv4),
            ipv6: ipv6.map(Pool::ipv6),
            leases: BTreeMap::new(),
        }
    }

    /// What is held, by pod.
    pub(crate) fn leases(&self) -> impl Iterator<Item = &Lease> {
        self.leases.values()
    }

    pub(crate) fn pools(&self) -> impl Iterator<Item = &Pool> {
        self.ipv4.iter().chain(&self.ipv6)
    }

    /// The pools' networks and those of pods that hold an address of a former pool.
    pub(crate) fn networks(&self) -> Vec<IpNet> {
        let mut networks: Vec<IpNet> = self.pools().map(Pool::network).collect();
        let leased = self.leases.values().flat_map(|lease| &lease.addresses);
        for network in leased.map(IpNet::trunc) {
            if !networks.contains(&network) {
                networks.push(network);
            }
        }
        networks
    }

    pub(crate) fn allocate(&mut self, pod_id: &str, mtu: u16, ports: &[HostPort]) -> Result<Lease> {
        if let Some(lease) = self.leases.get(pod_id) {
            return Ok(lease.clone());
        }
        self.refuse_taken_ports(pod_id, ports)?;
        let taken = |name: &str| self.leases.values().any(|lease| lease.tap == name);
        let tap = tap_name(pod_id, taken).ok_or_else(|| NetError::NoTapName {
            pod_id: pod_id.to_owned(),
        })?;

        let mut addresses = Vec::with_capacity(2);
        let mut routes = Vec::with_capacity(2);
        let mut refusal = None;
        for pool in self.ipv4.iter_mut().chain(&mut self.ipv6) {
            match pool.allocate() {
                Ok(address) => {
                    addresses.push(address);
                    routes.push(Route {
                        destination: default_route(address),
                        gateway: pool.gateway().addr(),
                    });
                }
                Err(error) => refusal = Some(error),
            }
        }
        let primary = addresses.first().map(IpNet::addr);
        let (None, Some(primary)) = (refusal.as_ref(), primary) else {
            self.give_back(&addresses);
            return Err(refusal.unwrap_or(NetError::NotSetUp));
        };
        let lease = Lease {
            pod_id: pod_id.to_owned(),
            tap,
            mac: mac_for(primary),
            addresses,
            routes,
            mtu,
            ports: ports.to_vec(),
        };
        self.leases.insert(pod_id.to_owned(), lease.clone());
        Ok(lease)
    }

    fn refuse_taken_ports(&self, pod_id: &str, ports: &[HostPort]) -> Result<()> {
        for (index, port) in ports.iter().enumerate() {
            let own = ports.iter().take(index).map(|own| (pod_id, own));
            if let Some((other, _)) = self
                .ports()
                .chain(own)
                .find(|(_, other)| other.overlaps(port))
            {
                return Err(NetError::PortTaken {
                    port: *port,
                    other: other.to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Every port of the host that a pod has, with the pod.
    fn ports(&self) -> impl Iterator<Item = (&str, &HostPort)> {
        self.leases
            .values()
            .flat_map(|lease| lease.ports.iter().map(|port| (lease.pod_id.as_str(), port)))
    }

    /// The lease without what another pod has of the host's ports: one that was
    /// refused at start must not take them away.
    pub(crate) fn without_ports_of_others(&self, lease: &Lease) -> Lease {
        let mut own = lease.clone();
        own.ports.retain(|port| {
            !self
                .ports()
                .any(|(pod_id, other)| pod_id != lease.pod_id && other.overlaps(port))
        });
        own
    }

    pub(crate) fn release(&mut self, pod_id: &str) {
        if let Some(lease) = self.leases.remove(pod_id) {
            self.give_back(&lease.addresses);
        }
    }

    pub(crate) fn give_back(&mut self, addresses: &[IpNet]) {
        for pool in self.ipv4.iter_mut().chain(&mut self.ipv6) {
            for address in addresses {
                pool.release(address.addr());
            }
        }
    }

    /// Forgets all leases and takes these; returns those that conflict.
    pub(crate) fn adopt(&mut self, live: &[Lease]) -> Vec<(String, NetError)> {
        self.leases.clear();
        let mut refused = Vec::new();
        for lease in live {
            match self.conflict(lease) {
                None => {
                    self.leases.insert(lease.pod_id.clone(), lease.clone());
                }
                Some(error) => refused.push((lease.pod_id.clone(), error)),
            }
        }
        self.ipv4 = self.ipv4.take().map(|pool| self.fresh(&pool));
        self.ipv6 = self.ipv6.take().map(|pool| self.fresh(&pool));
        refused
    }

    /// What of a lease from the database another pod holds already.
    pub(crate) fn conflict(&self, lease: &Lease) -> Option<NetError> {
        self.leases.values().find_map(|other| {
            let what = if other.tap == lease.tap {
                format!("tap {}", lease.tap)
            } else if other.mac == lease.mac {
                format!("MAC {}", lease.mac)
            } else if let Some(port) = lease
                .ports
                .iter()
                .find(|port| other.ports.iter().any(|held| held.overlaps(port)))
            {
                format!("host port {port}")
            } else {
                let shared = lease.ips().find(|ip| other.ips().any(|held| held == *ip))?;
                format!("address {shared}")
            };
            Some(NetError::LeaseConflict {
                pod_id: lease.pod_id.clone(),
                other: other.pod_id.clone(),
                what,
            })
        })
    }

    /// The pool's network anew, with what the leases hold of it.
    pub(crate) fn fresh(&self, pool: &Pool) -> Pool {
        let mut pool = match pool.network() {
            IpNet::V4(network) => Pool::ipv4(network),
            IpNet::V6(network) => Pool::ipv6(network),
        };
        for address in self.leases.values().flat_map(Lease::ips) {
            pool.reserve(address);
        }
        pool
    }

    pub(crate) fn has_pools(&self, ipv4: Option<Ipv4Net>, ipv6: Option<Ipv6Net>) -> bool {
        let network = |pool: &Option<Pool>| pool.as_ref().map(Pool::network);
        network(&self.ipv4) == ipv4.map(IpNet::V4) && network(&self.ipv6) == ipv6.map(IpNet::V6)
    }

    pub(crate) fn change_pools(
        &mut self,
        ipv4: Option<Ipv4Net>,
        ipv6: Option<Ipv6Net>,
    ) -> FormerPools {
        let former = (self.ipv4.take(), self.ipv6.take());
        self.ipv4 = ipv4.map(|network| self.fresh(&Pool::ipv4(network)));
        self.ipv6 = ipv6.map(|network| self.fresh(&Pool::ipv6(network)));
        former
    }

    pub(crate) fn restore_pools(&mut self, (ipv4, ipv6): FormerPools) {
        // Pods may have come and gone since: what they hold is what counts.
        self.ipv4 = ipv4.map(|pool| self.fresh(&pool));
        self.ipv6 = ipv6.map(|pool| self.fresh(&pool));
    }
}

/// The first pool that the host routes elsewhere than to our bridge.
pub(crate) fn collision<'a>(
    pools: &'a [IpNet],
    routes: &'a [HostRoute],
    own: Option<u32>,
) -> Option<(&'a IpNet, &'a HostRoute)> {
    pools.iter().find_map(|pool| {
        routes
            .iter()
            .filter(|route| route.interface.is_none() || route.interface != own)
            .find(|route| in_the_way(pool, route))
            .map(|route| (pool, route))
    })
}

/// Whether pods on the pool and the route's hosts would be mistaken for each other.
///
/// A wider route behind a gateway (a cluster's, a company's 10.0.0.0/8) isn't in the
/// way: the bridge's is longer and wins for the pool alone.
fn in_the_way(pool: &IpNet, route: &HostRoute) -> bool {
    pool.contains(&route.destination) || (route.on_link && route.destination.contains(pool))
}

/// The bridge's own address in a network: the first after the network's.
pub(crate) fn gateway(network: IpNet) -> IpNet {
    match network {
        IpNet::V4(network) => Pool::ipv4(network).gateway(),
        IpNet::V6(network) => Pool::ipv6(network).gateway(),
    }
}

fn mac_for(address: IpAddr) -> MacAddr {
    match address {
        IpAddr::V4(address) => MacAddr::for_ipv4(address),
        IpAddr::V6(address) => MacAddr::for_ipv6(address),
    }
}

fn default_route(address: IpNet) -> IpNet {
    match address {
        IpNet::V4(_) => IpNet::V4(Ipv4Net::default()),
        IpNet::V6(_) => IpNet::V6(Ipv6Net::default()),
    }
}

pub(crate) fn parse_pod_cidr(cidr: &str) -> Result<(Option<Ipv4Net>, Option<Ipv6Net>)> {
    let refuse = |reason: String| {
        Err(NetError::PodCidr {
            // The text is the client's: keep the message short.
            cidr: cidr.chars().take(64).collect(),
            reason,
        })
    };
    let (mut ipv4, mut ipv6) = (None, None);
    for part in cidr.split(',').map(str::trim) {
        let taken = match part.parse::<IpNet>() {
            Ok(IpNet::V4(network)) => {
                if let Err(error) = check_ipv4_pool(network.trunc()) {
                    return refuse(error.to_string());
                }
                ipv4.replace(network.trunc()).is_some()
            }
            Ok(IpNet::V6(network)) => {
                if let Err(error) = check_ipv6_pool(network.trunc()) {
                    return refuse(error.to_string());
                }
                ipv6.replace(network.trunc()).is_some()
            }
            Err(_) => {
                return refuse(
                    "write a network such as 10.244.1.0/24, or one of each family \
                               with a comma between"
                        .to_owned(),
                );
            }
        };
        if taken {
            return refuse("it names two networks of one family".to_owned());
        }
    }
    Ok((ipv4, ipv6))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::Transport;

    fn book(ipv4: Option<&str>, ipv6: Option<&str>) -> Book {
        Book::new(
            ipv4.map(|pool| pool.parse().unwrap()),
            ipv6.map(|pool| pool.parse().unwrap()),
        )
    }

    fn ips(lease: &Lease) -> Vec<String> {
        lease.addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_pod_gets_one_address_of_each_pool_and_default_routes() {
        let mut book = book(Some("10.1.0.0/24"), Some("fd00::/64"));
        let lease = book.allocate("0123456789abcdef", 1500, &[]).unwrap();
        assert_eq!(ips(&lease), ["10.1.0.2/24", "fd00::2/64"]);
        assert_eq!(lease.tap, "bh01234567");
        assert_eq!(lease.mac.to_string(), "02:62:0a:01:00:02");
        let gateways: Vec<_> = lease.gateways().map(|ip| ip.to_string()).collect();
        assert_eq!(gateways, ["10.1.0.1", "fd00::1"]);
    }

    #[test]
    fn allocating_again_gives_the_same_lease() {
        let mut book = book(Some("10.1.0.0/24"), None);
        let first = book.allocate("0123456789abcdef", 1500, &[]).unwrap();
        assert_eq!(book.allocate("0123456789abcdef", 1500, &[]).unwrap(), first);
        assert_ne!(
            book.allocate("1123456789abcdef", 1500, &[]).unwrap().mac,
            first.mac
        );
    }

    #[test]
    fn an_exhausted_family_leaves_the_other_untouched() {
        let mut book = book(Some("10.1.0.0/30"), Some("fd00::/64"));
        book.allocate("aaaaaaaa", 1500, &[]).unwrap();
        for _ in 0..3 {
            assert!(matches!(
                book.allocate("bbbbbbbb", 1500, &[]),
                Err(NetError::PoolExhausted { .. })
            ));
        }
        book.release("aaaaaaaa");
        let lease = book.allocate("bbbbbbbb", 1500, &[]).unwrap();
        assert_eq!(lease.addresses.len(), 2);
        assert_eq!(book.leases().count(), 1);
    }

    #[test]
    fn a_pod_of_ipv6_alone_works() {
        let mut book = book(None, Some("fd00::/64"));
        let lease = book.allocate("aaaaaaaa", 1500, &[]).unwrap();
        assert_eq!(ips(&lease), ["fd00::2/64"]);
        assert_eq!(lease.mac.to_string(), "02:66:00:00:00:02");
    }

    #[test]
    fn pods_that_share_an_id_prefix_get_different_taps() {
        let mut book = book(Some("10.1.0.0/24"), None);
        let one = book.allocate("0123456700000000", 1500, &[]).unwrap();
        let two = book.allocate("0123456711111111", 1500, &[]).unwrap();
        assert_eq!(one.tap, "bh01234567");
        assert_eq!(two.tap, "bh11111111");
    }

    #[test]
    fn leases_of_living_pods_are_kept_and_the_rest_forgotten() {
        let mut first = book(Some("10.1.0.0/24"), None);
        let one = first.allocate("aaaaaaaa", 1500, &[]).unwrap();
        let two = first.allocate("bbbbbbbb", 1500, &[]).unwrap();

        let mut restarted = book(Some("10.1.0.0/24"), None);
        restarted.allocate("cccccccc", 1500, &[]).unwrap();
        assert!(restarted.adopt(std::slice::from_ref(&two)).is_empty());
        assert_eq!(restarted.leases().collect::<Vec<_>>(), [&two]);
        let next = restarted.allocate("dddddddd", 1500, &[]).unwrap();
        assert_ne!(next.addresses, two.addresses);
        assert_ne!(
            next.addresses, one.addresses,
            "the cursor is past what was in use"
        );
    }

    #[test]
    fn conflicting_leases_are_refused_one_by_one() {
        let mut first = book(Some("10.1.0.0/24"), None);
        let one = first.allocate("aaaaaaaa", 1500, &[]).unwrap();
        let mut copy = first.allocate("bbbbbbbb", 1500, &[]).unwrap();
        copy.addresses = one.addresses.clone();
        let refused = first.adopt(&[one.clone(), copy]);
        assert_eq!(refused.len(), 1);
        assert_eq!(refused[0].0, "bbbbbbbb");
        assert!(refused[0].1.to_string().contains("address 10.1.0.2"));
        assert_eq!(first.leases().collect::<Vec<_>>(), [&one]);
    }

    #[test]
    fn a_port_of_the_host_is_one_pods() {
        let port = |host_port, pod_port| HostPort {
            transport: Transport::Tcp,
            host_ip: None,
            host_port,
            pod_port,
        };
        let mut book = book(Some("10.1.0.0/24"), None);
        let one = book.allocate("aaaaaaaa", 1500, &[port(80, 1)]).unwrap();
        match book.allocate("bbbbbbbb", 1500, &[port(81, 1), port(80, 2)]) {
            Err(NetError::PortTaken { port: taken, other }) => {
                assert_eq!((taken, other.as_str()), (port(80, 2), "aaaaaaaa"));
            }
            other => panic!("{other:?}"),
        }
        let twice = book.allocate("bbbbbbbb", 1500, &[port(81, 1), port(81, 2)]);
        assert!(matches!(twice, Err(NetError::PortTaken { other, .. }) if other == "bbbbbbbb"));
        // What was refused holds nothing.
        assert_eq!(book.leases().count(), 1);
        book.allocate("bbbbbbbb", 1500, &[port(81, 1)]).unwrap();

        // A lease that was refused at start must not take another pod's port away.
        let mut copy = one.clone();
        copy.pod_id = "cccccccc".to_owned();
        copy.ports.push(port(82, 1));
        assert_eq!(book.without_ports_of_others(&copy).ports, [port(82, 1)]);
        assert_eq!(book.without_ports_of_others(&one), one);
        book.release("aaaaaaaa");
        book.allocate("dddddddd", 1500, &[port(80, 3)]).unwrap();
    }

    #[test]
    fn a_new_pool_serves_new_pods_and_the_old_one_stays_while_used() {
        let mut book = book(Some("10.1.0.0/24"), Some("fd00::/64"));
        let old = book.allocate("aaaaaaaa", 1500, &[]).unwrap();
        let (ipv4, ipv6) = parse_pod_cidr("10.244.3.0/24").unwrap();
        let former = book.change_pools(ipv4, ipv6);
        let new = book.allocate("bbbbbbbb", 1500, &[]).unwrap();
        assert_eq!(ips(&new), ["10.244.3.2/24"]);
        let networks: Vec<_> = book.networks().iter().map(ToString::to_string).collect();
        assert_eq!(networks, ["10.244.3.0/24", "10.1.0.0/24", "fd00::/64"]);

        // Going back finds the address of the pod that still runs reserved.
        book.restore_pools(former);
        let next = book.allocate("cccccccc", 1500, &[]).unwrap();
        assert_ne!(next.addresses, old.addresses);
        book.release("aaaaaaaa");
        assert_eq!(book.networks().len(), 3, "bbbbbbbb still holds 10.244.3.2");
    }

    #[test]
    fn pod_cidrs_are_read_strictly() {
        let both = parse_pod_cidr("10.244.1.0/24, fd01:0:0:1::/64").unwrap();
        assert!(both.0.is_some() && both.1.is_some());
        // Host bits are what some clusters send.
        assert_eq!(
            parse_pod_cidr("10.244.1.7/24")
                .unwrap()
                .0
                .unwrap()
                .to_string(),
            "10.244.1.0/24"
        );
        for bad in [
            "",
            "10.244.1.0",
            "10.0.0.0/24,10.0.1.0/24",
            "10.0.0.0/32",
            "x/24",
            "::/0",
        ] {
            match parse_pod_cidr(bad) {
                Err(NetError::PodCidr { .. }) => {}
                other => panic!("{bad:?}: {other:?}"),
            }
        }
    }

    #[test]
    fn collisions_with_the_hosts_routes_are_found_in_both_directions() {
        let route = |destination: &str, interface, on_link| HostRoute {
            destination: destination.parse().unwrap(),
            interface: Some(interface),
            on_link,
        };
        let pools: Vec<IpNet> = vec!["10.189.0.0/16".parse().unwrap()];
        let inside = [
            route("192.168.0.0/24", 2, true),
            route("10.189.7.0/24", 3, false),
        ];
        let neighbours = [route("10.0.0.0/8", 4, true)];
        let company = [route("10.0.0.0/8", 4, false)];
        let own = [route("10.189.0.0/16", 9, true)];
        assert_eq!(collision(&pools, &inside, Some(9)).unwrap().1, &inside[1]);
        assert_eq!(
            collision(&pools, &neighbours, None).unwrap().1,
            &neighbours[0]
        );
        assert!(collision(&pools, &company, None).is_none());
        assert!(collision(&pools, &own, Some(9)).is_none());
        assert!(collision(&pools, &own, None).is_some());
    }
}
