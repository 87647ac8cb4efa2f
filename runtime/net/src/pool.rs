//! Address pools: which addresses of a network are leased.
//!
//! ```text
//! offset  0        1        2 … last                       end
//!         network  gateway  leased to pods, next-fit        broadcast (IPv4)
//! ```
//!
//! An address that was just given back is the last to be leased again, so that
//! connections and caches of its former holder have time to die.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::error::{NetError, Result};

/// Offset of the bridge's own address.
const GATEWAY: u32 = 1;
/// Offset of the first address that pods may have.
const FIRST: u32 = 2;

/// The addresses of one network, by their offset from its start.
#[derive(Debug, Clone)]
pub(crate) struct Pool {
    network: IpNet,
    /// Highest offset that may be leased. IPv6 pools are used up to the 32nd bit.
    last: u32,
    leased: BTreeSet<u32>,
    /// Where the next search begins.
    next: u32,
}

impl Pool {
    /// An IPv4 pool; the prefix has been checked to be at most 30.
    pub(crate) fn ipv4(network: Ipv4Net) -> Self {
        let host_bits = 32 - u32::from(network.prefix_len());
        // All ones is the broadcast address.
        let last = low_bits(host_bits).saturating_sub(1);
        Self::new(IpNet::V4(network.trunc()), last)
    }

    /// An IPv6 pool; the prefix has been checked to be at most 126.
    pub(crate) fn ipv6(network: Ipv6Net) -> Self {
        let host_bits = 128 - u32::from(network.prefix_len());
        Self::new(IpNet::V6(network.trunc()), low_bits(host_bits.min(32)))
    }

    fn new(network: IpNet, last: u32) -> Self {
        Self {
            network,
            last,
            leased: BTreeSet::new(),
            next: FIRST,
        }
    }

    /// The network that the pool leases from.
    pub(crate) fn network(&self) -> IpNet {
        self.network
    }

    /// The bridge's address in it, with the network's prefix.
    pub(crate) fn gateway(&self) -> IpNet {
        self.at(GATEWAY)
    }

    /// Leases an address.
    ///
    /// # Errors
    /// [`NetError::PoolExhausted`] if all are taken.
    pub(crate) fn allocate(&mut self) -> Result<IpNet> {
        let free = first_gap(&self.leased, self.next, self.last)
            .or_else(|| first_gap(&self.leased, FIRST, self.last));
        let Some(offset) = free else {
            return Err(NetError::PoolExhausted {
                pool: self.network.to_string(),
                in_use: u64::try_from(self.leased.len()).unwrap_or(u64::MAX),
                capacity: self.capacity(),
            });
        };
        self.leased.insert(offset);
        self.next = if offset >= self.last {
            FIRST
        } else {
            offset + 1
        };
        Ok(self.at(offset))
    }

    /// Marks an address as leased; `false` if it already was, or isn't the pool's.
    pub(crate) fn reserve(&mut self, address: IpAddr) -> bool {
        match self.offset(address) {
            Some(offset) if (FIRST..=self.last).contains(&offset) => {
                // Addresses in use before a restart are behind the cursor after it.
                if offset >= self.next {
                    self.next = if offset >= self.last {
                        FIRST
                    } else {
                        offset + 1
                    };
                }
                self.leased.insert(offset)
            }
            _ => false,
        }
    }

    /// Gives an address back; foreign and free addresses are ignored.
    pub(crate) fn release(&mut self, address: IpAddr) {
        if let Some(offset) = self.offset(address) {
            self.leased.remove(&offset);
        }
    }

    /// How many pods it can serve.
    fn capacity(&self) -> u64 {
        u64::from(self.last) - u64::from(FIRST) + 1
    }

    fn at(&self, offset: u32) -> IpNet {
        match self.network {
            IpNet::V4(network) => {
                let address = Ipv4Addr::from(u32::from(network.network()) | offset);
                IpNet::V4(Ipv4Net::new_assert(address, network.prefix_len()))
            }
            IpNet::V6(network) => {
                let address = Ipv6Addr::from(u128::from(network.network()) | u128::from(offset));
                IpNet::V6(Ipv6Net::new_assert(address, network.prefix_len()))
            }
        }
    }

    fn offset(&self, address: IpAddr) -> Option<u32> {
        match (self.network, address) {
            (IpNet::V4(network), IpAddr::V4(address)) if network.contains(&address) => {
                Some(u32::from(address) - u32::from(network.network()))
            }
            (IpNet::V6(network), IpAddr::V6(address)) if network.contains(&address) => {
                u32::try_from(u128::from(address) - u128::from(network.network())).ok()
            }
            _ => None,
        }
    }
}

