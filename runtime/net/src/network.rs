//! The network of one node.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::{Mutex, MutexGuard, PoisonError};

use ipnet::IpNet;

use crate::book::{Book, collision, gateway, parse_pod_cidr};
use crate::config::NetworkConfig;
use crate::error::{NetError, Result};
use crate::lease::{Lease, MacAddr, is_tap_name};
use crate::link::{Links, is_tap};
use crate::nft::message::{Family, Kind, Request};
use crate::nft::{ruleset, socket};
use crate::pool::Pool;
use crate::ports::HostPort;
use crate::{netns, sysctl, tap};

/// The embedded network. All methods may be called at once from many tasks; they
/// need a tokio runtime and the network namespace that the pods' bridge lives in.
#[derive(Debug)]
pub struct Network {
    config: NetworkConfig,
    /// Who holds what: decisions only, never held across an await.
    book: Mutex<Book>,
    /// Held while rules, bridge or addresses change, so that a rebuild of the rules
    /// can't lose what a pod adds meanwhile. True once they stand.
    standing: tokio::sync::Mutex<bool>,
}

/// What [`Network::reconcile`] found.
#[derive(Debug, Default)]
pub struct Reconciled {
    /// Pods whose tap is gone: their VMM has died.
    pub without_tap: Vec<String>,
    /// Taps that were ours, belonged to no live pod, and were removed.
    pub removed_taps: Vec<String>,
    /// Leases that couldn't be honoured, with the reason; their pods can't be kept.
    pub refused: Vec<(String, NetError)>,
}

impl Network {
    /// Prepares a network without touching the kernel.
    ///
    /// # Errors
    /// [`NetError::Config`] if a setting is unusable.
    pub fn new(config: NetworkConfig) -> Result<Self> {
        config.validate()?;
        let mut ipv6_pool = config.ipv6_pool;
        if ipv6_pool.is_some() && !sysctl::has_ipv6() {
            if config.ipv4_pool.is_none() {
                return Err(NetError::Config {
                    key: "ipv4_pool",
                    value: "none".to_owned(),
                    wanted: "set: this kernel has no IPv6",
                });
            }
            tracing::warn!("this kernel has no IPv6: pods get IPv4 addresses only");
            ipv6_pool = None;
        }
        let book = Book::new(config.ipv4_pool, ipv6_pool);
        Ok(Self {
            config,
            book: Mutex::new(book),
            standing: tokio::sync::Mutex::new(false),
        })
    }

    /// Decides what a pod gets; a pod that holds a lease gets the same again.
    ///
    /// Nothing in the kernel changes. Record the lease before going on.
    ///
    /// # Errors
    /// [`NetError::PoolExhausted`], [`NetError::NoTapName`], [`NetError::PortTaken`] or
    /// [`NetError::PortInUse`]; then nothing is held.
    pub fn allocate(&self, pod_id: &str, ports: &[HostPort]) -> Result<Lease> {
        if let Some(port) = ports.iter().find(|port| port.is_in_use()) {
            return Err(NetError::PortInUse { port: *port });
        }
        self.book().allocate(pod_id, self.config.mtu, ports)
    }

    /// Makes the pod's tap and returns its descriptor, which is non-blocking and
    /// closes on exec.
    ///
    /// The tap goes away with the last descriptor. It is down until
    /// [`Network::plumb`]; writes to it fail with `EIO` until then.
    ///
    /// # Errors
    /// See [`NetError::TunDevice`] and [`NetError::TapExists`].
    pub async fn tap(&self, lease: &Lease) -> Result<OwnedFd> {
        let mut queues = self.tap_queues(lease, 1).await?;
        queues.pop().ok_or(NetError::NotSetUp)
    }

    /// Makes a network namespace for a pod that runs on the host, with one end of a
    /// veth pair in it that has the lease's MAC; the other end takes the tap's part.
    ///
    /// Both ends go away with the namespace: with its last process and descriptor.
    /// What is inside is down and has no address yet.
    ///
    /// # Errors
    /// See [`NetError::TapExists`]; else what the kernel refused.
    pub async fn netns(&self, lease: &Lease) -> Result<OwnedFd> {
        let netns = blocking("making a network namespace", netns::make).await?;
        let links = Links::open()?;
        links.make_veth(lease, netns.as_fd()).await?;
        let name = lease.tap.clone();
        blocking("silencing a veth", move || sysctl::silence_tap(&name)).await?;
        tracing::debug!(veth = %lease.tap, pod = %lease.pod_id, "network namespace created");
        Ok(netns)
    }

