//! Links, addresses and routes, over rtnetlink.
//!
//! Each operation opens its own socket: a socket costs some microseconds, and
//! there is no long-lived connection that could break or mix up replies.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use futures::TryStreamExt;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage,
};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVeth, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};
use netlink_packet_route::neighbour::{NeighbourFlags, NeighbourState};
use netlink_packet_route::route::{RouteAddress, RouteAttribute, RouteMessage, RouteType};
use rtnetlink::{
    Handle, IpVersion, LinkBridge, LinkBridgePort, LinkUnspec, LinkVeth, RouteMessageBuilder,
};

use crate::error::{NetError, Result};
use crate::lease::{Lease, MacAddr};

/// A netlink socket and the task that drives it.
pub(crate) struct Links {
    handle: Handle,
    driver: tokio::task::JoinHandle<()>,
}

impl Drop for Links {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

/// What we want to know of an interface.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) name: String,
    /// The driver's word for it, such as `bridge`, `tun` or `veth`; `device` if it says none.
    pub(crate) kind: String,
    pub(crate) up: bool,
    /// Index of the bridge that it is a port of.
    pub(crate) bridge: Option<u32>,
}

/// A route of the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct HostRoute {
    pub(crate) destination: IpNet,
    pub(crate) interface: Option<u32>,
    /// Whether the destination's hosts are neighbours, not behind a gateway.
    pub(crate) on_link: bool,
}

impl Links {
    /// Opens a socket; must be called within a tokio runtime.
    pub(crate) fn open() -> Result<Self> {
        let (connection, handle, _) =
            rtnetlink::new_connection().map_err(|source| NetError::Netlink {
                attempted: "open a netlink socket".to_owned(),
                source,
            })?;
        let driver = tokio::spawn(connection);
        Ok(Self { handle, driver })
    }

    /// Looks an interface up by name.
    pub(crate) async fn find(&self, name: &str) -> Result<Option<Link>> {
        let mut replies = self
            .handle
            .link()
            .get()
            .match_name(name.to_owned())
            .execute();
        match replies.try_next().await {
            Ok(message) => Ok(message.as_ref().and_then(describe)),
            Err(error) => match errno(error) {
                source if source.raw_os_error() == Some(libc::ENODEV) => Ok(None),
                source => Err(NetError::Netlink {
                    attempted: format!("look up interface {name}"),
                    source,
                }),
            },
        }
    }

    /// All interfaces.
    pub(crate) async fn all(&self) -> Result<Vec<Link>> {
        let replies: Vec<LinkMessage> = self
            .handle
            .link()
            .get()
            .execute()
            .try_collect()
            .await
            .map_err(|error| NetError::Netlink {
                attempted: "list the interfaces".to_owned(),
                source: errno(error),
            })?;
        Ok(replies.iter().filter_map(describe).collect())
    }

    /// Makes the bridge if it is missing, and brings it up as we need it.
    ///
    /// # Errors
    /// [`NetError::NotABridge`] if the name belongs to something else.
    pub(crate) async fn ensure_bridge(&self, name: &str, mac: MacAddr, mtu: u16) -> Result<u32> {
        let attempted = || format!("create bridge {name}");
        if self.find(name).await?.is_none() {
            // Multicast snooping would keep state that guests can grow, for nothing:
            // without it multicast is flooded, as on a plain switch.
            let message = LinkBridge::new(name).mcast_snooping(false).build();
            match self
                .handle
                .link()
                .add(message)
                .execute()
                .await
                .map_err(errno)
            {
                Ok(()) => {}
                // Somebody made it in the meantime; the check below judges it.
                Err(source) if source.raw_os_error() == Some(libc::EEXIST) => {}
                Err(source) => {
                    return Err(NetError::Netlink {
                        attempted: attempted(),
                        source,
                    });
                }
            }
        }
        let Some(link) = self.find(name).await? else {
            return Err(NetError::Netlink {
                attempted: attempted(),
                source: io::Error::from_raw_os_error(libc::ENODEV),
            });
        };
        if link.kind != "bridge" {
            return Err(NetError::NotABridge {
                name: name.to_owned(),
                kind: link.kind,
            });
        }
        // Without an address of its own a bridge takes its lowest port's, which changes
        // as pods come and go and leaves every guest with a stale neighbour entry.
        let message = LinkUnspec::new_with_index(link.index)
            .address(mac.0.to_vec())
            .mtu(u32::from(mtu))
            .up()
            .build();
        self.set(message, || format!("configure bridge {name}"))
            .await?;
        Ok(link.index)
    }

