//! The network that the cluster gives this node's pods.
//!
//! kubelet sends it with UpdateRuntimeConfig once the cluster has assigned it, and
//! leaves the node without one for as long as that call fails. A network that this
//! machine can't use (it collides with a route, the kernel has no IPv6) is therefore
//! no error of the call: pods go on getting addresses from the pools there are, the
//! log says why, and so does verbose Status.

use std::sync::PoisonError;

use ipnet::IpNet;

use super::Pods;
use crate::{
    error::{Error, Result},
    store::{Change, Setting},
};

/// Most networks in one CIDR: one a family, and room for a mistake worth explaining.
const NETWORKS_MAX: usize = 8;

impl Pods {
    /// Remembers and applies the pod CIDR that the cluster assigned, or notes why it
    /// can't be used here.
    ///
    /// # Errors
    /// It is no CIDR, or can't be written down.
    pub async fn set_pod_cidr(&self, cidr: &str) -> Result<()> {
        check(cidr)?;
        let taken = self.inner.network.set_pod_cidr(cidr).await;
        let refused = taken.as_ref().err().map(ToString::to_string);
        if let Some(why) = &refused {
            tracing::error!(
                cidr,
                %why,
                "the pod CIDR can't be used; pods get addresses from network.ipv4_pool and \
                 network.ipv6_pool as before"
            );
        }
        *self
            .inner
            .refused_cidr
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = refused;
        if taken.is_ok() {
            let change = Change::PutSetting(Setting::PodCidr, cidr.to_owned());
            self.inner.records.commit(vec![change]).await?;
        }
        Ok(())
    }

    /// Why the pod CIDR that was sent last is not used.
    #[must_use]
    pub fn refused_pod_cidr(&self) -> Option<String> {
        self.inner
            .refused_cidr
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }
}

/// Whether it is a list of networks at all.
fn check(cidr: &str) -> Result<()> {
    let parts: Vec<_> = cidr.split(',').take(NETWORKS_MAX + 1).collect();
    let is_network = |part: &&str| part.trim().parse::<IpNet>().is_ok();
    if parts.len() <= NETWORKS_MAX && parts.iter().all(is_network) {
        return Ok(());
    }
    let shown: String = cidr.chars().take(64).collect();
    Err(Error::invalid(format!(
        "pod CIDR {shown:?}: write a network such as 10.244.1.0/24, or one of each family with a \
         comma between"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_are_told_from_noise() {
        for good in ["10.244.1.0/24", "10.244.1.0/24, fd00::/64"] {
            check(good).unwrap();
        }
        for bad in [
            "",
            "10.0.0.0",
            "10.0.0.0/99",
            "10.0.0.0/8,,",
            &"10.0.0.0/8,".repeat(9),
        ] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }
}