    /// The same as [`Network::tap`] for a network card of several queues: a descriptor
    /// each.
    ///
    /// # Errors
    /// As [`Network::tap`].
    pub async fn tap_queues(&self, lease: &Lease, queues: u16) -> Result<Vec<OwnedFd>> {
        let name = lease.tap.clone();
        let pod_id = lease.pod_id.clone();
        // Registering an interface waits for the kernel's rtnl lock.
        blocking("creating a tap", move || {
            let descriptors = tap::open(&name, queues.max(1))?;
            sysctl::silence_tap(&name)?;
            tracing::debug!(tap = %name, pod = %pod_id, queues, "tap created");
            Ok(descriptors)
        })
        .await
    }

    /// Lets the pod speak: packet filter, bridge, up. May be repeated.
    ///
    /// # Errors
    /// [`NetError::NotSetUp`] before [`Network::reconcile`], [`NetError::TapGone`] if
    /// the tap isn't there, else what the kernel refused.
    pub async fn plumb(&self, lease: &Lease) -> Result<()> {
        let standing = self.standing.lock().await;
        if !*standing {
            return Err(NetError::NotSetUp);
        }
        let bridge = self.config.bridge.clone();
        let batch = ruleset::admit(&bridge, lease);
        let has_ports = !lease.ports.is_empty();
        blocking("adding the pod to the packet filter", move || {
            socket::apply(&batch)?;
            if has_ports {
                sysctl::route_loopback(&bridge, true)?;
            }
            Ok(())
        })
        .await?;
        // The pod's own elements are in; others may change the rules again.
        drop(standing);
        let links = Links::open()?;
        let bridge = self.bridge_index(&links).await?;
        links.attach_tap(lease, bridge).await
    }

    /// Undoes [`Network::plumb`], [`Network::tap`] and [`Network::allocate`], however
    /// far they came. May be repeated; end the pod's VMM first.
    ///
    /// # Errors
    /// What the kernel refused; then the lease is still held and the call can be repeated.
    pub async fn release(&self, lease: &Lease) -> Result<()> {
        if self.is_anothers_tap(lease) {
            // A lease that was refused at start: the tap and its rules are another pod's.
            self.book().release(&lease.pod_id);
            return Ok(());
        }
        let links = Links::open()?;
        links.remove_tap(&lease.tap).await?;
        let standing = self.standing.lock().await;
        // Without tables, before the first reconcile, there is nothing to remove.
        if *standing {
            let own = self.book().without_ports_of_others(lease);
            let batch = ruleset::expel(&self.config.bridge, &own);
            blocking("removing the pod from the packet filter", move || {
                match socket::apply(&batch) {
                    // Somebody flushed our tables, and the pod's elements with them.
                    Err(error) if is_missing(&error) => Ok(()),
                    outcome => outcome,
                }
            })
            .await?;
        }
        self.book().release(&lease.pod_id);
        drop(standing);
        tracing::debug!(tap = %lease.tap, pod = %lease.pod_id, "network released");
        Ok(())
    }

    /// Builds the network at the daemon's start, around the pods that live.
    ///
    /// Leases that aren't in `live` are free afterwards, and taps on our bridge that
    /// belong to none of `live` are removed.
    ///
    /// # Errors
    /// What keeps the network as a whole from standing; [`Network::ready`] tries
    /// again. The leases are reserved even then.
    pub async fn reconcile(&self, live: &[Lease]) -> Result<Reconciled> {
        let mut standing = self.standing.lock().await;
        *standing = false;
        let mut reconciled = Reconciled {
            refused: self.book().adopt(live),
            ..Reconciled::default()
        };
        let (bridge, links) = self.build().await?;
        *standing = true;
        drop(standing);

        reconciled.without_tap = self.replumb(&links, bridge).await?;
        let kept: BTreeSet<String> = self.leases().into_iter().map(|lease| lease.tap).collect();
        for link in links.all().await? {
            let ours = link.bridge == Some(bridge) && is_tap(&link) && is_tap_name(&link.name);
            if ours && !kept.contains(&link.name) && links.remove_tap(&link.name).await? {
                tracing::info!(tap = %link.name, "removed a tap that belonged to no pod");
                reconciled.removed_taps.push(link.name);
            }
        }
        Ok(reconciled)
    }

