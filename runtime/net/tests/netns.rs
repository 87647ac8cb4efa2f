//! The network against a real kernel, each test in a network namespace of its own.
//!
//! Needs root, and a kernel with tun, bridge and nf_tables.

// Tests fail by panicking.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// Helpers of `support` aren't exported.
#![allow(unreachable_pub)]

mod support;

use std::net::{Ipv4Addr, Ipv6Addr, UdpSocket};
use std::time::{Duration, Instant};

use bulkhead_net::nft::message::{Batch, CREATE, Family, Kind, Request};
use bulkhead_net::nft::{inspect, ruleset, socket};
use bulkhead_net::{HostPort, Lease, MacAddr, NetError, Network, NetworkConfig, Transport};
use futures::TryStreamExt;
use nix::sched::CloneFlags;
use rtnetlink::{Handle, LinkUnspec, LinkVeth};

use support::*;

const MARKER_PORT: u16 = 4242;
const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 189, 0, 1);

/// A network that stands, with its pods' leases and guests.
struct Node {
    network: Network,
    leases: Vec<Lease>,
    guests: Vec<Guest>,
}

impl Node {
    async fn with_pods(count: usize) -> Self {
        let network = Network::new(NetworkConfig::default()).unwrap();
        network.reconcile(&[]).await.unwrap();
        network.ready().await.unwrap();
        let mut node = Self {
            network,
            leases: Vec::new(),
            guests: Vec::new(),
        };
        for index in 0..count {
            node.add_pod(&format!("{index:08x}aaaaaaaa")).await;
        }
        node
    }

    async fn add_pod(&mut self, pod_id: &str) {
        self.add_pod_with(pod_id, &[]).await;
    }

    async fn add_pod_with(&mut self, pod_id: &str, ports: &[HostPort]) {
        let lease = self.network.allocate(pod_id, ports).unwrap();
        let tap = self.network.tap(&lease).await.unwrap();
        self.network.plumb(&lease).await.unwrap();
        self.guests.push(Guest::new(&lease, tap));
        self.leases.push(lease);
    }

    /// Whether the second guest receives a frame that the first sends to all.
    ///
    /// A marker that is known to pass is sent after it, so that a frame that doesn't
    /// arrive is known to be dropped, not late.
    fn passes(&mut self, frame: &[u8]) -> bool {
        let [sender, receiver] = self.guests.get_disjoint_mut([0, 1]).unwrap();
        let packet = ipv4(
            sender.ipv4,
            receiver.ipv4,
            17,
            &udp(1, MARKER_PORT, b"marker"),
        );
        let marker = ethernet(receiver.mac, sender.mac, 0x0800, &packet);
        // Drain what is left of an earlier call.
        while receiver.receive(Duration::ZERO, |_| true).is_some() {}
        sender.send(frame);
        sender.send(&marker);
        let mut arrived = false;
        let seen = receiver.receive(Duration::from_secs(5), |received| {
            arrived |= received == frame;
            received == marker
        });
        assert!(seen.is_some(), "the marker must always pass");
        arrived
    }
}

fn netlink() -> Handle {
    let (connection, handle, _) = rtnetlink::new_connection().unwrap();
    tokio::spawn(connection);
    handle
}

async fn interface_names(handle: &Handle) -> Vec<String> {
    let links: Vec<_> = handle.link().get().execute().try_collect().await.unwrap();
    links
        .iter()
        .filter_map(|link| {
            link.attributes
                .iter()
                .find_map(|attribute| match attribute {
                    rtnetlink::packet_route::link::LinkAttribute::IfName(name) => {
                        Some(name.clone())
                    }
                    _ => None,
                })
        })
        .collect()
}

async fn index_of(handle: &Handle, name: &str) -> u32 {
    let mut replies = handle.link().get().match_name(name.to_owned()).execute();
    replies.try_next().await.unwrap().unwrap().header.index
}