    /// Gives an interface an address; one that it has already is left alone.
    pub(crate) async fn ensure_address(&self, index: u32, address: IpNet) -> Result<()> {
        let mut request = self
            .handle
            .address()
            .add(index, address.addr(), address.prefix_len())
            .replace();
        let message = request.message_mut();
        match address {
            IpNet::V4(network) => message
                .attributes
                .push(AddressAttribute::Broadcast(network.broadcast())),
            // Usable at once, without duplicate address detection.
            IpNet::V6(_) => {
                message.header.flags |= AddressHeaderFlags::Nodad;
                message
                    .attributes
                    .push(AddressAttribute::Flags(AddressFlags::Nodad));
            }
        }
        request.execute().await.map_err(|error| NetError::Netlink {
            attempted: format!("add address {address} to the bridge"),
            source: errno(error),
        })
    }

    /// Takes an address from an interface; one that it hasn't is fine.
    pub(crate) async fn drop_address(&self, index: u32, address: IpNet) -> Result<()> {
        let mut message = AddressMessage::default();
        message.header.family = match address {
            IpNet::V4(_) => AddressFamily::Inet,
            IpNet::V6(_) => AddressFamily::Inet6,
        };
        message.header.prefix_len = address.prefix_len();
        message.header.index = index;
        message
            .attributes
            .push(AddressAttribute::Local(address.addr()));
        let outcome = self.handle.address().del(message).execute().await;
        match outcome.map_err(errno) {
            Ok(()) => Ok(()),
            Err(source) if source.raw_os_error() == Some(libc::EADDRNOTAVAIL) => Ok(()),
            Err(source) => Err(NetError::Netlink {
                attempted: format!("remove address {address} from the bridge"),
                source,
            }),
        }
    }

    /// Makes a veth pair: one end here with the tap's name, the other in `netns` with
    /// the pod's MAC.
    pub(crate) async fn make_veth(&self, lease: &Lease, netns: BorrowedFd<'_>) -> Result<()> {
        let inside = LinkUnspec::new_with_name(INSIDE)
            .address(lease.mac.0.to_vec())
            .mtu(u32::from(lease.mtu))
            .setns_by_fd(netns.as_raw_fd())
            .build();
        let message = LinkVeth::new(&lease.tap, INSIDE)
            .mtu(u32::from(lease.mtu))
            .set_info_data(InfoData::Veth(InfoVeth::Peer(inside)))
            .build();
        let outcome = self.handle.link().add(message).execute().await;
        outcome.map_err(errno).map_err(|source| {
            if source.raw_os_error() == Some(libc::EEXIST) {
                return NetError::TapExists {
                    name: lease.tap.clone(),
                };
            }
            NetError::Netlink {
                attempted: format!("create veth {}", lease.tap),
                source,
            }
        })
    }

