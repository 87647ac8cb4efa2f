//! The pod network as the lifecycle uses it.

use std::os::fd::OwnedFd;

use async_trait::async_trait;
use bulkhead_net::{HostPort, Lease, Network, Reconciled};

use crate::error::Result;

/// What gives pods their network. See [`bulkhead_net::Network`], which is the one.
#[async_trait]
pub trait PodNetwork: Send + Sync {
    /// Decides what a pod gets; changes nothing outside.
    ///
    /// # Errors
    /// No address is free, or a port of the host is somebody else's.
    fn allocate(&self, pod_id: &str, ports: &[HostPort]) -> Result<Lease>;

    /// Makes the pod's tap.
    ///
    /// # Errors
    /// What the kernel refused.
    async fn tap(&self, lease: &Lease) -> Result<OwnedFd>;

    /// Makes the network namespace of a pod that runs on the host, with its interface.
    ///
    /// # Errors
    /// What the kernel refused.
    async fn netns(&self, lease: &Lease) -> Result<OwnedFd>;

    /// Lets the pod speak.
    ///
    /// # Errors
    /// What the kernel refused.
    async fn plumb(&self, lease: &Lease) -> Result<()>;

    /// Undoes all of the above, however far it came. Idempotent.
    ///
    /// # Errors
    /// What the kernel refused; can be repeated.
    async fn release(&self, lease: &Lease) -> Result<()>;

    /// Builds the network around the pods that live; removes what belongs to none.
    ///
    /// # Errors
    /// What keeps the network as a whole from standing.
    async fn reconcile(&self, live: &[Lease]) -> Result<Reconciled>;

    /// Whether pods can get a network now.
    ///
    /// # Errors
    /// Why not.
    async fn ready(&self) -> Result<()>;

    /// Changes the pools for new pods.
    ///
    /// # Errors
    /// The CIDR is unusable.
    async fn set_pod_cidr(&self, cidr: &str) -> Result<()>;
}

#[async_trait]
impl PodNetwork for Network {
    fn allocate(&self, pod_id: &str, ports: &[HostPort]) -> Result<Lease> {
        Ok(Network::allocate(self, pod_id, ports)?)
    }

    async fn tap(&self, lease: &Lease) -> Result<OwnedFd> {
        Ok(Network::tap(self, lease).await?)
    }

    async fn netns(&self, lease: &Lease) -> Result<OwnedFd> {
        Ok(Network::netns(self, lease).await?)
    }

    async fn plumb(&self, lease: &Lease) -> Result<()> {
        Ok(Network::plumb(self, lease).await?)
    }

    async fn release(&self, lease: &Lease) -> Result<()> {
        Ok(Network::release(self, lease).await?)
    }

    async fn reconcile(&self, live: &[Lease]) -> Result<Reconciled> {
        Ok(Network::reconcile(self, live).await?)
    }

    async fn ready(&self) -> Result<()> {
        Ok(Network::ready(self).await?)
    }

    async fn set_pod_cidr(&self, cidr: &str) -> Result<()> {
        Ok(Network::set_pod_cidr(self, cidr).await?)
    }
}