/// A number whose `bits` lowest bits are set.
fn low_bits(bits: u32) -> u32 {
    if bits >= 32 {
        u32::MAX
    } else {
        (1 << bits) - 1
    }
}

/// The lowest number in `from..=last` that isn't in `taken`.
fn first_gap(taken: &BTreeSet<u32>, from: u32, last: u32) -> Option<u32> {
    if from > last {
        return None;
    }
    let mut candidate = from;
    for &offset in taken.range(from..=last) {
        if offset > candidate {
            break;
        }
        if candidate == last {
            return None;
        }
        candidate = offset + 1;
    }
    Some(candidate)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ipv4(network: &str) -> Pool {
        Pool::ipv4(network.parse().unwrap())
    }

    fn allocate(pool: &mut Pool) -> String {
        pool.allocate().unwrap().to_string()
    }

    #[test]
    fn leases_skip_network_gateway_and_broadcast() {
        let mut pool = ipv4("10.1.2.0/29");
        assert_eq!(pool.gateway().to_string(), "10.1.2.1/29");
        let leased: Vec<_> = (0..5).map(|_| allocate(&mut pool)).collect();
        assert_eq!(
            leased,
            [
                "10.1.2.2/29",
                "10.1.2.3/29",
                "10.1.2.4/29",
                "10.1.2.5/29",
                "10.1.2.6/29"
            ]
        );
        match pool.allocate() {
            Err(NetError::PoolExhausted {
                pool,
                in_use,
                capacity,
            }) => {
                assert_eq!((pool.as_str(), in_use, capacity), ("10.1.2.0/29", 5, 5));
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_released_address_is_leased_again_last() {
        let mut pool = ipv4("10.1.2.0/29");
        let first = pool.allocate().unwrap();
        allocate(&mut pool);
        pool.release(first.addr());
        assert_eq!(allocate(&mut pool), "10.1.2.4/29");
        assert_eq!(allocate(&mut pool), "10.1.2.5/29");
        assert_eq!(allocate(&mut pool), "10.1.2.6/29");
        assert_eq!(allocate(&mut pool), "10.1.2.2/29");
        assert!(pool.allocate().is_err());
    }

    #[test]
    fn the_smallest_pool_serves_one_pod() {
        let mut pool = ipv4("10.0.0.0/30");
        assert_eq!(allocate(&mut pool), "10.0.0.2/30");
        assert!(pool.allocate().is_err());
    }

    #[test]
    fn ipv6_pools_use_their_low_bits() {
        let mut pool = Pool::ipv6("fd00::/64".parse().unwrap());
        assert_eq!(pool.gateway().to_string(), "fd00::1/64");
        assert_eq!(allocate(&mut pool), "fd00::2/64");
        assert!(pool.reserve("fd00::ffff:ffff".parse().unwrap()));
        assert!(!pool.reserve("fd00::1:0:0".parse().unwrap()));
        assert_eq!(allocate(&mut pool), "fd00::3/64");
    }

    #[test]
    fn reserving_is_exclusive_and_bounded() {
        let mut pool = ipv4("10.1.2.0/24");
        assert!(pool.reserve("10.1.2.2".parse().unwrap()));
        assert!(!pool.reserve("10.1.2.2".parse().unwrap()));
        for foreign in ["10.1.2.0", "10.1.2.1", "10.1.2.255", "10.1.3.2", "fd00::2"] {
            assert!(!pool.reserve(foreign.parse().unwrap()), "{foreign}");
        }
        assert_eq!(allocate(&mut pool), "10.1.2.3/24");
    }

    proptest! {
        #[test]
        fn no_address_is_leased_twice(steps in prop::collection::vec(any::<Option<u8>>(), 1..200)) {
            let mut pool = ipv4("10.0.0.0/26");
            let mut held: Vec<IpNet> = Vec::new();
            for step in steps {
                match step {
                    None => match pool.allocate() {
                        Ok(address) => {
                            prop_assert!(!held.contains(&address));
                            prop_assert!(address.addr() != pool.gateway().addr());
                            held.push(address);
                        }
                        Err(_) => prop_assert_eq!(held.len(), 61),
                    },
                    Some(index) if !held.is_empty() => {
                        let address = held.swap_remove(usize::from(index) % held.len());
                        pool.release(address.addr());
                    }
                    Some(_) => {}
                }
            }
        }
    }
}
