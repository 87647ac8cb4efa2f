//! A network of addresses and nothing else.

use std::{
    collections::BTreeMap,
    net::Ipv4Addr,
    os::fd::OwnedFd,
    sync::{Arc, Mutex, PoisonError},
};

use async_trait::async_trait;
use bulkhead_net::{HostPort, Lease, MacAddr, Reconciled};

use super::world::{Hand, World};
use crate::{
    error::{Error, Result},
    pods::network::PodNetwork,
};

/// A [`PodNetwork`] whose taps are entries in the world.
pub struct FakeNetwork {
    world: Hand,
    leases: Mutex<BTreeMap<String, Lease>>,
}

impl FakeNetwork {
    /// A network in `world`, nothing leased.
    #[must_use]
    pub fn new(world: Arc<World>) -> Self {
        Self {
            world: Hand::new(world),
            leases: Mutex::default(),
        }
    }

    /// Pods that hold a lease.
    #[must_use]
    pub fn leased(&self) -> Vec<String> {
        self.lock().keys().cloned().collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Lease>> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn point(&self, name: &str, may_fail: bool) -> Result<()> {
        self.world
            .point(name, may_fail)
            .await
            .map_err(Error::internal)
    }
}

#[async_trait]
impl PodNetwork for FakeNetwork {
    fn allocate(&self, pod_id: &str, ports: &[HostPort]) -> Result<Lease> {
        let mut leases = self.lock();
        let taken = |address: Ipv4Addr| {
            leases
                .values()
                .any(|lease| lease.ips().any(|ip| ip == address))
        };
        let address = (2..=u16::MAX)
            .map(|host| {
                let [high, low] = host.to_be_bytes();
                Ipv4Addr::new(10, 1, high, low)
            })
            .find(|address| !taken(*address))
            .ok_or_else(|| Error::new(crate::Kind::ResourceExhausted, "no address is free"))?;
        let lease = Lease {
            pod_id: pod_id.to_owned(),
            tap: format!("bh{}", &pod_id[..8.min(pod_id.len())]),
            mac: MacAddr::for_ipv4(address),
            addresses: format!("{address}/16").parse().into_iter().collect(),
            routes: Vec::new(),
            mtu: 1500,
            ports: ports.to_vec(),
        };
        leases.insert(pod_id.to_owned(), lease.clone());
        Ok(lease)
    }

    async fn tap(&self, lease: &Lease) -> Result<OwnedFd> {
        self.point("tap", true).await?;
        self.world.lock().taps.insert(lease.pod_id.clone());
        self.point("tap done", false).await?;
        let file = std::fs::File::open("/dev/null").map_err(|e| Error::internal(e.to_string()))?;
        Ok(file.into())
    }

    async fn netns(&self, lease: &Lease) -> Result<OwnedFd> {
        self.tap(lease).await
    }

    async fn plumb(&self, lease: &Lease) -> Result<()> {
        let _ = lease;
        self.point("plumb", true).await
    }

    async fn release(&self, lease: &Lease) -> Result<()> {
        self.point("release", true).await?;
        {
            let mut state = self.world.lock();
            if state.vms.contains_key(&lease.pod_id) {
                return Err(Error::internal("released under a running VM"));
            }
            state.taps.remove(&lease.pod_id);
        }
        self.lock().remove(&lease.pod_id);
        self.point("release done", false).await
    }

    async fn reconcile(&self, live: &[Lease]) -> Result<Reconciled> {
        self.point("reconcile network", false).await?;
        *self.lock() = live
            .iter()
            .map(|it| (it.pod_id.clone(), it.clone()))
            .collect();
        let mut state = self.world.lock();
        let known = |pod: &String| live.iter().any(|lease| lease.pod_id == *pod);
        let removed_taps = state
            .taps
            .iter()
            .filter(|pod| !known(pod))
            .cloned()
            .collect();
        let without_tap = live
            .iter()
            .map(|lease| lease.pod_id.clone())
            .filter(|pod| !state.taps.contains(pod))
            .collect();
        state.taps.retain(known);
        Ok(Reconciled {
            without_tap,
            removed_taps,
            refused: Vec::new(),
        })
    }

    async fn ready(&self) -> Result<()> {
        Ok(())
    }

    async fn set_pod_cidr(&self, cidr: &str) -> Result<()> {
        match cidr.parse::<ipnet::IpNet>() {
            // This machine's own network, let us say.
            Ok(it) if it.to_string() == "10.66.0.0/16" => Err(Error::precondition(
                "pool 10.66.0.0/16 collides with a route",
            )),
            Ok(_) => Ok(()),
            Err(error) => Err(Error::invalid(format!("pod CIDR {cidr:?}: {error}"))),
        }
    }
}