    /// Puts a pod's tap on the bridge and brings it up.
    ///
    /// The bridge neither learns from the port nor floods unknown unicast to it: its
    /// one MAC is entered by hand, so no guest sees what isn't meant for it or fills
    /// the forwarding table.
    pub(crate) async fn attach_tap(&self, lease: &Lease, bridge: u32) -> Result<()> {
        let tap = &lease.tap;
        let Some(link) = self.find(tap).await? else {
            return Err(NetError::TapGone {
                name: tap.clone(),
                pod_id: lease.pod_id.clone(),
            });
        };
        if !is_tap(&link) {
            return Err(NetError::TapExists { name: tap.clone() });
        }
        let gone = |error: NetError| match error {
            NetError::Netlink { source, .. } if source.raw_os_error() == Some(libc::ENODEV) => {
                NetError::TapGone {
                    name: tap.clone(),
                    pod_id: lease.pod_id.clone(),
                }
            }
            other => other,
        };

        let message = LinkUnspec::new_with_index(link.index)
            .mtu(u32::from(lease.mtu))
            .alias(format!("bulkhead pod {}", alias_of(&lease.pod_id)))
            .controller(bridge)
            .build();
        self.set(message, || format!("put tap {tap} on the bridge"))
            .await
            .map_err(gone)?;

        // With br_netfilter, as Kubernetes nodes have it, a packet whose destination a
        // host port changed is bridged on: back to where it came from, when a pod asks
        // for its own service. Bridges do that in hairpin mode only.
        let message = LinkBridgePort::new(link.index)
            .hairpin(true)
            .learning(false)
            .flood(false)
            .guard(true)
            .build();
        let outcome = self.handle.link().set_port(message).execute().await;
        outcome
            .map_err(|error| NetError::Netlink {
                attempted: format!("configure the bridge port of tap {tap}"),
                source: errno(error),
            })
            .map_err(gone)?;

        // A static entry (`NUD_NOARP`); a permanent one would mean the host's own address.
        let outcome = self
            .handle
            .neighbours()
            .add_bridge(link.index, &lease.mac.0)
            .state(NeighbourState::Noarp)
            .flags(NeighbourFlags::Controller)
            .replace()
            .execute()
            .await;
        outcome
            .map_err(|error| NetError::Netlink {
                attempted: format!("enter MAC {} of tap {tap} in the bridge", lease.mac),
                source: errno(error),
            })
            .map_err(gone)?;

        let message = LinkUnspec::new_with_index(link.index).up().build();
        self.set(message, || format!("bring tap {tap} up"))
            .await
            .map_err(gone)
    }

    /// Removes a tap; one that is gone already, or isn't a tap, is left alone.
    pub(crate) async fn remove_tap(&self, name: &str) -> Result<bool> {
        let Some(link) = self.find(name).await? else {
            return Ok(false);
        };
        if !is_tap(&link) {
            return Ok(false);
        }
        match self
            .handle
            .link()
            .del(link.index)
            .execute()
            .await
            .map_err(errno)
        {
            Ok(()) => Ok(true),
            Err(source) if source.raw_os_error() == Some(libc::ENODEV) => Ok(false),
            Err(source) => Err(NetError::Netlink {
                attempted: format!("remove tap {name}"),
                source,
            }),
        }
    }

    /// Removes the bridge; one that is gone already, or isn't a bridge, is left alone.
    pub(crate) async fn remove_bridge(&self, name: &str) -> Result<()> {
        let Some(link) = self.find(name).await? else {
            return Ok(());
        };
        if link.kind != "bridge" {
            return Ok(());
        }
        let outcome = self.handle.link().del(link.index).execute().await;
        outcome.map_err(|error| NetError::Netlink {
            attempted: format!("remove bridge {name}"),
            source: errno(error),
        })
    }

    /// An interface's addresses, without the link-local one.
    pub(crate) async fn addresses(&self, index: u32) -> Result<Vec<IpNet>> {
        let replies: Vec<AddressMessage> = self
            .handle
            .address()
            .get()
            .set_link_index_filter(index)
            .execute()
            .try_collect()
            .await
            .map_err(|error| NetError::Netlink {
                attempted: "list the bridge's addresses".to_owned(),
                source: errno(error),
            })?;
        Ok(replies
            .iter()
            .filter(|message| message.header.index == index)
            .filter_map(address_of)
            .collect())
    }

    /// The host's unicast routes, without the default ones.
    pub(crate) async fn routes(&self, ipv6: bool) -> Result<Vec<HostRoute>> {
        let mut routes = self.routes_of(IpVersion::V4).await?;
        if ipv6 {
            routes.extend(self.routes_of(IpVersion::V6).await?);
        }
        Ok(routes)
    }