    /// Whether pods can get a network now; mends what somebody else took down.
    ///
    /// Cheap enough for every `Status` call.
    ///
    /// # Errors
    /// The reason for the `NetworkReady` condition.
    pub async fn ready(&self) -> Result<()> {
        let mut standing = self.standing.lock().await;
        if *standing {
            match self.inspect().await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    tracing::warn!(%error, "the pod network was changed from outside: rebuilding it");
                }
            }
        }
        *standing = false;
        let (bridge, links) = self.build().await?;
        *standing = true;
        drop(standing);
        self.replumb(&links, bridge).await?;
        Ok(())
    }

    /// Changes the pools for new pods, as `UpdateRuntimeConfig` asks: one network in
    /// CIDR notation, or one of each family with a comma between.
    ///
    /// A family that isn't named has no pool afterwards: the cluster decides which
    /// there are. Pods that run keep their addresses, and the bridge keeps serving them.
    ///
    /// # Errors
    /// [`NetError::PodCidr`], [`NetError::PoolCollides`], or what the kernel refused;
    /// the pools are as before then.
    pub async fn set_pod_cidr(&self, cidr: &str) -> Result<()> {
        let (ipv4, ipv6) = parse_pod_cidr(cidr)?;
        if ipv6.is_some() && !sysctl::has_ipv6() {
            return Err(NetError::PodCidr {
                cidr: cidr.to_owned(),
                reason: "this kernel has no IPv6".to_owned(),
            });
        }
        let mut standing = self.standing.lock().await;
        let former = {
            let mut book = self.book();
            if book.has_pools(ipv4, ipv6) {
                return Ok(());
            }
            book.change_pools(ipv4, ipv6)
        };
        if !*standing {
            return Ok(());
        }
        match self.build().await {
            Ok(_) => {
                tracing::info!(cidr, "pod address pools changed");
                Ok(())
            }
            Err(error) => {
                self.book().restore_pools(former);
                // What was built halfway is put right by `ready`.
                *standing = false;
                Err(error)
            }
        }
    }

    /// The networks that pods' addresses come from now.
    #[must_use]
    pub fn pools(&self) -> Vec<IpNet> {
        self.book().pools().map(Pool::network).collect()
    }

    /// Removes what outlives the pods: bridge and packet filter. For tests and for
    /// taking a node out of service; pods lose their network.
    ///
    /// # Errors
    /// What the kernel refused.
    pub async fn dismantle(&self) -> Result<()> {
        let mut standing = self.standing.lock().await;
        *standing = false;
        let links = Links::open()?;
        links.remove_bridge(&self.config.bridge).await?;
        let batch = ruleset::remove(&self.config.bridge);
        blocking("removing the packet filter", move || socket::apply(&batch)).await
    }

    /// Makes sysctls, bridge, addresses and rules as the book says, whatever is there.
    async fn build(&self) -> Result<(u32, Links)> {
        let links = Links::open()?;
        let (pools, networks, leases) = {
            let book = self.book();
            let pools: Vec<IpNet> = book.pools().map(Pool::network).collect();
            (
                pools,
                book.networks(),
                book.leases().cloned().collect::<Vec<_>>(),
            )
        };
        let ipv6 = networks
            .iter()
            .any(|network| matches!(network, IpNet::V6(_)));
        self.refuse_collisions(&links, &pools, ipv6).await?;

        let bridge = self.config.bridge.clone();
        let mac = MacAddr::for_bridge(&bridge);
        let index = links.ensure_bridge(&bridge, mac, self.config.mtu).await?;
        let batch = ruleset::rebuild(&bridge, &networks, self.config.masquerade, &leases);
        let has_ports = leases.iter().any(|lease| !lease.ports.is_empty());
        blocking("setting up the packet filter", move || {
            sysctl::prepare_bridge(&bridge, ipv6)?;
            sysctl::forward_ipv4()?;
            if ipv6 {
                sysctl::forward_ipv6()?;
            }
            socket::apply(&batch)?;
            // Only now that the rules stand which keep pods from using it.
            sysctl::route_loopback(&bridge, has_ports)
        })
        .await?;
        for network in &networks {
            links.ensure_address(index, gateway(*network)).await?;
        }
        self.drop_old_gateways(&links, index, &networks).await?;
        Ok((index, links))
    }

    /// Takes gateway addresses of pools that nobody uses any more from the bridge.
    async fn drop_old_gateways(&self, links: &Links, bridge: u32, keep: &[IpNet]) -> Result<()> {
        for address in links.addresses(bridge).await? {
            if !keep.iter().any(|network| gateway(*network) == address) {
                links.drop_address(bridge, address).await?;
            }
        }
        Ok(())
    }

    async fn refuse_collisions(&self, links: &Links, pools: &[IpNet], ipv6: bool) -> Result<()> {
        let own = links
            .find(&self.config.bridge)
            .await?
            .map(|link| link.index);
        let routes = links.routes(ipv6).await?;
        let Some((pool, route)) = collision(pools, &routes, own) else {
            return Ok(());
        };
        let interface = match route.interface {
            Some(index) => links
                .all()
                .await?
                .into_iter()
                .find(|link| link.index == index)
                .map_or_else(|| format!("interface {index}"), |link| link.name),
            None => "several interfaces".to_owned(),
        };
        Err(NetError::PoolCollides {
            pool: pool.to_string(),
            route: route.destination.to_string(),
            interface,
        })
    }

    /// Checks that what [`Network::build`] made still stands.
    async fn inspect(&self) -> Result<()> {
        let links = Links::open()?;
        let bridge = links.find(&self.config.bridge).await?;
        if !bridge.is_some_and(|link| link.kind == "bridge" && link.up) {
            return Err(NetError::Netlink {
                attempted: format!("find bridge {} up", self.config.bridge),
                source: io::ErrorKind::NotFound.into(),
            });
        }
        let name = self.config.bridge.clone();
        let ipv6 = self.pools().iter().any(|pool| matches!(pool, IpNet::V6(_)));
        blocking("looking at the packet filter", move || {
            for family in [Family::Bridge, Family::Inet] {
                let question = Request::get(Kind::GetTable, family, |table| {
                    table.text(1, &name);
                });
                socket::ask(&question, |_| {}).map_err(|source| NetError::Nftables {
                    attempted: format!("find table {name}"),
                    source,
                })?;
            }
            if !sysctl::forwards(false) || (ipv6 && !sysctl::forwards(true)) {
                return Err(NetError::Sysctl {
                    path: "ip forwarding".to_owned(),
                    value: "1".to_owned(),
                    source: io::Error::other("it was switched off"),
                });
            }
            Ok(())
        })
        .await
    }

    /// Puts all taps that exist back on the bridge; returns the pods without one.
    async fn replumb(&self, links: &Links, bridge: u32) -> Result<Vec<String>> {
        let mut without_tap = Vec::new();
        for lease in self.leases() {
            match links.attach_tap(&lease, bridge).await {
                Ok(()) => {}
                Err(NetError::TapGone { .. } | NetError::TapExists { .. }) => {
                    without_tap.push(lease.pod_id);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(without_tap)
    }

    async fn bridge_index(&self, links: &Links) -> Result<u32> {
        let link = links.find(&self.config.bridge).await?;
        link.map(|link| link.index).ok_or(NetError::NotSetUp)
    }

    fn is_anothers_tap(&self, lease: &Lease) -> bool {
        self.book()
            .leases()
            .any(|other| other.pod_id != lease.pod_id && other.tap == lease.tap)
    }

    fn leases(&self) -> Vec<Lease> {
        self.book().leases().cloned().collect()
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        // Decisions are single steps: a panic elsewhere can't leave half of one behind.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether the kernel refused because the table isn't there.
fn is_missing(error: &NetError) -> bool {
    matches!(error, NetError::Nftables { source, .. }
        if source.raw_os_error() == Some(libc::ENOENT))
}

async fn blocking<T: Send + 'static>(
    attempted: &'static str,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or(Err(NetError::Interrupted { attempted }))
}