#[test]
fn a_guest_reaches_the_gateway_and_its_neighbour() {
    in_namespace(|| async {
        let mut node = Node::with_pods(2).await;
        let guest = &mut node.guests[0];
        let (mac, own) = (guest.mac, guest.ipv4);
        // Who is the gateway? The bridge, with the address that its name gives it.
        let request = ethernet(BROADCAST, mac, 0x0806, &arp(1, (mac, own), GATEWAY));
        let answer = guest.ask(&request, |frame| {
            frame[12..14] == [8, 6] && frame[20..22] == [0, 2] && frame[28..32] == GATEWAY.octets()
        });
        let gateway_mac = MacAddr(answer[6..12].try_into().unwrap());
        assert_eq!(gateway_mac, MacAddr::for_bridge("bulkhead0"));

        // A ping is answered (the host asks for our MAC first).
        let ping = ethernet(
            gateway_mac,
            mac,
            0x0800,
            &ipv4(own, GATEWAY, 1, &echo_request()),
        );
        guest.send(&ping);
        let question = guest.receive(Duration::from_millis(200), |frame| frame[12..14] == [8, 6]);
        if question.is_some() {
            guest.send(&ethernet(
                gateway_mac,
                mac,
                0x0806,
                &arp(2, (mac, own), GATEWAY),
            ));
        }
        guest.ask(&ping, |frame| {
            frame[12..14] == [8, 0] && frame[23] == 1 && frame[34] == 0
        });

        // The same by IPv6: neighbour discovery finds the gateway.
        let gateway = Ipv6Addr::new(0xfd62, 0x756c, 0x6b68, 0, 0, 0, 0, 1);
        let group = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00, 1);
        let question = icmpv6(guest.ipv6, group, 135, &neighbour(gateway, 1, mac));
        let frame = ethernet(MacAddr([0x33, 0x33, 0xff, 0, 0, 1]), mac, 0x86dd, &question);
        let answer = guest.ask(&frame, |frame| {
            frame[12..14] == [0x86, 0xdd] && frame[54] == 136
        });
        assert_eq!(answer[62..78], gateway.octets());

        // From pod to pod: `passes` insists on its marker.
        let lawful = node.guests[0].ipv4;
        let to = node.guests[1].ipv4;
        let frame = ethernet(BROADCAST, mac, 0x0806, &arp(1, (mac, lawful), to));
        assert!(node.passes(&frame));
    });
}