    async fn routes_of(&self, version: IpVersion) -> Result<Vec<HostRoute>> {
        let request = match version {
            IpVersion::V4 => RouteMessageBuilder::<std::net::Ipv4Addr>::new().build(),
            IpVersion::V6 => RouteMessageBuilder::<std::net::Ipv6Addr>::new().build(),
        };
        let replies: Vec<RouteMessage> = self
            .handle
            .route()
            .get(request)
            .execute()
            .try_collect()
            .await
            .map_err(|error| NetError::Netlink {
                attempted: "list the routes".to_owned(),
                source: errno(error),
            })?;
        Ok(replies.iter().filter_map(host_route).collect())
    }

    async fn set(&self, message: LinkMessage, attempted: impl Fn() -> String) -> Result<()> {
        let outcome = self.handle.link().set(message).execute().await;
        outcome.map_err(|error| NetError::Netlink {
            attempted: attempted(),
            source: errno(error),
        })
    }
}

/// Name of a veth's end in the pod's namespace, until the pod's agent renames it.
const INSIDE: &str = "pod0";

/// Whether an interface can be the host's end of a pod's network: a tap, or what takes
/// its part for a pod that runs on the host.
pub(crate) fn is_tap(link: &Link) -> bool {
    matches!(link.kind.as_str(), "tun" | "veth")
}

/// The kernel takes 255 bytes of alias; pod ids are far shorter, but not ours to trust.
fn alias_of(pod_id: &str) -> String {
    pod_id
        .chars()
        .filter(char::is_ascii_graphic)
        .take(64)
        .collect()
}

fn describe(message: &LinkMessage) -> Option<Link> {
    let mut name = None;
    let mut kind = None;
    let mut bridge = None;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(value) => name = Some(value.clone()),
            LinkAttribute::Controller(index) => bridge = Some(*index),
            LinkAttribute::LinkInfo(infos) => {
                kind = infos.iter().find_map(|info| match info {
                    LinkInfo::Kind(kind) => Some(kind_name(kind)),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    let kind = kind.unwrap_or_else(|| match message.header.link_layer_type {
        LinkLayerType::Loopback => "loopback".to_owned(),
        _ => "device".to_owned(),
    });
    Some(Link {
        index: message.header.index,
        name: name?,
        kind,
        up: message.header.flags.contains(LinkFlags::Up),
        bridge,
    })
}

fn address_of(message: &AddressMessage) -> Option<IpNet> {
    let prefix = message.header.prefix_len;
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            // On point-to-point links `Address` is the peer's, `Local` always one's own.
            AddressAttribute::Local(local) => address = Some(*local),
            AddressAttribute::Address(either) => address = address.or(Some(*either)),
            _ => {}
        }
    }
    let network = IpNet::new(address?, prefix).ok()?;
    match network {
        IpNet::V6(network) if network.addr().is_unicast_link_local() => None,
        network => Some(network),
    }
}

fn kind_name(kind: &InfoKind) -> String {
    kind.to_string()
}

/// Routes that would carry a pod's traffic elsewhere: unicast and more specific
/// than the default. Link-local and multicast ones are on every interface.
fn host_route(message: &RouteMessage) -> Option<HostRoute> {
    if message.header.kind != RouteType::Unicast || message.header.destination_prefix_length == 0 {
        return None;
    }
    let prefix = message.header.destination_prefix_length;
    let mut destination = None;
    let mut interface = None;
    let mut on_link = true;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(RouteAddress::Inet(address)) => {
                destination = Ipv4Net::new(*address, prefix).ok().map(IpNet::V4);
            }
            RouteAttribute::Destination(RouteAddress::Inet6(address)) => {
                destination = Ipv6Net::new(*address, prefix).ok().map(IpNet::V6);
            }
            RouteAttribute::Oif(index) => interface = Some(*index),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) | RouteAttribute::MultiPath(_) => {
                on_link = false;
            }
            _ => {}
        }
    }
    match destination? {
        IpNet::V6(network)
            if network.addr().is_unicast_link_local() || network.addr().is_multicast() =>
        {
            None
        }
        destination => Some(HostRoute {
            destination,
            interface,
            on_link,
        }),
    }
}

/// The system's error in what rtnetlink reports.
fn errno(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => {
            io::Error::from_raw_os_error(message.raw_code().saturating_neg())
        }
        other => io::Error::other(other),
    }
}