#[test]
fn spoofed_frames_are_dropped() {
    in_namespace(|| async {
        let mut node = Node::with_pods(2).await;
        let (mac, own4, own6) = {
            let guest = &node.guests[0];
            (guest.mac, guest.ipv4, guest.ipv6)
        };
        let (other_mac, other4, other6) = {
            let guest = &node.guests[1];
            (guest.mac, guest.ipv4, guest.ipv6)
        };
        let local = mac.link_local();
        let all_nodes = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
        let strange_mac = MacAddr([2, 0, 0, 0, 0, 0x99]);
        let strange4 = Ipv4Addr::new(10, 189, 0, 99);
        let datagram = udp(1000, 1000, b"x");
        let packet4 = |from| ipv4(from, other4, 17, &datagram);
        let router_advertisement = [64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut with_hop_by_hop = vec![58, 0, 1, 4, 0, 0, 0, 0];
        with_hop_by_hop
            .extend_from_slice(&icmpv6(local, all_nodes, 134, &router_advertisement)[40..]);
        let mut tagged = vec![0, 7, 8, 0];
        tagged.extend_from_slice(&packet4(own4));

        let lawful: Vec<(&str, Vec<u8>)> = vec![
            (
                "own ARP",
                ethernet(BROADCAST, mac, 0x0806, &arp(1, (mac, own4), other4)),
            ),
            (
                "own ARP answer",
                ethernet(BROADCAST, mac, 0x0806, &arp(2, (mac, own4), other4)),
            ),
            (
                "ARP probe",
                ethernet(
                    BROADCAST,
                    mac,
                    0x0806,
                    &arp(1, (mac, Ipv4Addr::UNSPECIFIED), own4),
                ),
            ),
            ("own IPv4", ethernet(other_mac, mac, 0x0800, &packet4(own4))),
            (
                "own IPv6",
                ethernet(other_mac, mac, 0x86dd, &ipv6(own6, other6, 17, &datagram)),
            ),
            (
                "own link-local IPv6",
                ethernet(
                    BROADCAST,
                    mac,
                    0x86dd,
                    &ipv6(local, all_nodes, 17, &datagram),
                ),
            ),
            (
                "own neighbour advertisement",
                ethernet(
                    BROADCAST,
                    mac,
                    0x86dd,
                    &icmpv6(own6, all_nodes, 136, &neighbour(own6, 2, mac)),
                ),
            ),
            (
                "duplicate address detection",
                ethernet(
                    BROADCAST,
                    mac,
                    0x86dd,
                    &icmpv6(
                        Ipv6Addr::UNSPECIFIED,
                        all_nodes,
                        135,
                        &neighbour(own6, 14, mac),
                    ),
                ),
            ),
        ];
        for (what, frame) in &lawful {
            assert!(node.passes(frame), "{what} must pass");
        }

        let spoofed: Vec<(&str, Vec<u8>)> = vec![
            (
                "strange source MAC",
                ethernet(other_mac, strange_mac, 0x0800, &packet4(own4)),
            ),
            (
                "neighbour's source MAC",
                ethernet(other_mac, other_mac, 0x0800, &packet4(own4)),
            ),
            (
                "strange source IPv4",
                ethernet(other_mac, mac, 0x0800, &packet4(strange4)),
            ),
            (
                "neighbour's source IPv4",
                ethernet(other_mac, mac, 0x0800, &packet4(other4)),
            ),
            (
                "gateway's source IPv4",
                ethernet(other_mac, mac, 0x0800, &packet4(GATEWAY)),
            ),
            (
                "no source IPv4",
                ethernet(other_mac, mac, 0x0800, &packet4(Ipv4Addr::UNSPECIFIED)),
            ),
            (
                "ARP with another's address",
                ethernet(BROADCAST, mac, 0x0806, &arp(2, (mac, GATEWAY), other4)),
            ),
            (
                "ARP with another's MAC",
                ethernet(BROADCAST, mac, 0x0806, &arp(2, (strange_mac, own4), other4)),
            ),
            (
                "ARP answer from nowhere",
                ethernet(
                    BROADCAST,
                    mac,
                    0x0806,
                    &arp(2, (mac, Ipv4Addr::UNSPECIFIED), other4),
                ),
            ),
            (
                "short ARP",
                ethernet(BROADCAST, mac, 0x0806, &[0, 1, 8, 0, 6, 4, 0, 2]),
            ),
            (
                "neighbour's source IPv6",
                ethernet(other_mac, mac, 0x86dd, &ipv6(other6, other6, 17, &datagram)),
            ),
            (
                "no source IPv6",
                ethernet(
                    other_mac,
                    mac,
                    0x86dd,
                    &ipv6(Ipv6Addr::UNSPECIFIED, other6, 17, &datagram),
                ),
            ),
            (
                "advertisement of another's address",
                ethernet(
                    BROADCAST,
                    mac,
                    0x86dd,
                    &icmpv6(own6, all_nodes, 136, &neighbour(other6, 2, mac)),
                ),
            ),
            (
                "duplicate address detection for another's address",
                ethernet(
                    BROADCAST,
                    mac,
                    0x86dd,
                    &icmpv6(
                        Ipv6Addr::UNSPECIFIED,
                        all_nodes,
                        135,
                        &neighbour(other6, 14, mac),
                    ),
                ),
            ),
            (
                "router advertisement",
                ethernet(
                    BROADCAST,
                    mac,
                    0x86dd,
                    &icmpv6(local, all_nodes, 134, &router_advertisement),
                ),
            ),
            (
                "router advertisement behind a hop-by-hop header",
                ethernet(
                    BROADCAST,
                    mac,
                    0x86dd,
                    &ipv6(local, all_nodes, 0, &with_hop_by_hop),
                ),
            ),
            (
                "redirect",
                ethernet(
                    BROADCAST,
                    mac,
                    0x86dd,
                    &icmpv6(local, other6, 137, &[0; 36]),
                ),
            ),
            (
                "DHCP server",
                ethernet(
                    BROADCAST,
                    mac,
                    0x0800,
                    &ipv4(own4, Ipv4Addr::BROADCAST, 17, &udp(67, 68, b"offer")),
                ),
            ),
            (
                "DHCPv6 server",
                ethernet(
                    BROADCAST,
                    mac,
                    0x86dd,
                    &ipv6(local, all_nodes, 17, &udp(547, 546, b"x")),
                ),
            ),
            (
                "IPv4 with a header that lies about its length",
                ethernet(other_mac, mac, 0x0800, &{
                    let mut packet = packet4(own4);
                    packet[3] = 0xff;
                    packet
                }),
            ),
            ("VLAN tag", ethernet(other_mac, mac, 0x8100, &tagged)),
            ("double VLAN tag", ethernet(other_mac, mac, 0x88a8, &tagged)),
            (
                "other protocols (LLDP)",
                ethernet(BROADCAST, mac, 0x88cc, &[0; 46]),
            ),
            (
                "spanning tree",
                ethernet(MacAddr([1, 0x80, 0xc2, 0, 0, 0]), mac, 38, &[0x42; 38]),
            ),
        ];
        for (what, frame) in &spoofed {
            assert!(!node.passes(frame), "{what} must be dropped");
        }
    });
}

#[test]
fn other_ports_of_the_host_are_left_alone() {
    in_namespace(|| async {
        let mut node = Node::with_pods(1).await;
        // An interface that isn't a pod's, on the same bridge, may say what it likes.
        let stranger = Lease {
            tap: "operator0".to_owned(),
            ..node.leases[0].clone()
        };
        let tap = node.network.tap(&stranger).await.unwrap();
        let handle = netlink();
        let bridge = index_of(&handle, "bulkhead0").await;
        let index = index_of(&handle, "operator0").await;
        let message = LinkUnspec::new_with_index(index)
            .controller(bridge)
            .up()
            .build();
        handle.link().set(message).execute().await.unwrap();
        let mut operator = Guest::new(&stranger, tap);
        let mac = MacAddr([2, 0, 0, 0, 0, 0x77]);
        let frame = ethernet(BROADCAST, mac, 0x88cc, &[7; 46]);
        operator.send(&frame);
        let seen = node.guests[0].receive(Duration::from_secs(5), |received| received == frame);
        assert!(seen.is_some());
    });
}

#[test]
fn traffic_that_leaves_the_pool_is_masqueraded() {
    in_namespace(|| async {
        let mut node = Node::with_pods(1).await;
        let handle = netlink();
        // The uplink is a tap too, so that the test can be the outside world.
        let uplink = Lease {
            tap: "uplink0".to_owned(),
            ..node.leases[0].clone()
        };
        let tap = node.network.tap(&uplink).await.unwrap();
        let mut outside = Guest::new(&uplink, tap);
        let index = index_of(&handle, "uplink0").await;
        let host = Ipv4Addr::new(192, 0, 2, 1);
        let server = Ipv4Addr::new(192, 0, 2, 9);
        handle
            .address()
            .add(index, host.into(), 24)
            .execute()
            .await
            .unwrap();
        let message = LinkUnspec::new_with_index(index).up().build();
        handle.link().set(message).execute().await.unwrap();

        let guest = &mut node.guests[0];
        let bridge = MacAddr::for_bridge("bulkhead0");
        let packet = ipv4(guest.ipv4, server, 17, &udp(5000, 53, b"question"));
        let frame = ethernet(bridge, guest.mac, 0x0800, &packet);
        let server_mac = MacAddr([2, 0, 0, 0, 0, 9]);
        let mut received = None;
        for _ in 0..50 {
            guest.send(&frame);
            let step = outside.receive(Duration::from_millis(100), |frame| {
                frame[12..14] == [8, 6] || (frame[12..14] == [8, 0] && frame[23] == 17)
            });
            match step {
                Some(question) if question[12..14] == [8, 6] => {
                    let asker = MacAddr(question[6..12].try_into().unwrap());
                    let answer = arp(2, (server_mac, server), host);
                    outside.send(&ethernet(asker, server_mac, 0x0806, &answer));
                }
                Some(datagram) => {
                    received = Some(datagram);
                    break;
                }
                None => {}
            }
        }
        let received = received.expect("the datagram must leave the host");
        assert_eq!(
            received[26..30],
            host.octets(),
            "it carries the host's address"
        );
        assert_eq!(received[30..34], server.octets());
        let port = u16::from_be_bytes([received[34], received[35]]);

        // The answer finds its way back to the pod, with the server as its sender.
        let host_mac = MacAddr(received[6..12].try_into().unwrap());
        let answer = ipv4(server, host, 17, &udp(53, port, b"answer"));
        outside.send(&ethernet(host_mac, server_mac, 0x0800, &answer));
        let deadline = Instant::now() + Duration::from_secs(5);
        let mut answered = None;
        while answered.is_none() && Instant::now() < deadline {
            let frame = guest
                .receive(Duration::from_secs(5), |frame| {
                    frame[12..14] == [8, 6] || (frame[12..14] == [8, 0] && frame[23] == 17)
                })
                .expect("something for the pod");
            if frame[12..14] == [8, 6] {
                let own = (guest.mac, guest.ipv4);
                guest.send(&ethernet(bridge, guest.mac, 0x0806, &arp(2, own, GATEWAY)));
            } else {
                answered = Some(frame);
            }
        }
        let answered = answered.unwrap();
        assert_eq!(answered[26..30], server.octets());
        assert_eq!(answered[30..34], guest.ipv4.octets());
        assert_eq!(&answered[42..48], b"answer");
    });
}

#[test]
fn release_leaves_nothing_and_may_be_repeated() {
    in_namespace(|| async {
        let handle = netlink();
        let mut node = Node::with_pods(2).await;
        let lease = node.leases.remove(0);
        // Even while the VMM still holds the descriptor.
        node.network.release(&lease).await.unwrap();
        node.network.release(&lease).await.unwrap();
        assert!(!interface_names(&handle).await.contains(&lease.tap));

        // A lease that was never plumbed, nor given a tap.
        let other = node.network.allocate("cccccccccccccccc", &[]).unwrap();
        assert_ne!(
            other.addresses, lease.addresses,
            "not at once the same address again"
        );
        node.network.release(&other).await.unwrap();

        // The same pod again works from the start.
        let again = node.network.allocate(&lease.pod_id, &[]).unwrap();
        assert_eq!(again.tap, lease.tap);
        let _tap = node.network.tap(&again).await.unwrap();
        node.network.plumb(&again).await.unwrap();
    });
}

#[test]
fn a_tap_dies_with_its_vmm() {
    in_namespace(|| async {
        let handle = netlink();
        let mut node = Node::with_pods(1).await;
        let name = node.leases[0].tap.clone();
        assert!(interface_names(&handle).await.contains(&name));
        node.guests.clear();
        assert!(!interface_names(&handle).await.contains(&name));
        match node.network.plumb(&node.leases[0]).await {
            Err(NetError::TapGone { .. }) => {}
            other => panic!("{other:?}"),
        }
        node.network.release(&node.leases[0]).await.unwrap();
    });
}

#[test]
fn a_restarted_daemon_keeps_living_pods_and_removes_the_rest() {
    in_namespace(|| async {
        let handle = netlink();
        let mut node = Node::with_pods(3).await;
        let dead = node.leases[2].clone();

        let restarted = Network::new(NetworkConfig::default()).unwrap();
        let mut live = node.leases[..2].to_vec();
        live.push(restarted.allocate("dddddddddddddddd", &[]).unwrap());
        let mut copy = node.leases[0].clone();
        copy.pod_id = "eeeeeeeeeeeeeeee".to_owned();
        live.push(copy);
        // The one that this daemon decided itself collides with the first pod's.
        let reconciled = restarted.reconcile(&live).await.unwrap();
        assert_eq!(reconciled.removed_taps, std::slice::from_ref(&dead.tap));
        assert_eq!(reconciled.refused.len(), 2, "{:?}", reconciled.refused);
        assert!(reconciled.without_tap.is_empty());
        assert!(!interface_names(&handle).await.contains(&dead.tap));

        // Releasing a refused lease doesn't hurt the pod that really holds it.
        restarted.release(&live[3]).await.unwrap();
        node.network = restarted;
        let (mac, ip, to) = (node.guests[0].mac, node.guests[0].ipv4, node.guests[1].ipv4);
        assert!(node.passes(&ethernet(BROADCAST, mac, 0x0806, &arp(1, (mac, ip), to))));
        let next = node.network.allocate("ffffffffffffffff", &[]).unwrap();
        assert!(
            !node.leases[..2]
                .iter()
                .any(|lease| lease.addresses == next.addresses)
        );
    });
}

#[test]
fn what_others_take_down_is_mended() {
    in_namespace(|| async {
        let handle = netlink();
        let mut node = Node::with_pods(2).await;
        let bridge = index_of(&handle, "bulkhead0").await;
        handle.link().del(bridge).execute().await.unwrap();
        std::fs::write("/proc/sys/net/ipv4/ip_forward", "0").unwrap();
        node.network.ready().await.unwrap();
        assert_eq!(
            std::fs::read_to_string("/proc/sys/net/ipv4/ip_forward")
                .unwrap()
                .trim(),
            "1"
        );
        let (mac, ip, to) = (node.guests[0].mac, node.guests[0].ipv4, node.guests[1].ipv4);
        assert!(node.passes(&ethernet(BROADCAST, mac, 0x0806, &arp(1, (mac, ip), to))));

        // A firewall that starts anew flushes all tables; ours come back, filters too.
        socket::apply(&ruleset::remove("bulkhead0")).unwrap();
        let spoofed = ethernet(BROADCAST, mac, 0x0806, &arp(1, (mac, GATEWAY), to));
        assert!(node.passes(&spoofed), "without a filter it passes");
        node.network.ready().await.unwrap();
        assert!(!node.passes(&spoofed));
    });
}

#[test]
fn a_name_or_pool_that_is_taken_is_refused_clearly() {
    in_namespace(|| async {
        let handle = netlink();
        let lan = LinkVeth::new("bulkhead0", "lan1").build();
        handle.link().add(lan).execute().await.unwrap();
        let network = Network::new(NetworkConfig::default()).unwrap();
        match network.reconcile(&[]).await {
            Err(NetError::NotABridge { name, kind }) => {
                assert_eq!((name.as_str(), kind.as_str()), ("bulkhead0", "veth"));
            }
            other => panic!("{other:?}"),
        }
        let lease = network.allocate("aaaaaaaa", &[]).unwrap();
        assert!(matches!(
            network.plumb(&lease).await,
            Err(NetError::NotSetUp)
        ));

        let message = LinkUnspec::new_with_index(index_of(&handle, "bulkhead0").await)
            .name("lan0".to_owned())
            .up()
            .build();
        handle.link().set(message).execute().await.unwrap();
        let index = index_of(&handle, "lan0").await;
        let taken = Ipv4Addr::new(10, 189, 3, 1);
        handle
            .address()
            .add(index, taken.into(), 24)
            .execute()
            .await
            .unwrap();
        match network.ready().await {
            Err(NetError::PoolCollides {
                pool,
                route,
                interface,
            }) => {
                assert_eq!(pool, "10.189.0.0/16");
                assert_eq!(route, "10.189.3.0/24");
                assert_eq!(interface, "lan0");
            }
            other => panic!("{other:?}"),
        }
        // Once the cause is gone, so is the error.
        handle.link().del(index).execute().await.unwrap();
        network.ready().await.unwrap();
        network.dismantle().await.unwrap();
        assert_eq!(interface_names(&handle).await, ["lo"]);
    });
}

#[test]
fn the_cluster_may_change_the_pool() {
    in_namespace(|| async {
        let handle = netlink();
        let mut node = Node::with_pods(1).await;
        node.network
            .set_pod_cidr("10.244.3.0/24,fd01:0:0:3::/64")
            .await
            .unwrap();
        node.network
            .set_pod_cidr("10.244.3.0/24,fd01:0:0:3::/64")
            .await
            .unwrap();
        node.add_pod("bbbbbbbbbbbbbbbb").await;
        assert_eq!(node.guests[1].ipv4, Ipv4Addr::new(10, 244, 3, 2));
        // Both gateways answer while both pools have pods.
        for (index, gateway) in [(0, GATEWAY), (1, Ipv4Addr::new(10, 244, 3, 1))] {
            let guest = &mut node.guests[index];
            let (mac, own) = (guest.mac, guest.ipv4);
            let request = ethernet(BROADCAST, mac, 0x0806, &arp(1, (mac, own), gateway));
            guest.ask(&request, |frame| {
                frame[12..14] == [8, 6] && frame[28..32] == gateway.octets()
            });
        }
        // A pool that collides is refused, and the former one stays.
        let lan = LinkVeth::new("lan0", "lan1").up().build();
        handle.link().add(lan).execute().await.unwrap();
        let index = index_of(&handle, "lan0").await;
        let taken = Ipv4Addr::new(10, 99, 0, 1);
        handle
            .address()
            .add(index, taken.into(), 24)
            .execute()
            .await
            .unwrap();
        assert!(matches!(
            node.network.set_pod_cidr("10.99.0.0/16").await,
            Err(NetError::PoolCollides { .. })
        ));
        node.network.ready().await.unwrap();
        let lease = node.network.allocate("cccccccccccccccc", &[]).unwrap();
        assert_eq!(lease.addresses[0].to_string(), "10.244.3.3/24");
    });
}

#[test]
fn a_thousand_pods_fit_into_the_packet_filter() {
    in_namespace(|| async {
        let first = Network::new(NetworkConfig::default()).unwrap();
        let live: Vec<Lease> = (0..1000)
            .map(|index| first.allocate(&format!("{index:08x}"), &[]).unwrap())
            .collect();
        let network = Network::new(NetworkConfig::default()).unwrap();
        let reconciled = network.reconcile(&live).await.unwrap();
        assert_eq!(reconciled.without_tap.len(), 1000);
        assert!(reconciled.refused.is_empty());
        for lease in &live[..3] {
            network.release(lease).await.unwrap();
        }
        let next = network.allocate("aaaaaaaa", &[]).unwrap();
        assert_eq!(next.addresses[0].to_string(), "10.189.3.234/16");
    });
}

#[test]
fn the_packet_filter_can_be_tried_and_looked_at() {
    in_namespace(|| async {
        inspect::probe().unwrap();
        let question = Request::dump(Kind::GetTable, Family::Unspecified);
        let mut tables = 0;
        socket::ask(&question, |_| tables += 1).unwrap();
        assert_eq!(tables, 0, "trying leaves nothing here");

        let network = Network::new(NetworkConfig::default()).unwrap();
        network.reconcile(&[]).await.unwrap();
        assert!(inspect::chains_that_drop_forwarding().unwrap().is_empty());
        // What Docker does: policy drop (0) in the forward hook (2).
        let mut batch = Batch::new();
        batch.push("x", Kind::NewTable, Family::Ipv4, CREATE, |table| {
            table.text(1, "filter");
        });
        batch.push("x", Kind::NewChain, Family::Ipv4, CREATE, |chain| {
            chain
                .text(1, "filter")
                .text(3, "FORWARD")
                .number(5, 0)
                .text(7, "filter");
            chain.nest(4, |hook| {
                hook.number(1, 2).number(2, 0);
            });
        });
        socket::apply(&batch).unwrap();
        let found = inspect::chains_that_drop_forwarding().unwrap();
        assert_eq!(found, ["ip filter FORWARD"]);
    });
}

#[test]
fn a_refusal_names_the_change() {
    in_namespace(|| async {
        let mut batch = Batch::new();
        batch.push(
            "create table good",
            Kind::NewTable,
            Family::Inet,
            CREATE,
            |table| {
                table.text(1, "good");
            },
        );
        batch.push(
            "delete table bad",
            Kind::DeleteTable,
            Family::Inet,
            0,
            |table| {
                table.text(1, "bad");
            },
        );
        batch.push(
            "create table fine",
            Kind::NewTable,
            Family::Inet,
            CREATE,
            |table| {
                table.text(1, "fine");
            },
        );
        let error = socket::apply(&batch).unwrap_err().to_string();
        assert!(error.contains("cannot delete table bad"), "{error}");
        let mut tables = 0;
        let question = Request::dump(Kind::GetTable, Family::Unspecified);
        socket::ask(&question, |_| tables += 1).unwrap();
        assert_eq!(tables, 0, "nothing of a refused batch stays");
    });
}

#[test]
fn several_queues_share_a_tap() {
    in_namespace(|| async {
        let network = Network::new(NetworkConfig::default()).unwrap();
        network.reconcile(&[]).await.unwrap();
        let lease = network.allocate("aaaaaaaa", &[]).unwrap();
        let queues = network.tap_queues(&lease, 4).await.unwrap();
        assert_eq!(queues.len(), 4);
        match network.tap(&lease).await {
            Err(NetError::TapExists { name }) => assert_eq!(name, lease.tap),
            other => panic!("{other:?}"),
        }
    });
}

/// The guest's side of one exchange: answers who it is, until a datagram for the
/// port comes; returns the datagram's frame.
fn datagram_for(guest: &mut Guest, port: u16) -> Vec<u8> {
    let deadline = Instant::now() + Duration::from_secs(5);
    let gateway_mac = MacAddr::for_bridge("bulkhead0");
    let (mac, own) = (guest.mac, guest.ipv4);
    while Instant::now() < deadline {
        let wanted = |frame: &[u8]| {
            frame[12..14] == [8, 6]
                || (frame[12..14] == [8, 0]
                    && frame[23] == 17
                    && frame[36..38] == port.to_be_bytes())
        };
        match guest.receive(Duration::from_millis(200), wanted) {
            Some(frame) if frame[12..14] == [8, 0] => return frame,
            Some(_) => guest.send(&ethernet(
                gateway_mac,
                mac,
                0x0806,
                &arp(2, (mac, own), GATEWAY),
            )),
            None => {}
        }
    }
    panic!("no datagram in five seconds");
}

async fn with_loopback() {
    let handle = netlink();
    let message = LinkUnspec::new_with_index(index_of(&handle, "lo").await)
        .up()
        .build();
    handle.link().set(message).execute().await.unwrap();
}

fn udp_port(host_ip: Option<&str>, host_port: u16) -> HostPort {
    HostPort {
        transport: Transport::Udp,
        host_ip: host_ip.map(|address| address.parse().unwrap()),
        host_port,
        pod_port: 53,
    }
}

#[test]
fn ports_of_the_host_lead_to_their_pod() {
    in_namespace(|| async {
        with_loopback().await;
        let mut node = Node::with_pods(0).await;
        let ports = [udp_port(None, 5300), udp_port(Some("10.189.0.1"), 5301)];
        node.add_pod_with("aaaaaaaaaaaaaaaa", &ports).await;
        let own = node.guests[0].ipv4;
        for (host, port) in [
            ("127.0.0.1", 5300),
            ("10.189.0.1", 5300),
            ("10.189.0.1", 5301),
        ] {
            let socket = UdpSocket::bind((host, 0)).unwrap();
            socket
                .set_read_timeout(Some(Duration::from_secs(5)))
                .unwrap();
            socket.send_to(b"question", (host, port)).unwrap();
            let guest = &mut node.guests[0];
            let frame = datagram_for(guest, 53);
            assert_eq!(frame[30..34], own.octets(), "{host}:{port}");
            // Nobody could answer 127.0.0.1: the bridge asks for it.
            assert_eq!(frame[26..30], GATEWAY.octets(), "{host}:{port}");
            let back = u16::from_be_bytes([frame[34], frame[35]]);
            let answer = ipv4(own, GATEWAY, 17, &udp(53, back, b"answer"));
            guest.send(&ethernet(
                MacAddr::for_bridge("bulkhead0"),
                guest.mac,
                0x0800,
                &answer,
            ));
            let mut buffer = [0; 64];
            let (length, from) = socket.recv_from(&mut buffer).unwrap();
            assert_eq!(&buffer[..length], b"answer");
            assert_eq!(from.to_string(), format!("{host}:{port}"));
        }
        // A new rule set has them too; a pod that is gone takes them along.
        node.network.reconcile(&node.leases).await.unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket.send_to(b"question", "127.0.0.1:5300").unwrap();
        datagram_for(&mut node.guests[0], 53);
        node.guests.clear();
        node.network.release(&node.leases[0]).await.unwrap();
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        socket
            .set_read_timeout(Some(Duration::from_secs(5)))
            .unwrap();
        socket.connect("127.0.0.1:5300").unwrap();
        socket.send(b"question").unwrap();
        let refused = socket.recv(&mut [0; 8]).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    });
}

#[test]
fn pods_do_not_reach_what_the_host_offers_to_itself() {
    in_namespace(|| async {
        with_loopback().await;
        let mut node = Node::with_pods(0).await;
        // With ports of the host, the bridge takes packets for 127.0.0.0/8.
        node.add_pod_with("aaaaaaaaaaaaaaaa", &[udp_port(None, 5300)])
            .await;
        let inner = UdpSocket::bind("127.0.0.1:7000").unwrap();
        let outer = UdpSocket::bind("10.189.0.1:7001").unwrap();
        for socket in [&inner, &outer] {
            socket
                .set_read_timeout(Some(Duration::from_millis(100)))
                .unwrap();
        }
        let guest = &mut node.guests[0];
        let (mac, own) = (guest.mac, guest.ipv4);
        let frame = |to: Ipv4Addr, port| {
            let packet = ipv4(own, to, 17, &udp(1, port, b"x"));
            ethernet(MacAddr::for_bridge("bulkhead0"), mac, 0x0800, &packet)
        };
        // The bridge needs a moment to notice its first port.
        let arrived = (0..50).any(|_| {
            guest.send(&frame(Ipv4Addr::LOCALHOST, 7000));
            guest.send(&frame(GATEWAY, 7001));
            outer.recv(&mut [0; 8]).is_ok()
        });
        assert!(arrived, "the marker must always pass");
        assert!(inner.recv(&mut [0; 8]).is_err());
    });
}

/// Runs something in another network namespace, on a thread of its own.
fn inside<T: Send>(netns: &std::os::fd::OwnedFd, look: impl FnOnce() -> T + Send) -> T {
    std::thread::scope(|scope| {
        let look = || {
            nix::sched::setns(netns, CloneFlags::CLONE_NEWNET).unwrap();
            look()
        };
        scope.spawn(look).join().unwrap()
    })
}

#[test]
fn a_host_pods_interface_takes_the_taps_part_and_goes_with_its_namespace() {
    in_namespace(|| async {
        let node = Node::with_pods(0).await;
        let lease = node.network.allocate("0123456789abcdef", &[]).unwrap();
        let netns = node.network.netns(&lease).await.unwrap();
        node.network.plumb(&lease).await.unwrap();
        let again = node.network.netns(&lease).await;
        assert!(
            matches!(again, Err(NetError::TapExists { .. })),
            "{again:?}"
        );

        let macs = inside(&netns, || {
            // sysfs shows the namespace of whoever mounted it; netlink asks the thread's.
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let replies: Vec<_> = netlink()
                    .link()
                    .get()
                    .execute()
                    .try_collect()
                    .await
                    .unwrap();
                let attributes = replies.into_iter().flat_map(|link| link.attributes);
                let address = |it| match it {
                    rtnetlink::packet_route::link::LinkAttribute::Address(mac) => Some(mac),
                    _ => None,
                };
                attributes.filter_map(address).collect::<Vec<_>>()
            })
        });
        assert!(macs.contains(&lease.mac.0.to_vec()), "{macs:?}");

        // A restart keeps it with its lease, and removes it without.
        let kept = node
            .network
            .reconcile(std::slice::from_ref(&lease))
            .await
            .unwrap();
        assert!(
            kept.without_tap.is_empty() && kept.removed_taps.is_empty(),
            "{kept:?}"
        );
        let handle = netlink();
        assert!(interface_names(&handle).await.contains(&lease.tap));
        drop(netns);
        let deadline = Instant::now() + Duration::from_secs(20);
        while interface_names(&handle).await.contains(&lease.tap) {
            assert!(Instant::now() < deadline, "it outlives its namespace");
            std::thread::sleep(Duration::from_millis(20));
        }
        node.network.release(&lease).await.unwrap();

        let left = node.network.allocate("fedcba9876543210", &[]).unwrap();
        let _netns = node.network.netns(&left).await.unwrap();
        node.network.plumb(&left).await.unwrap();
        let swept = node.network.reconcile(&[]).await.unwrap();
        assert_eq!(swept.removed_taps, std::slice::from_ref(&left.tap));
    });
}
